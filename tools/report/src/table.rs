//! Tables, as text and as HTML with the same words in each cell.

use std::fmt::Write;
use std::ops::Range;

/// A cell: what is shown, and the number behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// What is shown.
    pub text: String,
    /// The latency that this is, in nanoseconds, if it is one.
    pub ns: Option<u64>,
    /// Whether it is bad news.
    pub bad: bool,
}

impl Cell {
    /// Words.
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            ..Self::default()
        }
    }
}

/// A table with a heading for each row and column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// What it shows.
    pub caption: String,
    /// Headings of the columns, the one of the rows' headings first.
    pub head: Vec<String>,
    /// Rows: their heading and their cells.
    pub rows: Vec<(String, Vec<Cell>)>,
    /// What must be said below it; may be empty.
    pub note: String,
}

impl Table {
    /// As text that is at most so many letters wide, if that is possible: in one table, else in several with some of the
    /// columns each, else with a block for each row.
    #[must_use]
    pub fn to_text(&self, width: usize) -> String {
        let mut text = String::new();
        if !self.caption.is_empty() {
            text += &format!("{}\n", clean(&self.caption));
        }
        let widths = self.widths();
        match columns_in(width, &widths) {
            Some(parts) => {
                for (number, part) in parts.into_iter().enumerate() {
                    if number > 0 {
                        text.push('\n');
                    }
                    self.side_by_side(&mut text, &widths, part);
                }
            }
            None => self.stacked(&mut text),
        }
        if !self.note.is_empty() {
            text += &format!("{}\n", clean(&self.note));
        }
        text
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.head.iter().map(|head| wide(head)).collect();
        for (heading, cells) in &self.rows {
            let texts = [heading]
                .into_iter()
                .chain(cells.iter().map(|cell| &cell.text));
            for (width, text) in widths.iter_mut().zip(texts) {
                *width = (*width).max(wide(text));
            }
        }
        widths
    }

    /// Some of the columns, behind the rows' headings; rows that have nothing in them are left out.
    fn side_by_side(&self, out: &mut String, widths: &[usize], part: Range<usize>) {
        let mut line = |heading: &str, texts: &[&str]| {
            let first = widths.first().copied().unwrap_or(0);
            let mut line = format!("{}{}", clean(heading), padding(heading, first));
            for (text, width) in texts.iter().zip(&widths[part.clone()]) {
                line += &format!("  {}{}", padding(text, *width), clean(text));
            }
            let _ = writeln!(out, "{}", line.trim_end());
        };
        let heads: Vec<&str> = self.head[part.clone()].iter().map(String::as_str).collect();
        line(self.head.first().map_or("", String::as_str), &heads);
        for (heading, cells) in &self.rows {
            let texts = cells.iter().map(|cell| cell.text.as_str());
            let texts: Vec<&str> = texts.skip(part.start - 1).take(part.len()).collect();
            if texts.iter().any(|text| !text.is_empty()) {
                line(heading, &texts);
            }
        }
    }

    fn stacked(&self, out: &mut String) {
        let columns = self.head.get(1..).unwrap_or_default();
        let room = columns.iter().map(|head| wide(head)).max().unwrap_or(0);
        for (heading, cells) in &self.rows {
            let _ = writeln!(out, "{}", clean(heading));
            for (head, cell) in columns
                .iter()
                .zip(cells)
                .filter(|(_, cell)| !cell.text.is_empty())
            {
                let _ = writeln!(out, "  {:room$}  {}", clean(head), clean(&cell.text));
            }
        }
    }

