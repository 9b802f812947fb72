//! Results as a table and as JSON.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use crate::machine::Machine;
use crate::pairs::{Spread, ratios};

/// One contender's samples of one metric.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was measured, of whom.
    pub metric: String,
    /// Its unit.
    pub unit: String,
    /// The least sample.
    pub min: f64,
    /// The middle one.
    pub median: f64,
    /// The greatest.
    pub max: f64,
    /// Whom it is compared with; `None` for the rival itself.
    pub versus: Option<String>,
    /// The least ratio within a round.
    pub ratio_min: Option<f64>,
    /// The middle one.
    pub ratio_median: Option<f64>,
    /// The greatest.
    pub ratio_max: Option<f64>,
    /// All ratios, for the picture.
    #[serde(skip)]
    pub ratios: Vec<f64>,
}

impl Row {
    /// A rival's row.
    ///
    /// # Panics
    /// Without samples.
    #[must_use]
    pub fn rival(metric: impl Into<String>, unit: &str, samples: &[f64]) -> Self {
        let Spread { min, median, max } = Spread::of(samples).expect("rounds were run");
        Self {
            metric: metric.into(),
            unit: unit.to_owned(),
            min,
            median,
            max,
            versus: None,
            ratio_min: None,
            ratio_median: None,
            ratio_max: None,
            ratios: Vec::new(),
        }
    }

    /// A row compared round by round with its rival's.
    ///
    /// # Panics
    /// Without samples, or without as many of the rival.
    #[must_use]
    pub fn versus(
        metric: impl Into<String>,
        unit: &str,
        samples: &[f64],
        versus: &str,
        rival: &[f64],
    ) -> Self {
        let all = ratios(samples, rival);
        let ratio = Spread::of(&all).expect("rounds were run");
        Self {
            versus: Some(versus.to_owned()),
            ratio_min: Some(ratio.min),
            ratio_median: Some(ratio.median),
            ratio_max: Some(ratio.max),
            ratios: all,
            ..Self::rival(metric, unit, samples)
        }
    }
}

/// A benchmark's result with all that it depends on.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was compared.
    pub title: String,
    /// Where.
    #[serde(flatten)]
    pub machine: Machine,
    /// How frames travelled, as the links tell.
    pub link_mode: String,
    /// MTU, in bytes.
    pub mtu_bytes: u32,
    /// Which thread ran where.
    pub pinning: String,
    /// What else must be known of it.
    pub conditions: String,
    /// Rounds, each with one sample of every contender.
    pub samples: usize,
    /// Length of each sample, in milliseconds.
    pub sample_ms: u64,
    /// The ratio that is to be reached, if any.
    pub goal: Option<f64>,
    /// The results.
    pub rows: Vec<Row>,
}

impl Report {
    /// The lines that say what the numbers belong to.
    #[must_use]
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        vec![
            (
                "machine",
                format!("{}; {}", self.machine.machine, self.machine.cpu),
            ),
            ("kernel", self.machine.kernel.clone()),
            (
                "links",
                format!("{}; veth, MTU {}", self.link_mode, self.mtu_bytes),
            ),
            ("pinning", self.pinning.clone()),
            ("scheduling", self.machine.scheduling_class.clone()),
            ("conditions", self.conditions.clone()),
            (
                "samples",
                format!(
                    "{} interleaved rounds of {} ms each",
                    self.samples, self.sample_ms
                ),
            ),
        ]
    }

    /// As text.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!("{}\n", self.title);
        for (name, value) in self.facts() {
            let _ = writeln!(text, "  {name:<11}{value}");
        }
        let wide = self
            .rows
            .iter()
            .map(|row| row.metric.len())
            .max()
            .unwrap_or(0);
        let _ = writeln!(
            text,
            "\n{:wide$}  {:>9} {:>9} {:>9}  {:>20}",
            "", "min", "median", "max", "ratio min/median/max"
        );
        for row in &self.rows {
            let _ = write!(
                text,
                "{:wide$}  {:>9.0} {:>9.0} {:>9.0}",
                row.metric, row.min, row.median, row.max
            );
            if let (Some(min), Some(median), Some(max)) =
                (row.ratio_min, row.ratio_median, row.ratio_max)
            {
                let _ = write!(text, "  {min:>6.2} {median:>6.2} {max:>6.2}");
            }
            let _ = writeln!(text, "  {}", row.unit);
        }
        text
    }

    /// Writes `NAME.json` and `NAME.html` into a directory, which is made.
    ///
    /// # Errors
    /// A file can't be written.
    pub fn write(&self, directory: &Path, name: &str) -> anyhow::Result<()> {
        fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
        let json = directory.join(format!("{name}.json"));
        fs::write(&json, serde_json::to_string_pretty(self)? + "\n")
            .with_context(|| format!("write {}", json.display()))?;
        let html = directory.join(format!("{name}.html"));
        fs::write(&html, crate::picture::page(self))
            .with_context(|| format!("write {}", html.display()))?;
        eprintln!("written: {} and {}", json.display(), html.display());
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn example() -> Report {
        Report {
            title: "one <against> another".to_owned(),
            machine: Machine::this(),
            link_mode: "memory".to_owned(),
            mtu_bytes: 9000,
            pinning: "none".to_owned(),
            conditions: "none".to_owned(),
            samples: 2,
            sample_ms: 1,
            goal: Some(0.9),
            rows: vec![
                Row::rival("depth 1: rival", "I/O/s", &[10.0, 20.0]),
                Row::versus(
                    "depth 1: ours",
                    "I/O/s",
                    &[9.0, 19.0],
                    "rival",
                    &[10.0, 20.0],
                ),
            ],
        }
    }

    #[test]
    fn the_json_names_what_it_depends_on() {
        let json = serde_json::to_value(example()).unwrap();
        for key in [
            "machine",
            "cpu",
            "kernel",
            "link_mode",
            "mtu_bytes",
            "pinning",
            "scheduling_class",
        ] {
            assert!(json.get(key).is_some(), "{key}");
        }
        let row = &json["rows"][1];
        assert_eq!(row["versus"], "rival");
        let ratio = row["ratio_median"].as_f64().unwrap();
        assert!((ratio - 0.925).abs() < 1e-9, "{ratio}");
        assert!(json["rows"][0]["ratio_median"].is_null());
    }

    #[test]
    fn the_table_has_a_line_a_row() {
        let table = example().table();
        assert!(table.contains("depth 1: ours"), "{table}");
        assert!(
            table.contains("0.90   0.93   0.95") || table.contains("0.90   0.92   0.95"),
            "{table}"
        );
    }
}
