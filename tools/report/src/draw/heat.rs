//! Latency over time: the darker a place (on dark ground the brighter), the more operations.

use super::axis::Axis;
use super::rates::seconds;
use super::{Anchor, HEAT_LEVELS, Picture, WIDTH};
use crate::collection::Series;
use crate::latency::sum;
use crate::number::{approximate, count_of, duration, grouped, whole};

const LEFT: f64 = 74.0;
const RIGHT: f64 = WIDTH - 26.0;
const PLOT_HEIGHT: f64 = 240.0;
const ROWS: usize = 48;
/// More intervals than this are joined.
const COLUMNS_MAX: usize = 165;

/// Counts by time and latency.
struct Grid {
    columns: usize,
    counts: Vec<u64>,
    most: u64,
    /// 99th percentile of each column, if there is anything in it.
    p99: Vec<Option<u64>>,
}

/// What the axes have to hold; pictures that are to be compared share it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Extent {
    least_ns: u64,
    most_ns: u64,
    end_s: f64,
}

impl Extent {
    /// Of all of these; none if nothing was logged by interval.
    #[must_use]
    pub fn of<'a>(all: impl Iterator<Item = &'a Series>) -> Option<Self> {
        let mut extent: Option<Self> = None;
        for interval in all.flat_map(|series| &series.intervals) {
            let buckets = &interval.counts.buckets;
            let (Some((least_ns, _)), Some((most_ns, _))) = (buckets.first(), buckets.last())
            else {
                continue;
            };
            let end_s = (interval.start_s + interval.length_s).max(1e-3);
            let before = extent.unwrap_or(Self {
                least_ns: *least_ns,
                most_ns: *most_ns,
                end_s,
            });
            extent = Some(Self {
                least_ns: before.least_ns.min(*least_ns),
                most_ns: before.most_ns.max(*most_ns),
                end_s: before.end_s.max(end_s),
            });
        }
        extent
    }
}

/// The latencies of one kind of operation by interval.
#[must_use]
pub fn picture(title: &str, series: &Series, extent: Extent) -> Picture {
    let mut picture = Picture::new(title, 0.0);
    let top = 34.0;
    let bottom = top + PLOT_HEIGHT;
    let x = Axis::linear(0.0, extent.end_s, LEFT, RIGHT);
    let y = Axis::latency(extent.least_ns, extent.most_ns, bottom, top);
    let grid = Grid::of(series, x, y);
    for (ns, name) in y.latencies() {
        let at = y.at(ns);
        picture.line("grid", (LEFT, at), (RIGHT, at));
        picture.text("t", Anchor::End, LEFT - 8.0, at + 4.5, &name);
    }
    grid.draw(&mut picture, bottom);
    grid.draw_p99(&mut picture, y);
    seconds(&mut picture, x, bottom);
    let words = "seconds since the begin";
    picture.text(
        "t",
        Anchor::Middle,
        f64::midpoint(LEFT, RIGHT),
        bottom + 42.0,
        words,
    );
    key(&mut picture, grid.most);
    picture.description = format!(
        "{} operations in {} intervals, from {} to {}; at most {} in one place.",
        grouped(series.latency.count),
        series.intervals.len(),
        duration(series.latency.min_ns),
        duration(series.latency.max_ns),
        grouped(grid.most)
    );
    picture.height = bottom + 52.0;
    picture
}

/// A place in a list of so many, by a share from 0 to 1.
fn place(share: f64, len: usize) -> usize {
    let place = whole((share * count_of(len)).floor());
    usize::try_from(place).unwrap_or(usize::MAX).min(len - 1)
}

impl Grid {
    fn of(series: &Series, x: Axis, y: Axis) -> Self {
        let own = series
            .intervals
            .iter()
            .map(|each| each.start_s + each.length_s);
        let share = x.share(own.fold(0.0, f64::max)).max(1e-3);
        // As many as there are intervals over the whole of the axis, of which this recording may fill a part.
        let columns = whole(count_of(series.intervals.len()) / share);
        let columns = usize::try_from(columns).unwrap_or(COLUMNS_MAX);
        let columns = columns.clamp(1, COLUMNS_MAX);
        let mut counts = vec![0_u64; columns * ROWS];
        let mut of_columns = vec![Vec::new(); columns];
        for interval in &series.intervals {
            let column = place(x.share(interval.start_s + interval.length_s / 2.0), columns);
            of_columns[column].push(&interval.counts);
            for (ns, count) in &interval.counts.buckets {
                let row = place(y.share(approximate(*ns)), ROWS);
                let cell = &mut counts[column * ROWS + row];
                *cell = cell.saturating_add(*count);
            }
        }
        let p99 = of_columns.into_iter().map(|column| {
            let histogram = sum(column.into_iter())?;
            Some(histogram.value_at_quantile(0.99))
        });
        Self {
            columns,
            most: counts.iter().copied().max().unwrap_or(0),
            p99: p99.collect(),
            counts,
        }
    }

    fn draw(&self, picture: &mut Picture, bottom: f64) {
        let width = (RIGHT - LEFT) / count_of(self.columns);
        let height = PLOT_HEIGHT / count_of(ROWS);
        let mut levels = vec![Vec::new(); HEAT_LEVELS];
        for (index, count) in self.counts.iter().enumerate() {
            let Some(level) = level(*count, self.most) else {
                continue;
            };
            let left = LEFT + width * count_of(index / ROWS);
            let top = bottom - height * count_of(index % ROWS + 1);
            // A little more than their share, so that no ground shines through between them.
            levels[level].push((left, top, width + 0.3, height + 0.3));
        }
        for (level, rectangles) in levels.iter().enumerate() {
            picture.rectangles(&format!("h{level}"), rectangles);
        }
    }

