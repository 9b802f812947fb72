//! Disks against a plain model, and against what files, devices and locks do in earnest.
#![allow(
    unsafe_code,
    reason = "mount namespaces and limits have no safe form in the standard library"
)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "numbers of a test are small"
)]

mod cached;
mod devices;
mod driver;
mod faults;
mod files;
mod killed;
mod oracle;
mod places;
mod trim;
