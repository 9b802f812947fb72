//! Comparisons as tables, and where their files go.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context;
use sandrail_report::{Comparison, Row, write_comparison};

/// As text: what it depends on, then a line a row.
#[must_use]
pub fn table(comparison: &Comparison) -> String {
    let mut text = format!("{}\n", comparison.title);
    for (name, value) in comparison.facts() {
        let _ = writeln!(text, "  {name:<11}{value}");
    }
    let rows = &comparison.rows;
    let wide = rows.iter().map(|row| row.metric.len()).max().unwrap_or(0);
    let _ = writeln!(
        text,
        "\n{:wide$}  {:>9} {:>9} {:>9}  {:>20}",
        "", "min", "median", "max", "ratio min/median/max"
    );
    for row in rows {
        let _ = write!(
            text,
            "{:wide$}  {:>9} {:>9} {:>9}",
            row.metric,
            figure(row.min),
            figure(row.median),
            figure(row.max)
        );
        match row.ratio() {
            Some(ratio) => {
                let _ = write!(
                    text,
                    "  {:>6.2} {:>6.2} {:>6.2}",
                    ratio.min, ratio.median, ratio.max
                );
            }
            None => text.push_str("                      "),
        }
        let _ = write!(text, "  {}", row.unit);
        if let Some(versus) = &row.versus {
            let _ = write!(text, ", to {versus}");
        }
        match verdict(comparison, row) {
            Some((goal, true)) => {
                let _ = writeln!(text, "; goal {goal}: met");
            }
            Some((goal, false)) => {
                let _ = writeln!(text, "; goal {goal}: NOT met");
            }
            None => text.push('\n'),
        }
    }
    text
}

/// What a row was to reach, and whether its median did; `None` where nothing was asked.
#[must_use]
pub fn verdict(comparison: &Comparison, row: &Row) -> Option<(f64, bool)> {
    let goal = comparison.goal_of(row)?;
    // A row that could not be compared has not reached it.
    let met = row.ratio_median.is_some_and(|ratio| ratio >= goal);
    Some((goal, met))
}

/// The rows whose goals were not met, in words.
#[must_use]
pub fn unmet(comparison: &Comparison) -> Vec<String> {
    let rows = comparison.rows.iter();
    rows.filter_map(|row| match verdict(comparison, row)? {
        (_, true) => None,
        (goal, false) => Some(format!(
            "{} to {}: {:.2} of {goal}",
            row.metric,
            row.versus.as_deref().unwrap_or("?"),
            row.ratio_median.unwrap_or(0.0)
        )),
    })
    .collect()
}

/// Whole numbers where they are large, digits where they are small.
fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

/// Writes `NAME.json` and `NAME.html` into a directory, which is made.
///
/// # Errors
/// A file can't be written.
pub fn write(comparison: &Comparison, directory: &Path, name: &str) -> anyhow::Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    let json = directory.join(format!("{name}.json"));
    write_comparison(&json, comparison)?;
    let html = directory.join(format!("{name}.html"));
    fs::write(&html, crate::picture::page(comparison))
        .with_context(|| format!("write {}", html.display()))?;
    eprintln!("written: {} and {}", json.display(), html.display());
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use sandrail_report::{Machine, Results, read_result};

    pub(crate) fn example() -> Comparison {
        let ours = Row::versus(
            "depth 1: ours",
            "I/O/s",
            &[9.0, 19.0],
            "rival",
            &[10.0, 20.0],
        );
        Comparison {
            title: "one <against> another".to_owned(),
            machine: Machine::this(),
            link_mode: "memory".to_owned(),
            mtu_bytes: 9000,
            pinning: "none".to_owned(),
            conditions: "none".to_owned(),
            samples: 2,
            sample_ms: 1,
            goal: None,
            rows: vec![
                Row::rival("depth 1: rival", "I/O/s", &[10.0, 20.0]),
                Row {
                    goal: Some(0.9),
                    ..ours.clone()
                },
                Row {
                    goal: Some(0.95),
                    ..ours
                },
            ],
        }
    }

    #[test]
    fn the_files_name_what_they_depend_on() {
        let directory = std::env::temp_dir().join(format!("srbench-{}", std::process::id()));
        write(&example(), &directory, "example").unwrap();
        let path = directory.join("example.json");
        let json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        for key in [
            "machine",
            "cpu",
            "kernel",
            "link_mode",
            "mtu_bytes",
            "pinning",
            "scheduling_class",
            "samples",
        ] {
            assert!(json.get(key).is_some(), "{key}");
        }
        let row = &json["rows"][1];
        for key in [
            "metric",
            "unit",
            "min",
            "median",
            "max",
            "ratio_min",
            "ratio_max",
        ] {
            assert!(row.get(key).is_some_and(|value| !value.is_null()), "{key}");
        }
        assert_eq!(row["versus"], "rival");
        let ratio = row["ratio_median"].as_f64().unwrap();
        assert!((ratio - 0.925).abs() < 1e-9, "{ratio}");
        assert!(json["rows"][0]["ratio_median"].is_null());
        assert!(matches!(
            read_result(&path).unwrap(),
            Results::Comparison(read) if read.rows.len() == 3
        ));
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn the_table_has_a_line_a_row_and_tells_what_was_reached() {
        let table = table(&example());
        assert!(table.contains("depth 1: ours"), "{table}");
        assert!(
            table.contains("0.90   0.93   0.95") || table.contains("0.90   0.92   0.95"),
            "{table}"
        );
        assert_eq!(table.matches(": met").count(), 1, "{table}");
        assert_eq!(table.matches(": NOT met").count(), 1, "{table}");
    }

    #[test]
    fn what_was_not_reached_is_named() {
        let unmet = unmet(&example());
        assert_eq!(unmet.len(), 1, "{unmet:?}");
        assert!(unmet[0].contains("depth 1: ours to rival") && unmet[0].contains("0.95"));
    }
}
