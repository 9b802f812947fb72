//! Throughput over time.

use super::axis::{Axis, name};
use super::{Anchor, Picture, WIDTH, curve_class};
use crate::collection::Rate;
use crate::number::{approximate, short};

const LEFT: f64 = 74.0;
const RIGHT: f64 = WIDTH - 26.0;
const PLOT_HEIGHT: f64 = 200.0;

/// Operations a second by time, for each recording; intervals in which operations failed are marked.
#[must_use]
pub fn picture(title: &str, recordings: &[(String, Vec<Rate>)]) -> Picture {
    let mut picture = Picture::new(title, 0.0);
    let all = || recordings.iter().flat_map(|(_, rates)| rates);
    if all().next().is_none() {
        picture.text("t", Anchor::Start, LEFT, 24.0, "Nothing was measured.");
        picture.height = 40.0;
        return picture;
    }
    let names: Vec<String> = recordings.iter().map(|(name, _)| name.clone()).collect();
    let top = 12.0 + picture.legend(LEFT, 4.0, &names);
    let bottom = top + PLOT_HEIGHT;
    let end = all()
        .map(|rate| rate.start_s + rate.length_s)
        .fold(0.0, f64::max);
    let most = all().map(per_s).fold(0.0, f64::max);
    let x = Axis::linear(0.0, end, LEFT, RIGHT);
    let y = Axis::linear(0.0, most * 1.05, bottom, top);
    for number in y.round_numbers(5.0) {
        let at = y.at(number);
        picture.line("grid", (LEFT, at), (RIGHT, at));
        picture.text("t", Anchor::End, LEFT - 8.0, at + 4.5, &name(number));
    }
    seconds(&mut picture, x, bottom);
    for (number, (name, rates)) in recordings.iter().enumerate() {
        let mut points = Vec::new();
        for rate in rates {
            let at = y.at(per_s(rate));
            points.push((x.at(rate.start_s), at));
            points.push((x.at(rate.start_s + rate.length_s), at));
        }
        picture.curve(&curve_class(number), &points);
        for rate in rates.iter().filter(|rate| rate.errors > 0) {
            let middle = x.at(rate.start_s + rate.length_s / 2.0);
            picture.rectangles("fault", &[(middle - 2.0, bottom - 8.0, 4.0, 8.0)]);
        }
        let each = || rates.iter().map(per_s);
        let (least, most) = (
            each().fold(f64::INFINITY, f64::min),
            each().fold(0.0, f64::max),
        );
        if least.is_finite() {
            picture.description += &format!(
                "{name}: from {} to {} a second. ",
                short(least),
                short(most)
            );
        }
    }
    let errors = all().fold(0_u64, |sum, rate| sum.saturating_add(rate.errors));
    let mut words = "seconds since the begin; operations a second".to_owned();
    if errors > 0 {
        words += &format!("; bars at the bottom: intervals with errors ({errors} in all)");
        picture.description += &format!("{errors} operations failed.");
    }
    picture.text(
        "t",
        Anchor::Middle,
        f64::midpoint(LEFT, RIGHT),
        bottom + 42.0,
        &words,
    );
    picture.height = bottom + 52.0;
    picture
}

fn per_s(rate: &Rate) -> f64 {
    approximate(rate.operations) / rate.length_s
}

/// The axis of time.
pub(super) fn seconds(picture: &mut Picture, x: Axis, bottom: f64) {
    picture.line("axis", (LEFT, bottom), (RIGHT, bottom));
    for number in x.round_numbers(10.0) {
        let at = x.at(number);
        picture.line("axis", (at, bottom), (at, bottom + 5.0));
        picture.text("t", Anchor::Middle, at, bottom + 20.0, &name(number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_errors_are_drawn() {
        let rate = |start_s: f64, operations, errors| Rate {
            start_s,
            length_s: 0.5,
            operations,
            errors,
        };
        let rates = vec![rate(0.0, 100, 0), rate(0.5, 200, 3)];
        let picture = picture("", &[("one".to_owned(), rates)]);
        let svg = picture.to_svg();
        assert_eq!(svg.matches("class=\"fault\"").count(), 1);
        assert!(
            picture
                .description
                .contains("from 200 to 400 a second. 3 operations failed")
        );
        assert!(!svg.contains("NaN"));
    }

    #[test]
    fn nothing_can_be_drawn() {
        assert!(picture("", &[]).to_svg().contains("Nothing was measured"));
    }
}
