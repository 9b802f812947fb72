//! Contenders that take turns, and what is said of their results.

use serde::Serialize;

/// Least, middle and greatest of some samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// The middle one; of an even number, the mean of the middle two.
    pub median: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of these samples; `None` when there are none.
    #[must_use]
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some(Self { min, median, max })
    }
}

/// A contender's name and one run of it, which yields a sample.
pub struct Contender<'a> {
    /// Name for reports.
    pub name: &'static str,
    /// One run.
    pub run: Box<dyn FnMut() -> anyhow::Result<f64> + 'a>,
}

/// Runs the contenders in turn, A B A B ..., `rounds` times; each one's samples, in order.
///
/// # Errors
/// The first run that fails ends it.
pub fn interleave(
    rounds: usize,
    contenders: &mut [Contender<'_>],
    mut progress: impl FnMut(usize),
) -> anyhow::Result<Vec<Vec<f64>>> {
    let mut samples: Vec<Vec<f64>> = contenders
        .iter()
        .map(|_| Vec::with_capacity(rounds))
        .collect();
    for round in 0..rounds {
        for (contender, samples) in contenders.iter_mut().zip(&mut samples) {
            let sample = (contender.run)()
                .map_err(|error| error.context(format!("{}, round {round}", contender.name)))?;
            samples.push(sample);
        }
        progress(round + 1);
    }
    Ok(samples)
}

/// Each of `samples` divided by the rival's of the same round.
///
/// # Panics
/// When there are not as many of both.
#[must_use]
pub fn ratios(samples: &[f64], rival: &[f64]) -> Vec<f64> {
    assert_eq!(samples.len(), rival.len(), "both ran in every round");
    samples.iter().zip(rival).map(|(a, b)| a / b).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        let odd = Spread::of(&[3.0, 1.0, 2.0]).unwrap();
        assert_eq!((odd.min, odd.median, odd.max), (1.0, 2.0, 3.0));
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn contenders_take_turns() {
        let order = std::cell::RefCell::new(String::new());
        let mut contenders = [("a", 2.0), ("b", 1.0)].map(|(name, sample)| Contender {
            name,
            run: Box::new({
                let order = &order;
                move || {
                    order.borrow_mut().push_str(name);
                    Ok(sample)
                }
            }),
        });
        let samples = interleave(3, &mut contenders, |_| {}).unwrap();
        assert_eq!(*order.borrow(), "ababab");
        assert_eq!(ratios(&samples[0], &samples[1]), [2.0; 3]);
    }

    #[test]
    fn a_failure_names_the_contender() {
        let mut broken = [Contender {
            name: "broken",
            run: Box::new(|| anyhow::bail!("no")),
        }];
        let error = interleave(1, &mut broken, |_| {}).unwrap_err();
        assert!(format!("{error:#}").contains("broken, round 0: no"));
    }
}
