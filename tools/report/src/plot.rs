//! Small plots of letters, for terminals.

use crate::collection::{Curve, Rate};
use crate::draw::rarity_names;
use crate::number::{approximate, count_of, duration, short, whole};

/// What a terminal can show.
#[derive(Clone, Copy, Debug)]
pub struct Terminal {
    /// Letters in a line.
    pub width: usize,
    /// Whether it shows more than ASCII.
    pub unicode: bool,
}

/// Letters of curves that are drawn together, the first one over the others.
const MARKS: [char; 6] = [
    '\u{25cf}', '\u{25cb}', '\u{25c6}', '\u{25c7}', '\u{25b2}', '\u{25b3}',
];
const ASCII_MARKS: [char; 6] = ['*', 'o', '#', '+', 'x', '@'];
const ROWS: usize = 9;
/// Room for the names of latencies.
const LABEL: usize = 8;

impl Terminal {
    pub(crate) fn mark(self, number: usize) -> char {
        let marks = if self.unicode { MARKS } else { ASCII_MARKS };
        marks[number % marks.len()]
    }
}

/// Latency by rarity, both logarithmic. One curve is drawn in braille, of which a letter has two by four dots; several by a
/// mark each.
#[must_use]
pub fn curves(terminal: Terminal, curves: &[Curve]) -> String {
    let points = || curves.iter().flat_map(|(_, points)| points);
    let latencies = || points().map(|(_, ns)| (*ns).max(1));
    let (Some(least), Some(most)) = (latencies().min(), latencies().max()) else {
        return String::new();
    };
    let columns = terminal.width.saturating_sub(LABEL + 3).clamp(20, 100);
    let rarest = points()
        .map(|(rarity, _)| -rarity.log10())
        .fold(1.0, f64::max);
    let (low, high) = (
        approximate(least).ln(),
        approximate(most.max(least + 1)).ln(),
    );
    let braille = terminal.unicode && curves.len() == 1;
    let (wide, tall) = if braille { (2, 4) } else { (1, 1) };
    let mut canvas = Canvas::new(columns, ROWS);
    for (number, (_, points)) in curves.iter().enumerate().rev() {
        let mut last = None;
        for dot in 0..columns * wide {
            let rarity = 10_f64.powf(-rarest * count_of(dot) / count_of(columns * wide - 1));
            let Some(ns) = at(points, rarity) else {
                continue;
            };
            let share = (approximate(ns.max(1)).ln() - low) / (high - low);
            let height = index(share * count_of(ROWS * tall - 1));
            if braille {
                // Steps are drawn through, so that the curve stays in one piece.
                let from = last.unwrap_or(height);
                (from.min(height)..=from.max(height)).for_each(|height| canvas.dot(dot, height));
                last = Some(height);
            } else {
                canvas.letter(dot, height, terminal.mark(number));
            }
        }
    }
    let mut out = String::new();
    for (line, letters) in canvas.lines().into_iter().enumerate() {
        // The top, the middle and the bottom are named.
        let share = count_of(ROWS - 1 - line) / count_of(ROWS - 1);
        let name = match line {
            0 | 4 | 8 => duration(whole((low + share * (high - low)).exp())),
            _ => String::new(),
        };
        let edge = if terminal.unicode { '\u{2502}' } else { '|' };
        out += format!("{name:>LABEL$} {edge}{letters}").trim_end();
        out.push('\n');
    }
    out + &rarities(terminal, columns, rarest)
}

