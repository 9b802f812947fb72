//! The tables of a report.

use crate::collection::{Collection, Recording, Throughput};
use crate::latency::Summary;
use crate::number::{approximate, duration, grouped, three_digits};
use crate::result::{Comparison, Cost, Row};
use crate::table::{Cell, Table};

/// A percentile beyond which there are fewer samples than this says little.
const BEYOND_MIN: f64 = 10.0;
const FEW: &str = "* fewer than ten samples lie beyond it";

/// Latencies of one kind of operation or of one recording, side by side.
struct Column<'a> {
    heading: String,
    latency: &'a Summary,
}

/// Percentiles: of one recording with a column for each kind of operation, of several with a table for each kind, in
/// which the others are compared with the first.
#[must_use]
pub fn percentiles(collection: &Collection) -> Vec<Table> {
    if let [only] = collection.recordings.as_slice() {
        let columns: Vec<Column<'_>> = only
            .series
            .iter()
            .map(|series| Column {
                heading: series.class.clone(),
                latency: &series.latency,
            })
            .collect();
        let caption = format!("Percentiles: {}", only.name);
        return vec![table(caption, &columns, false)];
    }
    let of_class = |class: &String| {
        let columns: Vec<Column<'_>> = collection
            .recordings
            .iter()
            .filter_map(|recording| {
                Some(Column {
                    heading: recording.name.clone(),
                    latency: &recording.class(class)?.latency,
                })
            })
            .collect();
        table(format!("Percentiles: {class}"), &columns, true)
    };
    collection.classes().iter().map(of_class).collect()
}

