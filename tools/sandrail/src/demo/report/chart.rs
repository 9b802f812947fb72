//! Latency by rarity, both axes logarithmic, as SVG.

use std::fmt::{self, Write};

use super::escape;
use crate::measure::{approximate, duration};

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 340.0;
/// Room for labels and legend around the plot.
const LEFT: f64 = 62.0;
const RIGHT: f64 = 18.0;
const TOP: f64 = 52.0;
const BOTTOM: f64 = 48.0;

/// Colours that are told apart by everybody, on light and on dark; the dashes tell them apart without colour.
const STYLE: &str = "\
.text { font: 12px system-ui, sans-serif; fill: #62625c } .grid { stroke: #8888; stroke-width: .5 }
.curve { fill: none; stroke-width: 2; stroke-linejoin: round }
.c0 { stroke: #1f6fd0 } .c1 { stroke: #c8561c; stroke-dasharray: 7 3 } .c2 { stroke: #2e8b57; stroke-dasharray: 2 3 }
@media (prefers-color-scheme: dark) {
  .text { fill: #a3a39d } .c0 { stroke: #6cabf7 } .c1 { stroke: #f59562 } .c2 { stroke: #6fcf97 }
}";
const COLOURS: usize = 3;

/// Curves to be drawn together.
#[derive(Default)]
pub(super) struct Chart {
    curves: Vec<(String, Vec<(f64, f64)>)>,
}

/// The plot's corners, as decimal logarithms.
struct Frame {
    /// Of one over the largest rarity's inverse: 0 is every request, 3 one of a thousand.
    rare_max: f64,
    low: f64,
    high: f64,
}

impl Frame {
    fn x(&self, rarity: f64) -> f64 {
        LEFT + -rarity.log10() / self.rare_max * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, ns: f64) -> f64 {
        let share = (ns.log10() - self.low) / (self.high - self.low);
        HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
    }
}

impl Chart {
    /// Adds a curve of (share of requests that took longer, nanoseconds).
    pub(super) fn add(&mut self, name: String, points: &[(f64, u64)]) {
        let points = points
            .iter()
            .filter(|(rarity, ns)| *rarity > 0.0 && *ns > 0)
            .map(|(rarity, ns)| (*rarity, approximate(*ns)))
            .collect();
        self.curves.push((name, points));
    }

    /// The drawing; a sentence if there is nothing to draw.
    pub(super) fn svg(&self) -> String {
        let Some(frame) = self.frame() else {
            return "<p class=\"soft\">Nothing was measured.</p>\n".to_owned();
        };
        let mut svg = String::new();
        self.draw(&mut svg, &frame).expect("a string takes all");
        svg
    }

    fn frame(&self) -> Option<Frame> {
        let points = || self.curves.iter().flat_map(|(_, points)| points);
        let (first, _) = points().next().map(|(_, ns)| (*ns, ()))?;
        let least = points().map(|(_, ns)| *ns).fold(first, f64::min);
        let most = points().map(|(_, ns)| *ns).fold(first, f64::max);
        let rare_max = points()
            .map(|(rarity, _)| -rarity.log10())
            .fold(1.0, f64::max);
        // Whole steps of 1, 2, 5, so that the outermost lines have labels.
        let low = steps().rfind(|step| *step <= least).unwrap_or(1.0);
        let high = steps().find(|step| *step >= most).unwrap_or(1e12);
        Some(Frame {
            rare_max,
            low: low.log10(),
            high: high.max(low * 2.0).log10(),
        })
    }

    fn draw(&self, svg: &mut String, frame: &Frame) -> fmt::Result {
        writeln!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             aria-label=\"Latency by percentile\">\n<style>{STYLE}</style>"
        )?;
        draw_grid(svg, frame)?;
        for (number, (name, points)) in self.curves.iter().enumerate() {
            let colour = number % COLOURS;
            let places: Vec<String> = points
                .iter()
                .map(|(rarity, ns)| format!("{:.1},{:.1}", frame.x(*rarity), frame.y(*ns)))
                .collect();
            writeln!(
                svg,
                "<polyline class=\"curve c{colour}\" points=\"{}\"/>",
                places.join(" ")
            )?;
            let y = 14.0 + 17.0 * approximate(u64::try_from(number).unwrap_or(0));
            writeln!(
                svg,
                "<line class=\"curve c{colour}\" x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{:.0}\" y2=\"{:.0}\"/>\
                 <text class=\"text\" x=\"{:.0}\" y=\"{y:.0}\">{}</text>",
                LEFT + 30.0,
                y - 4.0,
                y - 4.0,
                LEFT + 38.0,
                escape(name)
            )?;
        }
        writeln!(svg, "</svg>")
    }
}

fn draw_grid(svg: &mut String, frame: &Frame) -> fmt::Result {
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    // Beyond three decades only the tens are labelled.
    let tens_only = frame.high - frame.low > 3.0;
    for step in steps() {
        let at = step.log10();
        let is_ten = (at - at.round()).abs() < 1e-9;
        if at < frame.low - 1e-9 || at > frame.high + 1e-9 || tens_only && !is_ten {
            continue;
        }
        let y = frame.y(step);
        writeln!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"text\" x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 6.0,
            y + 4.0,
            label(step)
        )?;
    }
    for (rarity, name) in [
        (1.0, "min"),
        (0.5, "p50"),
        (0.1, "p90"),
        (0.01, "p99"),
        (1e-3, "p99.9"),
        (1e-4, "p99.99"),
        (1e-5, "p99.999"),
        (1e-6, "p99.9999"),
    ] {
        if -f64::log10(rarity) > frame.rare_max + 1e-9 {
            break;
        }
        let x = frame.x(rarity);
        writeln!(
            svg,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\
             <text class=\"text\" x=\"{x:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{name}</text>",
            bottom + 17.0
        )?;
    }
    writeln!(
        svg,
        "<text class=\"text\" x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\">share of requests that were faster</text>",
        (LEFT + right) / 2.0,
        bottom + 38.0
    )
}

