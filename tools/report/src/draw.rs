//! Pictures, as SVG without scripts: they look the same in a page and by themselves.

mod axis;
pub mod curves;
pub mod dots;
pub mod heat;
pub mod rates;

pub(crate) use axis::ratio_ends;
pub(crate) use curves::rarity_names;

use std::fmt::Write;

use crate::table::escape;

/// Width of every picture, in its own units, which are about those of a screen.
pub const WIDTH: f64 = 760.0;

/// Colours of curves on light and dark ground, after Okabe and Ito: told apart with any colour vision. The dashes tell
/// them apart without colours.
const CURVES: [(&str, &str, &str); 6] = [
    ("#0063a8", "#62b5f0", "none"),
    ("#c44f00", "#ff9a57", "8 3"),
    ("#00795a", "#46c9a3", "2 3"),
    ("#9a3f7d", "#e69cc9", "8 3 2 3"),
    ("#8a6500", "#eec34f", "4 4"),
    ("#4b5563", "#b6bdc7", "1 5"),
];

/// Colours of a heat map, from few to many, on light and on dark ground: one hue, so that only lightness tells.
const HEAT: [(&str, &str); 7] = [
    ("#bcd5ea", "#24466a"),
    ("#9ac0e0", "#2d5f8f"),
    ("#74a8d4", "#397ab2"),
    ("#508dc4", "#5297d0"),
    ("#3371ad", "#7ab5e3"),
    ("#1d5590", "#a9d2f2"),
    ("#0b366b", "#e3f3ff"),
];

/// Levels of a heat map.
pub(crate) const HEAT_LEVELS: usize = HEAT.len();

/// What pictures look like: class names and colours, for light ground and for dark.
#[must_use]
pub fn style() -> String {
    let mut light = String::from(
        ".t { font: 13px system-ui, sans-serif; fill: #4f4f4a } .strong { font-weight: 600; fill: #1c1c1a }\n\
         .ground { fill: #fbfbf9 } .grid { stroke: #d9d8d0; stroke-width: 1 } .axis { stroke: #8a8a83; stroke-width: 1 }\n\
         .curve { fill: none; stroke-width: 2; stroke-linejoin: round }\n\
         .span { stroke: #7fa6cf; stroke-width: 3 } .dot { fill: #0063a8; fill-opacity: .45 } .median { fill: #0b366b }\n\
         .one { stroke: #6b6b65; stroke-width: 1.5 } .goal { stroke: #c44f00; stroke-width: 2.5 }\n\
         .missed { fill: #a83a00; font-weight: 600 } .fault { fill: #c44f00 } .over { fill: none; stroke-width: 2 }\n\
         .p99 { stroke: #c44f00 }\n",
    );
    let mut dark = String::from(
        ".t { fill: #b3b3ac } .strong { fill: #ececea } .ground { fill: #191a1c } .grid { stroke: #35363a }\n\
         .axis { stroke: #77787c } .span { stroke: #41698f } .dot { fill: #62b5f0 } .median { fill: #e3f3ff }\n\
         .one { stroke: #9b9b95 } .goal { stroke: #ff9a57 } .missed { fill: #ffab73 } .fault { fill: #ff9a57 }\n\
         .p99 { stroke: #ff9a57 }\n",
    );
    for (number, (on_light, on_dark, dashes)) in CURVES.into_iter().enumerate() {
        let _ = writeln!(
            light,
            ".c{number} {{ stroke: {on_light}; stroke-dasharray: {dashes} }}"
        );
        let _ = writeln!(dark, ".c{number} {{ stroke: {on_dark} }}");
    }
    for (level, (on_light, on_dark)) in HEAT.into_iter().enumerate() {
        let _ = writeln!(light, ".h{level} {{ fill: {on_light} }}");
        let _ = writeln!(dark, ".h{level} {{ fill: {on_dark} }}");
    }
    format!("{light}@media (prefers-color-scheme: dark) {{\n{dark}}}\n")
}

/// A picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// What it shows, in a few words.
    pub title: String,
    /// What can be read off it, in words, for those who cannot see it.
    pub description: String,
    /// Its height; [`WIDTH`] is its width.
    pub height: f64,
    body: String,
}

impl Picture {
    /// An empty one.
    pub(crate) fn new(title: impl Into<String>, height: f64) -> Self {
        Self {
            title: title.into(),
            description: String::new(),
            height,
            body: String::new(),
        }
    }

    /// For a page that has [`style`] among its own.
    #[must_use]
    pub fn to_svg(&self) -> String {
        let label = format!("{}. {}", self.title, self.description);
        format!(
            "<svg class=\"picture\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {:.0}\" role=\"img\" \
             aria-label=\"{}\">\n{}</svg>\n",
            self.height,
            escape(label.trim_end()),
            self.body
        )
    }

    pub(crate) fn text(&mut self, class: &str, anchor: Anchor, x: f64, y: f64, words: &str) {
        let _ = writeln!(
            self.body,
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{}\">{}</text>",
            anchor.word(),
            escape(words)
        );
    }

