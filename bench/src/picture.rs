//! Results as a picture: every round's ratio as a dot, the median as a bar. One HTML file, nothing fetched.

use std::fmt::Write as _;

use sandrail_report::{Comparison, Row};

/// The page's and the plot's measures, in SVG units.
const WIDTH: f64 = 1000.0;
const PLOT_LEFT: f64 = 330.0;
const PLOT_RIGHT: f64 = 760.0;
const ROW_HEIGHT: f64 = 34.0;
const TOP: f64 = 58.0;
const GOAL_COLOUR: &str = "#c2410c";

/// The scale of the ratios: by differences, or by factors where they are far apart.
struct Scale {
    from: f64,
    to: f64,
    by_factors: bool,
}

/// Beyond this factor between least and greatest ratio, equal factors are drawn equally long.
const FACTOR_MAX: f64 = 4.0;

impl Scale {
    /// Takes in every ratio, the goals and 1, ends on tenths.
    fn of(report: &Comparison) -> Self {
        let ratios = report
            .rows
            .iter()
            .flat_map(|row| row.ratios.iter().copied());
        let goals = report.rows.iter().filter_map(|row| report.goal_of(row));
        let (from, to) = ratios
            .chain(goals)
            .fold((1.0_f64, 1.0_f64), |(from, to), ratio| {
                (from.min(ratio), to.max(ratio))
            });
        let from = (((from - 0.02) * 10.0).floor() / 10.0).max(0.0);
        let to = ((to + 0.02) * 10.0).ceil() / 10.0;
        let by_factors = to > FACTOR_MAX;
        Self {
            from: if by_factors { from.max(0.05) } else { from },
            to,
            by_factors,
        }
    }

    fn x(&self, ratio: f64) -> f64 {
        let ratio = ratio.clamp(self.from, self.to);
        let share = if self.by_factors {
            (ratio / self.from).ln() / (self.to / self.from).ln()
        } else {
            (ratio - self.from) / (self.to - self.from)
        };
        PLOT_LEFT + share * (PLOT_RIGHT - PLOT_LEFT)
    }

    /// Where lines are drawn.
    fn ticks(&self) -> Vec<f64> {
        if self.by_factors {
            let marks = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0];
            return marks
                .into_iter()
                .filter(|mark| (self.from..=self.to).contains(mark))
                .collect();
        }
        let step = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0]
            .into_iter()
            .find(|step| (self.to - self.from) / step <= 9.0)
            .unwrap_or(10.0);
        let first = (self.from / step).ceil();
        (0..32)
            .map(|index| (first + f64::from(index)) * step)
            .take_while(|tick| *tick <= self.to + 1e-9)
            .collect()
    }
}

/// The page.
#[must_use]
pub fn page(report: &Comparison) -> String {
    let mut facts = String::new();
    for (name, value) in report.facts() {
        let _ = writeln!(facts, "<tr><th>{name}</th><td>{}</td></tr>", escape(&value));
    }
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n<style>\n\
         body {{ font: 14px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em; \
         color: #1c2430; background: #fff }}\nth {{ text-align: left; padding-right: 1.5em; font-weight: 600; \
         vertical-align: top }}\nsvg {{ width: 100%; height: auto }}\n</style></head>\n<body>\n<h1>{title}</h1>\n{svg}\n\
         <table>\n{facts}</table>\n</body></html>\n",
        title = escape(&report.title),
        svg = svg(report),
    )
}

