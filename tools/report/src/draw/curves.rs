//! Latency by rarity, both axes logarithmic: each step to the right is a tenth of the operations.

use super::axis::Axis;
use super::{Anchor, Picture, WIDTH, curve_class};
use crate::collection::Curve;
use crate::number::{approximate, duration};

const LEFT: f64 = 74.0;
const RIGHT: f64 = WIDTH - 26.0;
const PLOT_HEIGHT: f64 = 300.0;

/// Curves of (share of operations that took longer, nanoseconds), from the most common to the rarest, with their names.
#[must_use]
pub fn picture(title: &str, curves: &[Curve]) -> Picture {
    let mut picture = Picture::new(title, 0.0);
    let points = || {
        let all = curves.iter().flat_map(|(_, points)| points);
        all.filter(|(rarity, _)| *rarity > 0.0)
    };
    let latencies = || points().map(|(_, ns)| *ns);
    let (Some(least), Some(most)) = (latencies().min(), latencies().max()) else {
        picture.text("t", Anchor::Start, LEFT, 24.0, "Nothing was measured.");
        picture.height = 40.0;
        return picture;
    };
    let names: Vec<String> = curves.iter().map(|(name, _)| name.clone()).collect();
    let top = 12.0 + picture.legend(LEFT, 4.0, &names);
    let bottom = top + PLOT_HEIGHT;
    let rarest = points()
        .map(|(rarity, _)| -rarity.log10())
        .fold(1.0, f64::max);
    let x = Axis::linear(0.0, rarest, LEFT, RIGHT);
    let y = Axis::latency(least, most, bottom, top);
    grid(&mut picture, x, y, (top, bottom), rarest);
    for (number, (name, points)) in curves.iter().enumerate() {
        let places = points.iter().filter(|(rarity, _)| *rarity > 0.0);
        let places = places.map(|(rarity, ns)| (x.at(-rarity.log10()), y.at(approximate(*ns))));
        picture.curve(&curve_class(number), &thinned(places));
        let ends = points.first().zip(points.last());
        if let Some(((_, first), (_, last))) = ends {
            let (first, last) = (duration(*first), duration(*last));
            picture.description += &format!("{name}: from {first} to {last}. ");
        }
    }
    let words = "share of operations that took no longer";
    let middle = f64::midpoint(LEFT, RIGHT);
    picture.text("t", Anchor::Middle, middle, bottom + 42.0, words);
    picture.height = bottom + 52.0;
    picture
}

fn grid(picture: &mut Picture, x: Axis, y: Axis, (top, bottom): (f64, f64), rarest: f64) {
    for (ns, name) in y.latencies() {
        let at = y.at(ns);
        picture.line("grid", (LEFT, at), (RIGHT, at));
        picture.text("t", Anchor::End, LEFT - 8.0, at + 4.5, &name);
    }
    let mut free_from = 0.0;
    picture.line("axis", (LEFT, top), (LEFT, bottom));
    for (nines, name) in rarity_names().take_while(|(nines, _)| *nines <= rarest + 1e-9) {
        let at = x.at(nines);
        picture.line("grid", (at, top), (at, bottom));
        let half = super::width_of(&name) / 2.0;
        // Where many nines crowd, some go without a name.
        if at - half >= free_from {
            picture.text("t", Anchor::Middle, at, bottom + 20.0, &name);
            free_from = at + half + 4.0;
        }
    }
    picture.line("axis", (LEFT, bottom), (RIGHT, bottom));
}

/// Places on the axis, as decimal logarithms of one in so many, and their names.
pub(crate) fn rarity_names() -> impl Iterator<Item = (f64, String)> {
    let half = (2_f64.log10(), "50 %".to_owned());
    let nines = (1..18_u32).zip(1..18);
    [half]
        .into_iter()
        .chain(nines.map(|(place, nines)| (f64::from(place), percent(nines))))
}

/// `90 %`, `99 %`, `99.9 %` and so on.
fn percent(nines: usize) -> String {
    match nines {
        1 => "90 %".to_owned(),
        2 => "99 %".to_owned(),
        more => format!("99.{} %", "9".repeat(more - 2)),
    }
}

/// Points without those that lie on a dot with their neighbours.
fn thinned(points: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    let mut kept: Vec<(f64, f64)> = Vec::new();
    let mut last = None;
    for (x, y) in points {
        let far = kept
            .last()
            .is_none_or(|(kept_x, kept_y)| (x - kept_x).abs() >= 0.7 || (y - kept_y).abs() >= 0.7);
        if far {
            kept.push((x, y));
            last = None;
        } else {
            last = Some((x, y));
        }
    }
    kept.extend(last);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points() -> Vec<(f64, u64)> {
        vec![(1.0, 37_000), (0.5, 81_000), (0.0001, 9_000_000)]
    }

    #[test]
    fn each_curve_is_drawn_and_told() {
        let curves = [("one".to_owned(), points()), ("<two>".to_owned(), points())];
        let picture = picture("a title", &curves);
        let svg = picture.to_svg();
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert!(
            svg.contains("&lt;two&gt;") && svg.contains("99.99 %"),
            "{svg}"
        );
        assert!(
            picture
                .description
                .contains("one: from 37.0 us to 9.00 ms.")
        );
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn nothing_and_equal_latencies_can_be_drawn() {
        assert!(picture("", &[]).to_svg().contains("Nothing was measured"));
        assert!(
            picture("", &[("x".to_owned(), Vec::new())])
                .to_svg()
                .contains("Nothing")
        );
        let flat = picture("", &[("x".to_owned(), vec![(1.0, 0), (0.5, 0), (0.0, 7)])]);
        assert!(!flat.to_svg().contains("NaN"));
    }

    #[test]
    fn thinning_keeps_the_ends() {
        let many = (0..1000).map(|step| (f64::from(step) / 100.0, 0.0));
        let kept = thinned(many);
        assert!(kept.len() < 20, "{}", kept.len());
        assert_eq!((kept[0], kept[kept.len() - 1]), ((0.0, 0.0), (9.99, 0.0)));
    }
}