    pub(crate) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let _ = writeln!(
            self.body,
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        );
    }

    pub(crate) fn curve(&mut self, class: &str, points: &[(f64, f64)]) {
        let mut places = String::new();
        for (x, y) in points {
            let _ = write!(places, "{x:.1},{y:.1} ");
        }
        let _ = writeln!(
            self.body,
            "<polyline class=\"{class}\" points=\"{}\"/>",
            places.trim_end()
        );
    }

    /// Several rectangles of one class: left, top, width, height.
    pub(crate) fn rectangles(&mut self, class: &str, all: &[(f64, f64, f64, f64)]) {
        let mut path = String::new();
        for (x, y, width, height) in all {
            let _ = write!(path, "M{x:.1} {y:.1}h{width:.1}v{height:.1}h-{width:.1}z");
        }
        if !path.is_empty() {
            let _ = writeln!(self.body, "<path class=\"{class}\" d=\"{path}\"/>");
        }
    }

    pub(crate) fn dot(&mut self, class: &str, x: f64, y: f64, radius: f64) {
        let _ = writeln!(
            self.body,
            "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\"/>"
        );
    }

    /// Names of curves in their lines' looks, in rows, from a place on; gives the height that they took.
    pub(crate) fn legend(&mut self, left: f64, top: f64, names: &[String]) -> f64 {
        let (mut x, mut y) = (left, top);
        for (number, name) in names.iter().enumerate() {
            let room = 44.0 + width_of(name) + 18.0;
            if x > left && x + room > WIDTH - 8.0 {
                (x, y) = (left, y + 20.0);
            }
            self.line(&curve_class(number), (x, y + 7.0), (x + 34.0, y + 7.0));
            self.text("t", Anchor::Start, x + 42.0, y + 11.5, name);
            x += room;
        }
        if names.is_empty() {
            0.0
        } else {
            y + 20.0 - top
        }
    }
}

/// Where a text's place is within it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

impl Anchor {
    fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Middle => "middle",
            Self::End => "end",
        }
    }
}

pub(crate) fn curve_class(number: usize) -> String {
    format!("curve c{}", number % CURVES.len())
}

/// About how wide a text is, rather more than less.
pub(crate) fn width_of(text: &str) -> f64 {
    7.2 * crate::number::count_of(text.chars().count())
}

/// At most so many letters of a text.
pub(crate) fn shortened(text: &str, letters_max: usize) -> String {
    if text.chars().count() <= letters_max {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(letters_max.saturating_sub(1)).collect();
    short.push('\u{2026}');
    short
}

/// Pictures one below the other in one file, under a title and some lines of text.
#[must_use]
pub fn sheet(title: &str, lines: &[String], pictures: &[Picture]) -> String {
    const LINE: f64 = 19.0;
    let mut head = Picture::new("", 0.0);
    head.text(
        "t strong",
        Anchor::Start,
        20.0,
        34.0,
        &shortened(title, 100),
    );
    let mut y = 40.0;
    for line in lines {
        // Facts can be long: they are broken at spaces.
        for part in broken(line, 108) {
            y += LINE;
            head.text("t", Anchor::Start, 20.0, y, &part);
        }
    }
    y += 14.0;
    let mut parts = String::new();
    for picture in pictures {
        y += 28.0;
        let mut heading = Picture::new("", 0.0);
        heading.text(
            "t strong",
            Anchor::Start,
            20.0,
            y,
            &shortened(&picture.title, 100),
        );
        parts += &heading.body;
        y += 10.0;
        let _ = writeln!(
            parts,
            "<g transform=\"translate(20 {y:.0})\">\n{}</g>",
            picture.body
        );
        y += picture.height;
    }
    let (width, height) = (WIDTH + 40.0, y + 20.0);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
         height=\"{height:.0}\">\n<title>{}</title>\n<style>\n{}</style>\n<rect class=\"ground\" width=\"100%\" \
         height=\"100%\"/>\n{}{parts}</svg>\n",
        escape(title),
        style(),
        head.body
    )
}

/// A text in lines of at most so many letters, where it has spaces.
fn broken(text: &str, letters_max: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last_mut().expect("there is always one");
        if !last.is_empty() && last.chars().count() + 1 + word.chars().count() > letters_max {
            lines.push(format!("    {word}"));
        } else {
            if !last.is_empty() {
                last.push(' ');
            }
            last.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_broken_and_nothing_is_lost() {
        let lines = broken("one two three four", 9);
        assert_eq!(lines, ["one two", "    three", "    four"]);
        assert_eq!(broken("", 9), [""]);
    }

    #[test]
    fn a_sheet_is_as_high_as_its_pictures() {
        let pictures = [Picture::new("a", 100.0), Picture::new("<b>", 50.0)];
        let sheet = sheet("title", &["line".to_owned()], &pictures);
        assert!(
            sheet.contains("height=\"319\"") && sheet.contains("&lt;b&gt;"),
            "{sheet}"
        );
        assert!(sheet.starts_with("<svg ") && sheet.ends_with("</svg>\n"));
    }
}
