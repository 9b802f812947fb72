//! Results of measurements: their files, tables and pictures.
//!
//! Three kinds of file are written by what measures, and read by `sandrail report`:
//!
//! - JSON ([`Comparison`], [`Run`]), with a `kind` and a `version` ([`write_comparison`], [`write_run`], [`read_result`]);
//! - interval logs, `.hlog` ([`LogWriter`], [`read_log`]): a histogram of latencies for each interval and operation, in
//!   the format of HdrHistogram, which other tools read, too;
//! - percentile files, `.hgrm` ([`write_percentiles`], [`read_percentiles`]), in the format of HistogramLogProcessor.
//!
//! Whoever records a load keeps a [`latency_histogram`] for each operation, records nanoseconds, and at the end of each
//! interval hands it to a [`LogWriter`] and clears it; [`Summary::of`] the sum of them goes into the [`Run`].
//!
//! Whoever reads them loads a [`Collection`](collection::Collection) and shows it as [text](terminal::text), as a
//! [page](page::html), as one [picture](page::svg) or [for scripts](scripts::value). All of them take their words from
//! [`tables`] and [`number`], so they agree to the digit.
//!
//! All latencies are in nanoseconds. A file that does not hold what it should is refused with its name and a line
//! ([`FileError`]); nothing that is read makes this crate panic, or allocate more than some multiple of the file's size.

pub mod collection;
mod decode;
pub mod draw;
mod error;
mod file;
mod hgrm;
mod hlog;
mod latency;
mod machine;
pub mod number;
pub mod page;
pub mod plot;
mod result;
pub mod scripts;
mod spread;
pub mod table;
pub mod tables;
pub mod terminal;

pub use error::{FileError, Problem};
pub use file::{Results, parse_result, read_result, write_comparison, write_run};
pub use hdrhistogram::Histogram;
pub use hgrm::{parse_percentiles, read_percentiles, write_percentiles};
pub use hlog::{Interval, Log, LogWriter, parse_log, read_log};
pub use latency::{Counts, Summary, latency_histogram};
pub use machine::Machine;
pub use result::{ClassSummary, Comparison, Cost, OpClass, Row, Run, Tick};
pub use spread::{Spread, ratios};
