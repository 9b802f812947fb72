//! Scales and where their lines are drawn.

use crate::number::{duration, three_digits, whole};

/// Numbers along a line of a picture.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axis {
    from: f64,
    to: f64,
    begin: f64,
    end: f64,
    logarithmic: bool,
}

impl Axis {
    /// From `from` to `to`, drawn from `begin` to `end`.
    pub(crate) fn linear(from: f64, to: f64, begin: f64, end: f64) -> Self {
        Self {
            from,
            // A range of nothing has no places in it.
            to: if to > from { to } else { from + 1.0 },
            begin,
            end,
            logarithmic: false,
        }
    }

    /// For ratios: linear where they are near to each other, else logarithmic with ends at 1, 2 or 5 of some power of ten.
    pub(crate) fn ratios(from: f64, to: f64, begin: f64, end: f64) -> Self {
        let (from, to, logarithmic) = ratio_ends(from, to);
        Self {
            from,
            to,
            begin,
            end,
            logarithmic,
        }
    }

    /// Round ratios within, and no more than there is room for.
    pub(crate) fn round_ratios(&self) -> Vec<f64> {
        if !self.logarithmic {
            return self.round_numbers(8.0);
        }
        let tens_only = self.to / self.from > 1001.0;
        ratio_steps()
            .filter(|step| *step >= self.from * 0.999 && *step <= self.to * 1.001)
            .filter(|step| !tens_only || (step.log10() - step.log10().round()).abs() < 1e-9)
            .collect()
    }

    /// For latencies of at least `least` and at most `most` nanoseconds, with ends at 1, 2 or 5 of some power of ten.
    pub(crate) fn latency(least: u64, most: u64, begin: f64, end: f64) -> Self {
        let (least, most) = (
            crate::number::approximate(least.max(1)),
            crate::number::approximate(most.max(1)),
        );
        let from = steps().rfind(|step| *step <= least).unwrap_or(1.0);
        let to = steps().find(|step| *step >= most && *step > from);
        Self {
            from,
            to: to.unwrap_or(most.max(from * 2.0)),
            begin,
            end,
            logarithmic: true,
        }
    }

    /// Where a number lies; those outside lie at the ends.
    pub(crate) fn at(&self, number: f64) -> f64 {
        self.begin + self.share(number) * (self.end - self.begin)
    }

    /// How far from the begin to the end a number lies: 0 to 1.
    pub(crate) fn share(&self, number: f64) -> f64 {
        let number = number.clamp(self.from, self.to);
        let (number, from, to) = if self.logarithmic {
            (number.ln(), self.from.ln(), self.to.ln())
        } else {
            (number, self.from, self.to)
        };
        (number - from) / (to - from)
    }

    /// Round latencies within, and their names.
    pub(crate) fn latencies(&self) -> Vec<(f64, String)> {
        // Beyond three decades only the tens are named.
        let tens_only = self.to / self.from > 1001.0;
        steps()
            .filter(|step| *step >= self.from * 0.999 && *step <= self.to * 1.001)
            .filter(|step| !tens_only || (step.log10() - step.log10().round()).abs() < 1e-9)
            .map(|step| (step, round(&duration(whole(step)))))
            .collect()
    }

    /// Round numbers within, at most about `most` of them.
    pub(crate) fn round_numbers(&self, most: f64) -> Vec<f64> {
        let step = step_of((self.to - self.from) / most);
        let first = (self.from / step - 1e-9).ceil();
        (0..100)
            .map(|index| (first + f64::from(index)) * step)
            .take_while(|number| *number <= self.to + step * 1e-9)
            .collect()
    }
}

/// Where an axis for these ratios begins and ends, and whether it is logarithmic.
pub(crate) fn ratio_ends(from: f64, to: f64) -> (f64, f64, bool) {
    // What is slower by more than this cannot be told from standing still.
    let from = from.max(to / 1e6).max(1e-9);
    if to / from > 4.0 {
        let low = ratio_steps().rfind(|step| *step <= from * (1.0 + 1e-9));
        let high = ratio_steps().find(|step| *step >= to * (1.0 - 1e-9));
        return (low.unwrap_or(from), high.unwrap_or(to), true);
    }
    let step = step_of((to - from).max(0.05) / 8.0);
    let (low, high) = (
        (from / step + 1e-6).floor() * step,
        (to / step - 1e-6).ceil() * step,
    );
    (low.max(0.0), high.max(low + step), false)
}

