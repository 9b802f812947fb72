//! Ratios of a comparison: every round a dot, their range a line, the median a bar, the goal a mark.

use super::axis::{Axis, name};
use super::{Anchor, Picture, WIDTH, shortened, width_of};
use crate::number::{count_of, three_digits};
use crate::result::{Comparison, Row};
use crate::tables::{amount, verdict};

const RIGHT: f64 = WIDTH - 176.0;
const ROW_HEIGHT: f64 = 38.0;
/// Longer names are cut; the table has them whole.
const LETTERS_MAX: usize = 44;

/// The ratios of all rows that are compared with another; none if there are none.
#[must_use]
pub fn picture(title: &str, comparison: &Comparison) -> Option<Picture> {
    let rows: Vec<&Row> = comparison
        .rows
        .iter()
        .filter(|row| row.ratio().is_some())
        .collect();
    if rows.is_empty() {
        return None;
    }
    let mut picture = Picture::new(title, 0.0);
    let names = rows.iter().map(|row| {
        let metric = 1.08 * width_of(&shortened(&row.metric, LETTERS_MAX));
        metric.max(width_of(&rival(row)))
    });
    let left = names.fold(0.0, f64::max).clamp(80.0, 350.0) + 14.0;
    let top = 30.0;
    let bottom = top + ROW_HEIGHT * count_of(rows.len());
    let x = axis(comparison, &rows, left);
    picture.text("t strong", Anchor::End, WIDTH - 4.0, 16.0, "median ratio");
    for number in x.round_ratios() {
        let at = x.at(number);
        picture.line("grid", (at, top), (at, bottom));
        picture.text("t", Anchor::Middle, at, bottom + 20.0, &name(number));
    }
    picture.line("one", (x.at(1.0), top - 8.0), (x.at(1.0), bottom));
    picture.text("t", Anchor::Middle, x.at(1.0), 16.0, "rival");
    for (number, row) in rows.iter().enumerate() {
        let y = top + ROW_HEIGHT * (count_of(number) + 0.5);
        one(&mut picture, comparison, row, x, y);
    }
    let words = "ratio to the rival: a dot a round, a bar the median, a frame the goal";
    picture.text("t", Anchor::Middle, WIDTH / 2.0, bottom + 42.0, words);
    picture.height = bottom + 52.0;
    Some(picture)
}

/// Whom a row is compared with.
fn rival(row: &Row) -> String {
    let versus = row.versus.as_deref().unwrap_or("rival");
    shortened(&format!("against {versus}"), LETTERS_MAX)
}

/// Takes in every ratio, every goal and 1.
fn axis(comparison: &Comparison, rows: &[&Row], left: f64) -> Axis {
    let goals = rows.iter().filter_map(|row| comparison.goal_of(row));
    let ratios = rows.iter().filter_map(|row| row.ratio());
    let ends = ratios.flat_map(|ratio| [ratio.min, ratio.max]);
    let (from, to) = goals
        .chain(ends)
        .fold((1.0, 1.0), |(from, to): (f64, f64), ratio| {
            (from.min(ratio), to.max(ratio))
        });
    Axis::ratios(from, to, left, RIGHT)
}

fn one(picture: &mut Picture, comparison: &Comparison, row: &Row, x: Axis, y: f64) {
    let Some(ratio) = row.ratio() else { return };
    let metric = shortened(&row.metric, LETTERS_MAX);
    picture.text("t strong", Anchor::Start, 4.0, y - 1.5, &metric);
    picture.text("t", Anchor::Start, 4.0, y + 13.0, &rival(row));
    picture.line("span", (x.at(ratio.min), y), (x.at(ratio.max), y));
    for each in &row.ratios {
        picture.dot("dot", x.at(*each), y, 4.0);
    }
    picture.rectangles("median", &[(x.at(ratio.median) - 2.0, y - 10.0, 4.0, 20.0)]);
    if let Some(goal) = comparison.goal_of(row) {
        let at = x.at(goal);
        picture.line("goal", (at, y - 13.0), (at, y + 13.0));
        picture.line("goal", (at, y - 13.0), (at + 5.0, y - 13.0));
        picture.line("goal", (at, y + 13.0), (at + 5.0, y + 13.0));
    }
    let median = three_digits(ratio.median);
    let verdict = verdict(comparison, row);
    let missed = verdict.as_ref().is_some_and(|(_, missed)| *missed);
    let told = verdict.map_or(String::new(), |(words, _)| format!(", goal {words}"));
    picture.description += &format!("{}: {median}{told}. ", row.metric);
    let (class, mark) = if missed {
        ("t missed", " missed")
    } else {
        ("t strong", "")
    };
    let value = format!("{median}{mark}");
    picture.text(class, Anchor::End, WIDTH - 4.0, y - 1.5, &value);
    let value = format!("{} {}", amount(row.median), row.unit);
    picture.text(
        "t",
        Anchor::End,
        WIDTH - 4.0,
        y + 13.0,
        &shortened(&value, 22),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::tests::comparison as example;

    #[test]
    fn every_round_is_a_dot_and_a_missed_goal_is_told() {
        let mut comparison = example();
        let drawn = picture("", &comparison).unwrap();
        let svg = drawn.to_svg();
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(
            !svg.contains("missed") && svg.contains("class=\"goal\""),
            "{svg}"
        );
        comparison.rows[1].goal = Some(2.2);
        let drawn = picture("", &comparison).unwrap();
        assert!(
            drawn.to_svg().contains("missed") && drawn.description.contains("goal 2.20 missed")
        );
    }

    #[test]
    fn rivals_alone_are_not_drawn() {
        let mut comparison = example();
        comparison.rows.truncate(1);
        assert_eq!(picture("", &comparison), None);
    }
}