    /// A line at the 99th percentile of each column, broken where there is nothing.
    fn draw_p99(&self, picture: &mut Picture, y: Axis) {
        let width = (RIGHT - LEFT) / count_of(self.columns);
        let mut line = Vec::new();
        for (column, p99) in self.p99.iter().chain([&None]).enumerate() {
            let left = LEFT + width * count_of(column);
            match p99 {
                Some(ns) => {
                    let at = y.at(approximate(*ns));
                    line.extend([(left, at), (left + width, at)]);
                }
                None if line.is_empty() => {}
                None => picture.curve("over p99", &std::mem::take(&mut line)),
            }
        }
    }
}

/// The colour for a count, by its logarithm; none for nothing.
fn level(count: u64, most: u64) -> Option<usize> {
    if count == 0 {
        return None;
    }
    let share = (approximate(count) + 1.0).ln() / (approximate(most) + 1.0).ln();
    Some(place(share.min(1.0) * 0.999, HEAT_LEVELS))
}

/// Which colour is how many.
fn key(picture: &mut Picture, most: u64) {
    const STEP: f64 = 26.0;
    let mut x = LEFT;
    picture.text("t", Anchor::Start, x, 18.0, "operations: 1");
    x += 88.0;
    for level in 0..HEAT_LEVELS {
        picture.rectangles(&format!("h{level}"), &[(x, 7.0, STEP, 14.0)]);
        x += STEP;
    }
    let words = format!("{} in a place, on a logarithmic scale", grouped(most));
    picture.text("t", Anchor::Start, x + 8.0, 18.0, &words);
    picture.line("over p99", (RIGHT - 72.0, 14.0), (RIGHT - 38.0, 14.0));
    picture.text("t", Anchor::End, RIGHT, 18.0, "p99");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hlog::Interval;
    use crate::latency::{Counts, Summary, latency_histogram};

    fn series(intervals: usize) -> Series {
        let mut total = latency_histogram();
        let mut made = Vec::new();
        for number in 0..intervals {
            let mut histogram = latency_histogram();
            histogram.record_n(50_000, 900).unwrap();
            histogram.record(3_000_000).unwrap();
            total.add(&histogram).unwrap();
            made.push(Interval {
                start_s: count_of(number) * 0.1,
                length_s: 0.1,
                counts: Counts::of(&histogram),
            });
        }
        Series {
            class: "read".to_owned(),
            latency: Summary::of(&total),
            histogram: Some(total),
            intervals: made,
        }
    }

    #[test]
    fn every_operation_has_its_place() {
        for intervals in [1, 7, 1000] {
            let series = series(intervals);
            let x = Axis::linear(0.0, count_of(intervals) * 0.1, LEFT, RIGHT);
            let grid = Grid::of(&series, x, Axis::latency(50_000, 3_000_000, 300.0, 0.0));
            assert_eq!(grid.counts.iter().sum::<u64>(), series.latency.count);
            // Two places a column: the common ones and the outlier.
            let used = grid.counts.iter().filter(|count| **count > 0).count();
            assert_eq!(used, 2 * grid.columns, "{intervals}");
            assert!(grid.p99.iter().all(|p99| p99.is_some_and(|ns| ns < 51_000)));
        }
    }

    #[test]
    fn one_operation_is_seen_and_none_is_not() {
        assert_eq!(level(0, 1_000_000), None);
        assert_eq!(level(1, 1_000_000), Some(0));
        assert_eq!(level(1_000_000, 1_000_000), Some(HEAT_LEVELS - 1));
        assert_eq!(level(1, 1), Some(HEAT_LEVELS - 1));
    }

    #[test]
    fn it_tells_what_it_shows() {
        let shown = series(10);
        let extent = Extent::of([&shown].into_iter()).unwrap();
        let picture = super::picture("", &shown, extent);
        let told = "in 10 intervals, from 50.0 us to 3.00 ms";
        assert!(picture.description.contains(told), "{picture:?}");
        assert!(!picture.to_svg().contains("NaN"));
        let mut empty = series(1);
        empty.intervals.clear();
        assert_eq!(Extent::of([&empty].into_iter()), None);
        assert!(!super::picture("", &empty, extent).to_svg().contains("NaN"));
    }

    #[test]
    fn a_shorter_recording_fills_its_part_of_a_shared_axis() {
        let (short, long) = (series(10), series(40));
        let shared = Extent::of([&short, &long].into_iter()).unwrap();
        assert!((shared.end_s - 4.0).abs() < 1e-9);
        let x = Axis::linear(0.0, shared.end_s, LEFT, RIGHT);
        let grid = Grid::of(&short, x, Axis::latency(50_000, 3_000_000, 300.0, 0.0));
        assert_eq!(grid.columns, 40);
        let filled = grid.p99.iter().take_while(|p99| p99.is_some()).count();
        assert_eq!(filled, 10);
        assert_eq!(grid.counts.iter().sum::<u64>(), short.latency.count);
    }
}