/// The axis of rarity with its names.
fn rarities(terminal: Terminal, columns: usize, rarest: f64) -> String {
    let (corner, dash, tick) = match terminal.unicode {
        true => ('\u{2514}', '\u{2500}', '\u{253c}'),
        false => ('+', '-', '+'),
    };
    let mut axis = vec![dash; columns];
    let mut names = vec![' '; columns + LABEL / 2 + 1];
    let mut free_from = 0;
    for (nines, name) in rarity_names().take_while(|(nines, _)| *nines <= rarest + 1e-9) {
        let at = index(nines / rarest * count_of(columns - 1));
        let name: Vec<char> = name.chars().filter(|letter| *letter != ' ').collect();
        let from = (at + LABEL / 2).saturating_sub(name.len() / 2);
        axis[at] = tick;
        if from >= free_from && from + name.len() <= names.len() {
            names[from..from + name.len()].copy_from_slice(&name);
            free_from = from + name.len() + 1;
        }
    }
    let (axis, names): (String, String) = (axis.iter().collect(), names.iter().collect());
    let room = " ".repeat(LABEL + 1);
    let indent = " ".repeat(LABEL + 2 - LABEL / 2);
    format!("{room}{corner}{axis}\n{indent}{}\n", names.trim_end())
}

/// The latency that a share of operations exceeds, in a curve of steps.
fn at(points: &[(f64, u64)], rarity: f64) -> Option<u64> {
    let (last_rarity, _) = points.last()?;
    // A recording of fewer samples ends sooner than others.
    if rarity < last_rarity * 0.999 {
        return None;
    }
    let next = points.partition_point(|(each, _)| *each > rarity * 1.000_001);
    points.get(next).or(points.last()).map(|(_, ns)| *ns)
}

fn index(number: f64) -> usize {
    usize::try_from(whole(number)).unwrap_or(usize::MAX)
}

/// Letters in rows, the first one the lowest.
struct Canvas {
    rows: Vec<Vec<char>>,
}

impl Canvas {
    fn new(columns: usize, rows: usize) -> Self {
        Self {
            rows: vec![vec![' '; columns]; rows],
        }
    }

    fn letter(&mut self, column: usize, row: usize, letter: char) {
        if let Some(place) = self.rows.get_mut(row).and_then(|row| row.get_mut(column)) {
            *place = letter;
        }
    }

    /// Sets one of the dots of a braille letter.
    fn dot(&mut self, x: usize, y: usize) {
        // Bits of the block that begins at U+2800, by row from below.
        const BITS: [[u32; 2]; 4] = [[0x40, 0x80], [0x04, 0x20], [0x02, 0x10], [0x01, 0x08]];
        let Some(place) = self.rows.get_mut(y / 4).and_then(|row| row.get_mut(x / 2)) else {
            return;
        };
        let set = match *place {
            ' ' => 0x2800,
            letter => u32::from(letter),
        };
        *place = char::from_u32(set | BITS[y % 4][x % 2]).unwrap_or(' ');
    }

    fn lines(&self) -> Vec<String> {
        self.rows
            .iter()
            .rev()
            .map(|row| row.iter().collect())
            .collect()
    }
}

/// Operations a second by time in one line of blocks, with the least and the most.
#[must_use]
pub fn rates(terminal: Terminal, rates: &[Rate]) -> String {
    let per_s: Vec<f64> = rates
        .iter()
        .map(|rate| approximate(rate.operations) / rate.length_s)
        .collect();
    let most = per_s.iter().copied().fold(0.0, f64::max);
    let least = per_s.iter().copied().fold(f64::INFINITY, f64::min);
    if per_s.len() < 2 || most <= 0.0 {
        return String::new();
    }
    let blocks: Vec<char> = match terminal.unicode {
        true => (0x2581..=0x2588).filter_map(char::from_u32).collect(),
        false => " .:-=+*#".chars().collect(),
    };
    let columns = terminal
        .width
        .saturating_sub(2)
        .clamp(10, 100)
        .min(per_s.len());
    let line: String = (0..columns)
        .map(|column| {
            // The mean of those that one letter stands for.
            let from = column * per_s.len() / columns;
            let to = ((column + 1) * per_s.len() / columns).max(from + 1);
            let mean = per_s[from..to].iter().sum::<f64>() / count_of(to - from);
            let level = index((mean / most * count_of(blocks.len())).ceil()).clamp(1, blocks.len());
            blocks[level - 1]
        })
        .collect();
    format!(
        "  {line}\n  {} to {} operations/s\n",
        short(least),
        short(most)
    )
}