    /// As HTML: headings are told as such, so that a screen reader names them with each cell.
    #[must_use]
    pub fn to_html(&self) -> String {
        let label = escape(&self.caption);
        let mut html = format!(
            "<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"{label}\">\n<table>\n"
        );
        if !self.caption.is_empty() {
            html += &format!("<caption>{}</caption>\n", escape(&self.caption));
        }
        html += "<thead><tr>";
        for head in &self.head {
            let _ = match head.as_str() {
                "" => write!(html, "<td></td>"),
                head => write!(html, "<th scope=\"col\">{}</th>", escape(head)),
            };
        }
        html += "</tr></thead>\n<tbody>\n";
        for (heading, cells) in &self.rows {
            let _ = write!(html, "<tr><th scope=\"row\">{}</th>", escape(heading));
            for cell in cells {
                let class = if cell.bad { " class=\"bad\"" } else { "" };
                let ns = cell.ns.map(|ns| format!(" data-ns=\"{ns}\""));
                let ns = ns.unwrap_or_default();
                let _ = write!(html, "<td{class}{ns}>{}</td>", escape(&cell.text));
            }
            html += "</tr>\n";
        }
        html += "</tbody>\n</table>\n</div>\n";
        if !self.note.is_empty() {
            html += &format!("<p class=\"soft\">{}</p>\n", escape(&self.note));
        }
        html
    }
}

/// Columns that fit into a line each with the rows' headings before them; none if there is one that does not.
fn columns_in(width: usize, widths: &[usize]) -> Option<Vec<Range<usize>>> {
    let (first, rest) = widths.split_first()?;
    let mut parts: Vec<Range<usize>> = Vec::new();
    let mut used = width + 1;
    for (column, own) in (1..).zip(rest) {
        match parts.last_mut() {
            Some(part) if used + 2 + own <= width => {
                part.end = column + 1;
                used += 2 + own;
            }
            _ => {
                parts.push(column..column + 1);
                used = first + 2 + own;
            }
        }
        if used > width {
            return None;
        }
    }
    Some(parts)
}

/// What a text lacks to be so wide.
fn padding(text: &str, width: usize) -> String {
    " ".repeat(width.saturating_sub(wide(text)))
}

/// Letters of a text; none of those that are used here is wider than one column.
fn wide(text: &str) -> usize {
    text.chars().count()
}

/// Text from a file as a terminal can be shown it. Narrow spaces between digits become ordinary ones, since few terminals
/// have such.
pub(crate) fn clean(text: &str) -> String {
    let shown = |letter: char| match letter {
        '\u{202f}' => ' ',
        control if control.is_control() => '\u{fffd}',
        other => other,
    };
    text.chars().map(shown).collect()
}

/// Text as HTML and SVG take it.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // XML has no way to say most of them.
            control if control.is_control() => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table {
            caption: "a <table>".to_owned(),
            head: vec!["".to_owned(), "one".to_owned(), "another".to_owned()],
            rows: vec![
                (
                    "p50".to_owned(),
                    vec![
                        Cell {
                            ns: Some(83_149),
                            ..Cell::text("83.1 us")
                        },
                        Cell::text("1\u{1b}[31m"),
                    ],
                ),
                ("p99".to_owned(), vec![Cell::text("9 ms"), Cell::text("")]),
            ],
            note: "a note".to_owned(),
        }
    }

    #[test]
    fn columns_are_aligned_where_there_is_room() {
        let expected = "a <table>\n         one  another\np50  83.1 us   1\u{fffd}[31m\np99     9 ms\na note\n";
        assert_eq!(table().to_text(80), expected);
    }

    #[test]
    fn narrower_terminals_get_several_tables() {
        let text = table().to_text(20);
        let expected = "a <table>\n         one\np50  83.1 us\np99     9 ms\n\n     another\np50   1\u{fffd}[31m\na note\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn narrow_terminals_get_a_block_a_row() {
        let mut table = table();
        "a long heading".clone_into(&mut table.rows[0].0);
        let text = table.to_text(20);
        assert!(
            text.contains("a long heading\n  one      83.1 us\n  another  1"),
            "{text}"
        );
        assert!(
            text.lines().all(|line| line.chars().count() <= 20),
            "{text}"
        );
    }

    #[test]
    fn html_tells_headings_and_escapes() {
        let html = table().to_html();
        assert!(
            html.contains("<caption>a &lt;table&gt;</caption>"),
            "{html}"
        );
        assert!(html.contains("<th scope=\"row\">p50</th><td data-ns=\"83149\">83.1 us</td>"));
        assert!(!html.contains('\u{1b}'), "{html}");
    }
}