/// The picture alone.
#[must_use]
pub fn svg(report: &Comparison) -> String {
    let compared: Vec<&Row> = report
        .rows
        .iter()
        .filter(|row| row.versus.is_some())
        .collect();
    let scale = Scale::of(report);
    let rows = u32::try_from(compared.len()).unwrap_or(0);
    let bottom = TOP + ROW_HEIGHT * f64::from(rows);
    let height = bottom + 30.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"system-ui, sans-serif\" \
         font-size=\"13\" role=\"img\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    let text = |x: f64, y: f64, anchor: &str, weight: u32, fill: &str, words: &str| {
        format!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-weight=\"{weight}\" fill=\"{fill}\">{}</text>\n",
            escape(words)
        )
    };
    let middle = f64::midpoint(PLOT_LEFT, PLOT_RIGHT);
    out += &text(
        middle,
        18.0,
        "middle",
        600,
        "#1c2430",
        "ratio to the rival, a dot a round",
    );
    out += &text(
        WIDTH - 8.0,
        18.0,
        "end",
        600,
        "#1c2430",
        "median ratio (median, unit)",
    );
    for tick in scale.ticks() {
        let x = scale.x(tick);
        let _ = writeln!(
            out,
            "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"#e3e7ee\"/>"
        );
        out += &text(
            x,
            bottom + 18.0,
            "middle",
            400,
            "#6b7687",
            &format!("{tick:.1}"),
        );
    }
    let x = scale.x(1.0);
    let _ = writeln!(
        out,
        "<line x1=\"{x:.1}\" y1=\"{y1}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"#6b7687\" stroke-dasharray=\"4 3\"/>",
        y1 = TOP - 10.0
    );
    out += &text(x, TOP - 15.0, "middle", 400, "#6b7687", "as fast");
    if report.rows.iter().any(|row| report.goal_of(row).is_some()) {
        out += &text(8.0, 18.0, "start", 400, GOAL_COLOUR, "| goal");
    }
    for (place, row) in (0_u32..).zip(compared) {
        let y = TOP + ROW_HEIGHT * (f64::from(place) + 0.5);
        let versus = row.versus.as_deref().unwrap_or_default();
        out += &text(8.0, y - 1.0, "start", 400, "#1c2430", &row.metric);
        out += &text(
            8.0,
            y + 13.0,
            "start",
            400,
            "#6b7687",
            &format!("to {versus}"),
        );
        out += &dots(&scale, row, y);
        if let Some(goal) = report.goal_of(row) {
            let x = scale.x(goal);
            let _ = writeln!(
                out,
                "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{:.1}\" stroke=\"{GOAL_COLOUR}\" stroke-width=\"2\"/>",
                y - 13.0,
                y + 13.0
            );
        }
        let (ratio, value) = (row.ratio_median.unwrap_or(0.0), number(row.median));
        let words = format!("{ratio:.2} ({value} {})", row.unit);
        out += &text(WIDTH - 8.0, y + 4.0, "end", 600, "#1c2430", &words);
    }
    out + "</svg>"
}

/// A row's rounds and its median.
fn dots(scale: &Scale, row: &Row, y: f64) -> String {
    let mut out = String::new();
    let (Some(min), Some(median), Some(max)) = (row.ratio_min, row.ratio_median, row.ratio_max)
    else {
        return out;
    };
    let _ = writeln!(
        out,
        "<line x1=\"{:.1}\" y1=\"{y}\" x2=\"{:.1}\" y2=\"{y}\" stroke=\"#9db7e8\" stroke-width=\"2\"/>",
        scale.x(min),
        scale.x(max)
    );
    for ratio in &row.ratios {
        let x = scale.x(*ratio);
        let _ = writeln!(
            out,
            "<circle cx=\"{x:.1}\" cy=\"{y}\" r=\"4\" fill=\"#2f6fde\" fill-opacity=\"0.35\"/>"
        );
    }
    let _ = writeln!(
        out,
        "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"3\" height=\"20\" fill=\"#173f8a\"/>",
        scale.x(median) - 1.5,
        y - 10.0
    );
    out
}

/// With its thousands apart, or with two digits when it is small.
fn number(value: f64) -> String {
    if value < 100.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    #[test]
    fn the_page_fetches_nothing_and_shows_every_round() {
        let page = page(&example());
        assert_eq!(page.matches("<circle").count(), 4, "two rounds, two rows");
        assert!(page.contains("one &lt;against&gt; another"));
        let outside = page.replace("http://www.w3.org/2000/svg", "");
        assert!(
            !outside.contains("http") && !outside.contains("src="),
            "{outside}"
        );
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(number(1_234_567.0), "1\u{202f}234\u{202f}567");
        assert_eq!(number(1.5), "1.50");
        assert_eq!(number(100.0), "100");
    }
}