fn table(caption: String, columns: &[Column<'_>], compared: bool) -> Table {
    let mut table = Table {
        caption,
        head: vec![String::new()],
        ..Table::default()
    };
    let base = columns.first().filter(|_| compared);
    for (place, column) in columns.iter().enumerate() {
        table.head.push(column.heading.clone());
        if compared && place > 0 {
            table
                .head
                .extend(["difference".to_owned(), "ratio".to_owned()]);
        }
    }
    let mut few = false;
    let samples = columns.iter().map(|column| column.latency.count);
    table.rows.push((
        "samples".to_owned(),
        with_gaps(samples.map(|count| Cell::text(grouped(count))), compared),
    ));
    for (place, (name, _)) in Summary::default().percentiles().into_iter().enumerate() {
        let mut cells = Vec::new();
        for (number, column) in columns.iter().enumerate() {
            let (_, ns) = column.latency.percentiles()[place];
            let cell = latency(column.latency, name, ns);
            few |= cell.text.ends_with('*');
            cells.push(cell);
            if let Some(base) = base.filter(|_| number > 0) {
                let (_, base_ns) = base.latency.percentiles()[place];
                cells.extend(difference(
                    (base.latency.count, base_ns),
                    (column.latency.count, ns),
                ));
            }
        }
        table.rows.push((name.to_owned(), cells));
    }
    let mut means = Vec::new();
    for (number, column) in columns.iter().enumerate() {
        let ns = mean(column.latency);
        means.push(Cell::text(match column.latency.count {
            0 => "-".to_owned(),
            _ => duration(ns),
        }));
        if let Some(base) = base.filter(|_| number > 0) {
            means.extend(difference(
                (base.latency.count, mean(base.latency)),
                (column.latency.count, ns),
            ));
        }
    }
    table.rows.push(("mean".to_owned(), means));
    if few {
        FEW.clone_into(&mut table.note);
    }
    table
}

/// Cells of a row that has nothing to say of differences and ratios.
fn with_gaps(cells: impl Iterator<Item = Cell>, compared: bool) -> Vec<Cell> {
    let mut row = Vec::new();
    for (place, cell) in cells.enumerate() {
        row.push(cell);
        if compared && place > 0 {
            row.extend([Cell::default(), Cell::default()]);
        }
    }
    row
}

/// A percentile as it is told everywhere.
fn latency(of: &Summary, name: &str, ns: u64) -> Cell {
    if of.count == 0 {
        return Cell::text("-");
    }
    let quantile = name
        .strip_prefix('p')
        .and_then(|digits| digits.parse::<f64>().ok());
    // Of 1000 samples, ten lie beyond the 99th percentile, which a binary fraction would miss by a hair.
    let few = quantile.is_some_and(|percent| {
        approximate(of.count) * (100.0 - percent) / 100.0 + 1e-6 < BEYOND_MIN
    });
    let star = if few { "*" } else { "" };
    Cell {
        text: format!("{}{star}", duration(ns)),
        ns: Some(ns),
        bad: false,
    }
}

fn mean(latency: &Summary) -> u64 {
    crate::number::whole(latency.mean_ns)
}

/// What a latency became, of so many samples each: the difference and the ratio.
fn difference((base_count, from): (u64, u64), (count, to): (u64, u64)) -> [Cell; 2] {
    if base_count == 0 || count == 0 {
        return [Cell::text("-"), Cell::text("-")];
    }
    let sign = match to.cmp(&from) {
        std::cmp::Ordering::Less => "-",
        std::cmp::Ordering::Equal => "",
        std::cmp::Ordering::Greater => "+",
    };
    [
        Cell::text(format!("{sign}{}", duration(to.abs_diff(from)))),
        Cell::text(ratio(from, to).map_or("-".to_owned(), three_digits)),
    ]
}

/// One latency by another; none by zero.
pub(crate) fn ratio(from: u64, to: u64) -> Option<f64> {
    (from > 0).then(|| approximate(to) / approximate(from))
}

/// How much was done: operations and bytes a second, errors, and what they cost. Empty where nothing is known of it.
#[must_use]
pub fn throughput(collection: &Collection) -> Option<Table> {
    let known: Vec<(&Recording, Throughput)> = collection
        .recordings
        .iter()
        .filter_map(|recording| Some((recording, recording.throughput()?)))
        .collect();
    if known.is_empty() {
        return None;
    }
    let mut table = Table {
        caption: "Throughput and cost".to_owned(),
        head: [String::new()]
            .into_iter()
            .chain(known.iter().map(|(recording, _)| recording.name.clone()))
            .collect(),
        ..Table::default()
    };
    let mut row = |name: &str, cell: &dyn Fn(&Recording, &Throughput) -> Option<Cell>| {
        let cells: Vec<Option<Cell>> = known.iter().map(|(of, sum)| cell(of, sum)).collect();
        if cells.iter().any(Option::is_some) {
            let shown = |cell: Option<Cell>| cell.unwrap_or_else(|| Cell::text("-"));
            table
                .rows
                .push((name.to_owned(), cells.into_iter().map(shown).collect()));
        }
    };
    row("operations/s", &|_, sum| {
        Some(Cell::text(amount(sum.operations_per_s)))
    });
    row("MB/s", &|_, sum| {
        Some(Cell::text(format!("{:.1}", sum.mb_per_s?)))
    });
    row("errors", &|_, sum| {
        let errors = sum.errors?;
        Some(Cell {
            bad: errors > 0,
            ..Cell::text(grouped(errors))
        })
    });
    type OfRun = fn(&Recording) -> Option<Cost>;
    let sides: [(&str, OfRun); 2] = [
        ("initiator", |of| of.run.as_ref()?.initiator),
        ("target", |of| of.run.as_ref()?.target),
    ];
    for (side, cost) in sides {
        row(&format!("{side}: CPU an operation"), &|of, _| {
            Some(Cell::text(cpu(&cost(of)?)))
        });
        row(&format!("{side}: system calls an operation"), &|of, _| {
            Some(Cell::text(format!("{:.2}", cost(of)?.syscalls_per_io?)))
        });
    }
    Some(table)
}

fn cpu(cost: &Cost) -> String {
    duration(crate::number::whole(cost.cpu_ns_per_io))
}

/// A sample of some unit: whole numbers where they are large.
pub(crate) fn amount(value: f64) -> String {
    if value.abs() < 100.0 {
        return three_digits(value);
    }
    grouped(crate::number::whole(value))
}

/// What is to be said of a row's goal, and whether it is missed.
pub(crate) fn verdict(comparison: &Comparison, row: &Row) -> Option<(String, bool)> {
    let (goal, reached) = (comparison.goal_of(row)?, row.ratio_median?);
    let missed = reached < goal;
    let told = three_digits(goal);
    let words = match missed {
        false => format!("{told} reached"),
        // Rounded, it would look reached.
        true if told == three_digits(reached) => format!("{told} missed by {:.1e}", goal - reached),
        true => format!("{told} missed"),
    };
    Some((words, missed))
}

/// A comparison's rows.
#[must_use]
pub fn comparison(comparison: &Comparison) -> Table {
    let columns = [
        "",
        "median",
        "unit",
        "versus",
        "ratio",
        "goal",
        "ratio min",
        "ratio max",
        "min",
        "max",
    ];
    let any = |of: &dyn Fn(&Row) -> bool| comparison.rows.iter().any(of);
    let with_goal = any(&|row| comparison.goal_of(row).is_some());
    let with_cost = any(&|row| row.initiator.or(row.target).is_some());
    let with_calls = any(&|row| {
        let sides = [row.initiator, row.target];
        sides
            .iter()
            .flatten()
            .any(|cost| cost.syscalls_per_io.is_some())
    });
    let mut head: Vec<String> = columns.map(str::to_owned).to_vec();
    head.retain(|name| name != "goal" || with_goal);
    if with_cost {
        head.push("CPU/op, both sides".to_owned());
    }
    if with_calls {
        head.push("calls/op, both sides".to_owned());
    }
    let rows = comparison.rows.iter().map(|row| {
        let optional = |text: Option<String>| Cell::text(text.unwrap_or_default());
        let mut cells = vec![
            Cell::text(amount(row.median)),
            Cell::text(row.unit.clone()),
            optional(row.versus.clone()),
            optional(row.ratio_median.map(three_digits)),
        ];
        if with_goal {
            let (text, bad) = verdict(comparison, row).unwrap_or_default();
            cells.push(Cell {
                bad,
                ..Cell::text(text)
            });
        }
        cells.extend([
            optional(row.ratio_min.map(three_digits)),
            optional(row.ratio_max.map(three_digits)),
            Cell::text(amount(row.min)),
            Cell::text(amount(row.max)),
        ]);
        if with_cost {
            cells.push(Cell::text(both(row, cpu)));
        }
        if with_calls {
            let calls = |cost: &Cost| {
                let calls = cost.syscalls_per_io;
                calls.map_or("?".to_owned(), |calls| format!("{calls:.2}"))
            };
            cells.push(Cell::text(both(row, calls)));
        }
        (row.metric.clone(), cells)
    });
    Table {
        caption: comparison.title.clone(),
        head,
        rows: rows.collect(),
        note: String::new(),
    }
}

fn both(row: &Row, words: impl Fn(&Cost) -> String) -> String {
    match (&row.initiator, &row.target) {
        (None, None) => String::new(),
        (Some(one), None) => words(one),
        (None, Some(other)) => format!("? + {}", words(other)),
        (Some(one), Some(other)) => format!("{} + {}", words(one), words(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::tests::comparison as example;

    fn summary(count: u64, ns: u64) -> Summary {
        Summary {
            count,
            min_ns: ns,
            mean_ns: approximate(ns),
            p50_ns: ns,
            p90_ns: ns,
            p99_ns: ns,
            p999_ns: ns,
            p9999_ns: ns,
            max_ns: ns,
        }
    }

    #[test]
    fn percentiles_of_few_samples_are_marked() {
        let stars = |count: u64| -> Vec<bool> {
            let of = summary(count, 5);
            let named = of.percentiles().into_iter();
            named
                .map(|(name, ns)| latency(&of, name, ns).text.ends_with('*'))
                .collect()
        };
        assert_eq!(stars(1000), [false, false, false, false, true, true, false]);
        assert_eq!(stars(999), [false, false, false, true, true, true, false]);
        assert_eq!(stars(100_000), [false; 7]);
    }

    #[test]
    fn differences_have_a_sign_and_a_ratio() {
        let told = |from, to| super::difference(from, to).map(|cell| cell.text);
        let (slow, fast) = ((10, 120_000), (10, 80_000));
        assert_eq!(told(slow, fast), ["-40.0 us", "0.67"]);
        assert_eq!(told(fast, slow), ["+40.0 us", "1.50"]);
        assert_eq!(told(fast, fast), ["0 ns", "1.00"]);
        assert_eq!(told(fast, (0, 0)), ["-", "-"]);
        assert_eq!(super::ratio(0, 5), None);
    }

    #[test]
    fn a_goal_is_reached_or_missed() {
        let mut all = example();
        let cells = |all: &Comparison| comparison(all).rows[1].1.clone();
        assert_eq!(cells(&all)[4].text, "0.90 reached");
        all.rows[1].goal = Some(0.95);
        assert_eq!(
            (cells(&all)[4].text.as_str(), cells(&all)[4].bad),
            ("0.95 missed", true)
        );
        all.rows[1].goal = Some(all.rows[1].ratio_median.unwrap() + 0.0002);
        assert!(
            cells(&all)[4].text.ends_with("missed by 2.0e-4"),
            "{:?}",
            cells(&all)
        );
        all.goal = None;
        all.rows[1].goal = None;
        assert!(!comparison(&all).head.contains(&"goal".to_owned()));
    }
}
