//! A whole report as text.

use std::fmt::Write;

use crate::collection::{Collection, Curve, curve};
use crate::draw::ratio_ends;
use crate::number::three_digits;
use crate::plot::{self, Terminal};
use crate::result::{Comparison, Row};
use crate::table::clean;
use crate::tables;

/// The report.
#[must_use]
pub fn text(collection: &Collection, terminal: Terminal) -> String {
    let mut parts: Vec<String> = Vec::new();
    for comparison in &collection.comparisons {
        parts.push(compared(comparison, terminal));
    }
    for recording in &collection.recordings {
        if let Some(run) = &recording.run {
            let mut part = format!("{}: {}\n", clean(&recording.name), clean(&run.title));
            part += &facts(&run.facts(), terminal.width);
            parts.push(part);
        }
    }
    parts.extend(
        tables::percentiles(collection)
            .iter()
            .filter(|_| !collection.recordings.is_empty())
            .map(|table| table.to_text(terminal.width)),
    );
    for (title, curves) in charts(collection) {
        let plot = plot::curves(terminal, &curves);
        if plot.is_empty() {
            continue;
        }
        let mut part = format!("{}\n{plot}", clean(&title));
        if curves.len() > 1 {
            for (number, (name, _)) in curves.iter().enumerate() {
                let _ = writeln!(part, "  {} {}", terminal.mark(number), clean(name));
            }
        }
        parts.push(part);
    }
    parts.extend(tables::throughput(collection).map(|table| table.to_text(terminal.width)));
    for recording in &collection.recordings {
        let line = plot::rates(terminal, &recording.rates());
        if !line.is_empty() {
            let name = clean(&recording.name);
            parts.push(format!("Throughput over time: {name}\n{line}"));
        }
    }
    let text = parts.join("\n");
    if terminal.unicode {
        return text;
    }
    // Names and titles are whatever their files say.
    let ascii = |letter: char| if letter.is_ascii() { letter } else { '?' };
    text.chars().map(ascii).collect()
}

/// The curves that belong into one picture, and what they are: of one recording all kinds of operation, of several each
/// kind by itself.
pub(crate) fn charts(collection: &Collection) -> Vec<(String, Vec<Curve>)> {
    if let [only] = collection.recordings.as_slice() {
        let curves = only.series.iter().filter_map(|series| {
            let histogram = series.histogram.as_ref()?;
            Some((series.class.clone(), curve(histogram)))
        });
        let title = format!("Latency by percentile: {}", only.name);
        return vec![(title, curves.collect())];
    }
    let of_class = |class: &String| {
        let curves = collection.recordings.iter().filter_map(|recording| {
            let histogram = recording.class(class)?.histogram.as_ref()?;
            Some((recording.name.clone(), curve(histogram)))
        });
        (format!("Latency by percentile: {class}"), curves.collect())
    };
    collection.classes().iter().map(of_class).collect()
}

/// Names and values, values broken where they are long.
fn facts(facts: &[(&'static str, String)], width: usize) -> String {
    const NAME: usize = 14;
    let mut text = String::new();
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        let mut line = format!("  {name:<12}");
        for word in clean(value).split(' ') {
            let len = line.chars().count();
            if len > NAME && len + 1 + word.chars().count() > width {
                let _ = writeln!(text, "{}", line.trim_end());
                line = " ".repeat(NAME);
            } else if len > NAME {
                line.push(' ');
            }
            line += word;
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn compared(comparison: &Comparison, terminal: Terminal) -> String {
    let mut table = tables::comparison(comparison);
    let mut part = format!("{}\n", clean(&std::mem::take(&mut table.caption)));
    part += &facts(&comparison.facts(), terminal.width);
    part.push('\n');
    part += &table.to_text(terminal.width);
    let rows: Vec<&Row> = comparison
        .rows
        .iter()
        .filter(|row| row.ratio().is_some())
        .collect();
    let goals = rows.iter().filter_map(|row| comparison.goal_of(row));
    let ratios = rows.iter().filter_map(|row| row.ratio());
    let ends = ratios.flat_map(|ratio| [ratio.min, ratio.max]).chain(goals);
    let (from, to) = ends.fold((1.0_f64, 1.0_f64), |(from, to), ratio| {
        (from.min(ratio), to.max(ratio))
    });
    let ends = ratio_ends(from, to);
    let columns = terminal.width.saturating_sub(4).clamp(20, 72);
    for row in rows {
        let Some(ratio) = row.ratio() else { continue };
        let goal = comparison.goal_of(row);
        let line = plot::ratio_line(terminal, columns, ends, ratio, goal);
        let _ = write!(part, "\n{}\n  {}\n", clean(&row.metric), line.trim_end());
    }
    if comparison.rows.iter().any(|row| row.ratio().is_some()) {
        let (one, median, goal) = match terminal.unicode {
            true => ('\u{2502}', '\u{25cf}', '\u{25b7}'),
            false => ('|', 'O', '>'),
        };
        let scale = if ends.2 { ", logarithmic" } else { "" };
        let words = format!(
            "{} to {}{scale}; {median} median, {one} the rival's 1, {goal} goal",
            three_digits(ends.0),
            three_digits(ends.1)
        );
        part.push('\n');
        part += &facts(&[("ratios", words)], terminal.width);
    }
    part
}