/// 1, 2, 5, 10, ... and their parts, for ratios.
fn ratio_steps() -> impl DoubleEndedIterator<Item = f64> {
    (-10..16).flat_map(|power| [1.0, 2.0, 5.0].map(|step| step * 10_f64.powi(power)))
}

/// 1, 2, 5, 10, ... nanoseconds, up to some thousand years.
fn steps() -> impl DoubleEndedIterator<Item = f64> {
    (0..20).flat_map(|power| [1.0, 2.0, 5.0].map(|step| step * 10_f64.powi(power)))
}

/// The least of 1, 2, 5, 10, ... and of their tenths that is not below this.
pub(crate) fn step_of(least: f64) -> f64 {
    if !least.is_finite() || least <= 0.0 {
        return 1.0;
    }
    let ten = 10_f64.powf(least.log10().floor());
    let found = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|step| step * ten >= least * (1.0 - 1e-9));
    found.unwrap_or(10.0) * ten
}

/// `20.0 us` as `20 us`.
fn round(text: &str) -> String {
    let (number, unit) = text.split_once(' ').unwrap_or((text, ""));
    let number = match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.'),
        false => number,
    };
    format!("{number} {unit}")
}

/// A number on an axis, without digits that say nothing.
pub(crate) fn name(number: f64) -> String {
    if number.abs() >= 1000.0 {
        let short = crate::number::short(number);
        return round(&short).trim_end().to_owned();
    }
    let text = three_digits(number);
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_have_round_names() {
        let names = |least, most| -> Vec<String> {
            let axis = Axis::latency(least, most, 0.0, 100.0);
            axis.latencies().into_iter().map(|(_, name)| name).collect()
        };
        assert_eq!(names(37_000, 81_000), ["20 us", "50 us", "100 us"]);
        assert_eq!(
            names(900, 40_000_000),
            ["1 us", "10 us", "100 us", "1 ms", "10 ms"]
        );
        assert_eq!(names(0, 0), ["1 ns", "2 ns"]);
        assert!(!names(1, u64::MAX).is_empty());
    }

    #[test]
    fn places_lie_between_the_ends() {
        let axis = Axis::latency(1_000, 1_000_000, 200.0, 0.0);
        assert!((axis.at(1_000.0) - 200.0).abs() < 1e-9 && axis.at(1e6).abs() < 1e-9);
        assert!((axis.at(1.0) - 200.0).abs() < 1e-9 && axis.at(1e12).abs() < 1e-9);
        let flat = Axis::linear(3.0, 3.0, 0.0, 10.0);
        assert!(flat.at(3.0).is_finite());
    }

    #[test]
    fn ratios_far_apart_are_drawn_logarithmically() {
        assert_eq!(ratio_ends(0.75, 8.3), (0.5, 10.0, true));
        let (from, to, logarithmic) = ratio_ends(0.82, 1.13);
        assert!(
            (from - 0.8).abs() < 1e-9 && (to - 1.15).abs() < 1e-9 && !logarithmic,
            "{from} {to}"
        );
        assert_eq!(
            Axis::ratios(0.75, 8.3, 0.0, 1.0).round_ratios(),
            [0.5, 1.0, 2.0, 5.0, 10.0]
        );
        for (from, to) in [
            (1.0, 1.0),
            (0.0, 0.0),
            (0.0, 1.0),
            (1e-300, 1e300),
            (0.0, 1e308),
        ] {
            let axis = Axis::ratios(from, to, 0.0, 1.0);
            let ratios = axis.round_ratios();
            assert!(
                axis.at(1.0).is_finite() && ratios.len() < 30,
                "{from} to {to}: {ratios:?}"
            );
        }
    }

    #[test]
    fn round_numbers_are_few_and_inside() {
        for (from, to) in [
            (0.0, 10.0),
            (0.0, 43_512.0),
            (0.37, 1.25),
            (2.0, 2.0),
            (0.0, 1e15),
        ] {
            let axis = Axis::linear(from, to, 0.0, 1.0);
            let numbers = axis.round_numbers(8.0);
            assert!(
                !numbers.is_empty() && numbers.len() <= 10,
                "{from} to {to}: {numbers:?}"
            );
        }
        assert_eq!([name(0.5), name(40_000.0), name(1.0)], ["0.5", "40 k", "1"]);
    }
}