/// 1, 2, 5, 10, ... nanoseconds, up to a thousand seconds.
fn steps() -> impl DoubleEndedIterator<Item = f64> {
    (0..12).flat_map(|power| [1.0, 2.0, 5.0].map(|step| step * 10_f64.powi(power)))
}

/// A round number of nanoseconds: `50 us`.
fn label(ns: f64) -> String {
    let exact = format!("{ns:.0}").parse().unwrap_or(0);
    let text = duration(exact);
    let (number, unit) = text.split_once(' ').unwrap_or((&text, ""));
    let number = if number.contains('.') {
        number.trim_end_matches('0').trim_end_matches('.')
    } else {
        number
    };
    format!("{number} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_round() {
        for (ns, text) in [
            (1.0, "1 ns"),
            (20_000.0, "20 us"),
            (500_000.0, "500 us"),
            (1e7, "10 ms"),
        ] {
            assert_eq!(label(ns), text);
        }
    }

    #[test]
    fn all_points_lie_inside_the_frame() {
        let mut chart = Chart::default();
        chart.add(
            "one".to_owned(),
            &[(1.0, 37_000), (0.5, 81_000), (0.0001, 9_000_000)],
        );
        let frame = chart.frame().unwrap();
        for (rarity, ns) in &chart.curves[0].1 {
            let (x, y) = (frame.x(*rarity), frame.y(*ns));
            assert!((LEFT..=WIDTH - RIGHT + 0.01).contains(&x), "{x}");
            assert!((TOP - 0.01..=HEIGHT - BOTTOM + 0.01).contains(&y), "{y}");
        }
        assert!(Chart::default().svg().contains("Nothing"));
    }

    #[test]
    fn equal_latencies_do_not_divide_by_zero() {
        let mut chart = Chart::default();
        chart.add("flat".to_owned(), &[(1.0, 100), (0.5, 100)]);
        assert!(!chart.svg().contains("NaN"));
    }
}