/// A row's ratios in one line: their range, the median, the goal and the rival at 1.
#[must_use]
pub(crate) fn ratio_line(
    terminal: Terminal,
    columns: usize,
    ends: (f64, f64, bool),
    spread: crate::Spread,
    goal: Option<f64>,
) -> String {
    let (span, median, one, mark) = match terminal.unicode {
        true => ('\u{2500}', '\u{25cf}', '\u{2502}', '\u{25b7}'),
        false => ('-', 'O', '|', '>'),
    };
    let mut letters = vec![' '; columns];
    let (from, to, logarithmic) = ends;
    let place = |ratio: f64| {
        let scaled = |ratio: f64| if logarithmic { ratio.ln() } else { ratio };
        let share = (scaled(ratio.clamp(from, to)) - scaled(from)) / (scaled(to) - scaled(from));
        index(share * count_of(columns - 1)).min(columns - 1)
    };
    letters[place(1.0)] = one;
    letters[place(spread.min)..=place(spread.max)].fill(span);
    if let Some(goal) = goal {
        letters[place(goal)] = mark;
    }
    letters[place(spread.median)] = median;
    letters.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UTF8: Terminal = Terminal {
        width: 60,
        unicode: true,
    };
    const ASCII: Terminal = Terminal {
        width: 60,
        unicode: false,
    };

    fn points() -> Vec<(f64, u64)> {
        let rising = (0..=40).map(|step: u32| {
            let nines = f64::from(step) / 10.0;
            (10_f64.powf(-nines), 50_000 + 1_000 * u64::from(step * step))
        });
        rising.collect()
    }

    #[test]
    fn plots_fit_and_ascii_is_ascii() {
        let one = [("a".to_owned(), points())];
        let two = [("a".to_owned(), points()), ("b".to_owned(), points())];
        for width in [0, 30, 60, 500] {
            for plot in [&one[..], &two[..]] {
                let text = curves(Terminal { width, ..ASCII }, plot);
                assert!(text.is_ascii(), "{text}");
                for text in [text, curves(Terminal { width, ..UTF8 }, plot)] {
                    let room = width.max(31);
                    assert!(
                        text.lines().all(|line| line.chars().count() <= room),
                        "{width}:\n{text}"
                    );
                }
            }
        }
        let text = curves(UTF8, &one);
        assert!(text.contains("99.9%") && text.contains("1.65 ms"), "{text}");
        assert_eq!(curves(UTF8, &[]), "");
        assert!(!curves(UTF8, &[("x".to_owned(), vec![(1.0, 0)])]).is_empty());
    }

    #[test]
    fn a_rising_curve_rises() {
        let text = curves(ASCII, &[("a".to_owned(), points())]);
        let lines: Vec<&str> = text.lines().collect();
        let first = |line: &str| line.find('*');
        assert!(first(lines[0]) > first(lines[ROWS - 1]), "{text}");
    }

    #[test]
    fn rates_are_a_line() {
        let made: Vec<Rate> = (0..8)
            .map(|number: u32| Rate {
                start_s: f64::from(number),
                length_s: 1.0,
                operations: u64::from(number) * 100,
                errors: 0,
            })
            .collect();
        let text = rates(UTF8, &made);
        assert!(
            text.contains("\u{2581}\u{2582}") && text.contains("0 to 700 operations/s"),
            "{text}"
        );
        assert!(rates(ASCII, &made).is_ascii());
        assert_eq!(rates(UTF8, &made[..1]), "");
    }

    #[test]
    fn ratios_have_their_places() {
        let spread = crate::Spread {
            min: 0.5,
            median: 1.0,
            max: 1.5,
        };
        assert_eq!(
            ratio_line(ASCII, 9, (0.0, 2.0, false), spread, Some(1.75)),
            "  --O--> "
        );
    }
}
