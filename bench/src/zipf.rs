//! Popularity by Zipf's law: the k-th most popular of n is asked for in proportion to 1 / k^theta.

/// Draws ranks by rejection-inversion (W. Hörmann and G. Derflinger, "Rejection-inversion to generate variates from
/// monotone discrete distributions", 1996): no table, the same cost for any number of ranks, and theta may be 1 or more.
#[derive(Clone, Copy, Debug)]
pub struct Zipf {
    count: f64,
    theta: f64,
    /// H(1.5) - 1, where the integral of the density begins.
    area_from: f64,
    /// H(count + 0.5), where it ends.
    area_to: f64,
    /// Distances from a rank up to this are accepted without looking at the density.
    squeeze: f64,
}

impl Zipf {
    /// Over ranks `0..count`, the first the most popular. A theta of 0 is uniform, YCSB's is 0.99.
    ///
    /// # Panics
    /// Without ranks, or with a theta that is negative or no number.
    #[must_use]
    pub fn new(count: u64, theta: f64) -> Self {
        assert!(count > 0, "Zipf's law over at least one rank");
        assert!(theta >= 0.0 && theta.is_finite(), "a theta of 0 or more");
        #[expect(
            clippy::cast_precision_loss,
            reason = "no disk has 2^53 blocks, and neighbours of the least popular ranks are as good"
        )]
        let count = count as f64;
        Self {
            count,
            theta,
            area_from: integral(1.5, theta) - 1.0,
            area_to: integral(count + 0.5, theta),
            squeeze: 2.0 - integral_inverse(integral(2.5, theta) - density(2.0, theta), theta),
        }
    }

    /// The next rank, from 0.
    pub fn draw(&self, rng: &mut fastrand::Rng) -> u64 {
        loop {
            let area = self.area_to + rng.f64() * (self.area_from - self.area_to);
            let x = integral_inverse(area, self.theta);
            let rank = x.round().clamp(1.0, self.count);
            let accepted = rank - x <= self.squeeze
                || area >= integral(rank + 0.5, self.theta) - density(rank, self.theta);
            if accepted {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a whole number from 1 to the count, which was a u64"
                )]
                let rank = rank as u64;
                return rank - 1;
            }
        }
    }
}

fn density(x: f64, theta: f64) -> f64 {
    (-theta * x.ln()).exp()
}

/// H(x), the integral of x^-theta, with the constant that makes it continuous in theta around 1.
fn integral(x: f64, theta: f64) -> f64 {
    let log = x.ln();
    exp_less_one_by((1.0 - theta) * log) * log
}

fn integral_inverse(area: f64, theta: f64) -> f64 {
    // Rounding may bring the argument below -1, where the logarithm ends.
    let t = (area * (1.0 - theta)).max(-1.0);
    (log_one_plus_by(t) * area).exp()
}

/// (e^x - 1) / x, also near 0.
fn exp_less_one_by(x: f64) -> f64 {
    if x.abs() > 1e-8 {
        x.exp_m1() / x
    } else {
        1.0 + x / 2.0 * (1.0 + x / 3.0)
    }
}

/// ln(1 + x) / x, also near 0.
fn log_one_plus_by(x: f64) -> f64 {
    if x.abs() > 1e-8 {
        x.ln_1p() / x
    } else {
        1.0 - x * (0.5 - x / 3.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "small numbers"
    )]

    use super::*;

    fn frequencies(count: u64, theta: f64, draws: u64) -> Vec<f64> {
        let mut rng = fastrand::Rng::with_seed(7);
        let zipf = Zipf::new(count, theta);
        let mut seen = vec![0_u64; count as usize];
        for _ in 0..draws {
            seen[zipf.draw(&mut rng) as usize] += 1;
        }
        seen.iter().map(|n| *n as f64 / draws as f64).collect()
    }

    #[test]
    fn each_rank_comes_as_often_as_the_law_says() {
        for (count, theta) in [(100, 0.0), (100, 0.5), (1000, 0.99), (50, 1.0), (50, 1.4)] {
            let sum: f64 = (1..=count).map(|k| (k as f64).powf(-theta)).sum();
            let seen = frequencies(count, theta, 400_000);
            for k in [1_u32, 2, 3, 10, 40] {
                let wanted = f64::from(k).powf(-theta) / sum;
                let found = seen[k as usize - 1];
                // Five standard deviations of a binomial count.
                let tolerance = 5.0 * (wanted / 400_000.0).sqrt();
                assert!(
                    (found - wanted).abs() < tolerance,
                    "theta {theta}, rank {k}: {found}, not {wanted}"
                );
            }
            assert!((seen.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        }
    }

    #[test]
    fn one_rank_is_always_drawn_and_huge_counts_work() {
        let mut rng = fastrand::Rng::with_seed(1);
        let one = Zipf::new(1, 0.99);
        assert!((0..100).all(|_| one.draw(&mut rng) == 0));
        let many = Zipf::new(1 << 40, 0.99);
        let draws: Vec<u64> = (0..1000).map(|_| many.draw(&mut rng)).collect();
        assert!(draws.iter().all(|rank| *rank < 1 << 40));
        assert!(draws.iter().any(|rank| *rank > 1 << 30));
    }

    #[test]
    fn a_seed_repeats_itself() {
        let zipf = Zipf::new(1000, 0.99);
        let draw = |seed| {
            let mut rng = fastrand::Rng::with_seed(seed);
            (0..50).map(|_| zipf.draw(&mut rng)).collect::<Vec<_>>()
        };
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }
}
