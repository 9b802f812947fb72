//! Contenders that take turns.

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

#[cfg(test)]
mod tests {
    use super::*;
    use sandrail_report::ratios;

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
