//! A mean over seeds with its interval.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};

/// How often an interval holds the true value.
pub const LEVEL: f64 = 0.95;

/// From where to where.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// A figure over the seeds, beside its value for an arm that is equal to dense.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Estimate {
    /// Mean over the seeds.
    pub mean: f64,
    /// Seeds that have a value.
    pub n_seeds: usize,
    /// What the figure is of an arm that is equal to dense: 0 of a gain, 1 of relative FLOPs.
    pub reference: f64,
    /// Mean of the null arm over its seeds.
    pub null_mean: Option<f64>,
    /// Where the true value lies at 95 %; `None` where there is nothing to tell the noise by.
    pub interval: Option<Interval>,
    /// How likely an arm that is equal to dense is so far from the reference, in either direction.
    pub p: Option<f64>,
}

impl Estimate {
    /// The mean of `values`, one for each seed, and its interval; the noise is told by them and by `null`, the values of an arm
    /// that is equal to dense, whose true mean is `reference`. `None` without a value.
    pub fn of(values: &[f64], null: &[f64], reference: f64) -> Option<Self> {
        Self::in_steps(values, null, reference, 0.0)
    }

    /// As [`Self::of`], of figures that are counted and so differ by whole `step`s: seeds that agree exactly say no more than that they
    /// lie within one step, so that a single difference has a standard deviation of a step at least.
    pub fn in_steps(values: &[f64], null: &[f64], reference: f64, step: f64) -> Option<Self> {
        let mean = mean(values)?;
        let noise = Noise::of(values, mean, null, reference);
        let noise = noise.map(|noise| Noise { variance: noise.variance.max(step * step), ..noise });
        let error = |noise: &Noise| (noise.variance / values.len() as f64).sqrt();
        let interval = noise.as_ref().map(|noise| {
            let reach = noise.quantile(0.5 + 0.5 * LEVEL) * error(noise);
            Interval { low: mean - reach, high: mean + reach }
        });
        let p = noise.as_ref().map(|noise| noise.two_sided(mean - reference, error(noise)));
        Some(Self { mean, n_seeds: values.len(), reference, null_mean: self::mean(null), interval, p })
    }

    /// Whether the whole interval lies above dense and above the null.
    pub fn is_above(&self) -> bool {
        let beyond = self.null_mean.map_or(self.reference, |null| null.max(self.reference));
        self.interval.is_some_and(|interval| interval.low > beyond)
    }

    /// Whether the whole interval lies below dense and below the null.
    pub fn is_below(&self) -> bool {
        let beyond = self.null_mean.map_or(self.reference, |null| null.min(self.reference));
        self.interval.is_some_and(|interval| interval.high < beyond)
    }
}

/// What is known of the noise of a single difference.
struct Noise {
    variance: f64,
    law: StudentsT,
}

impl Noise {
    fn of(values: &[f64], mean: f64, null: &[f64], reference: f64) -> Option<Self> {
        let squares = |values: &[f64], centre: f64| values.iter().map(|value| (value - centre).powi(2)).sum::<f64>();
        let (own, own_freedom) = (squares(values, mean), (values.len() - 1) as f64);
        let freedom = own_freedom + null.len() as f64;
        // None where there is no degree of freedom.
        let law = StudentsT::new(0.0, 1.0, freedom).ok()?;
        let pooled = (own + squares(null, reference)) / freedom;
        let variance = if own_freedom > 0.0 { pooled.max(own / own_freedom) } else { pooled };
        variance.is_finite().then_some(Self { variance, law })
    }

    fn quantile(&self, share: f64) -> f64 {
        self.law.inverse_cdf(share)
    }

    fn two_sided(&self, distance: f64, error: f64) -> f64 {
        match (distance == 0.0, error == 0.0) {
            (true, _) => 1.0,
            (false, true) => 0.0,
            (false, false) => 2.0 * self.law.cdf(-(distance / error).abs()),
        }
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: f64, want: f64) {
        assert!((got - want).abs() < 1e-4 * want.abs().max(1.0), "{got} is not {want}");
    }

    #[test]
    fn the_interval_is_students() {
        // Spread 1 over three seeds: t(0.975, 2) = 4.30265.
        let estimate = Estimate::of(&[1.0, 2.0, 3.0], &[], 0.0).unwrap();
        let interval = estimate.interval.unwrap();
        close(interval.low, 2.0 - 4.302_65 / 3f64.sqrt());
        close(interval.high, 2.0 + 4.302_65 / 3f64.sqrt());
        // t = 2 sqrt(3) with two degrees of freedom.
        close(estimate.p.unwrap(), 0.074_180);
        assert!(!estimate.is_above() && !estimate.is_below());
    }

    #[test]
    fn counted_figures_that_agree_exactly_are_not_certain() {
        // One document of 32 more, in each of three seeds, where the null found as many as dense.
        let (values, null) = ([1.0 / 32.0; 3], [0.0; 3]);
        close(Estimate::of(&values, &null, 0.0).unwrap().p.unwrap(), 0.0);
        let estimate = Estimate::in_steps(&values, &null, 0.0, 1.0 / 32.0).unwrap();
        // t = sqrt(3) with five degrees of freedom.
        close(estimate.p.unwrap(), 0.143_8);
        assert!(!estimate.is_above());
        // Five documents more are told.
        let estimate = Estimate::in_steps(&[5.0 / 32.0; 3], &null, 0.0, 1.0 / 32.0).unwrap();
        assert!(estimate.is_above() && estimate.p.unwrap() < 0.01);
        // Noise above a step is as it is.
        assert_eq!(Estimate::in_steps(&[1.0, 2.0, 3.0], &[], 0.0, 0.5), Estimate::of(&[1.0, 2.0, 3.0], &[], 0.0));
    }

    #[test]
    fn one_seed_stands_on_the_null_alone() {
        let estimate = Estimate::of(&[0.5], &[-0.1], 0.0).unwrap();
        // t(0.975, 1) = 12.7062 times the null's only difference.
        let interval = estimate.interval.unwrap();
        close(interval.low, 0.5 - 1.270_62);
        close(interval.high, 0.5 + 1.270_62);
        assert!(!estimate.is_above());
        let alone = Estimate::of(&[0.5], &[], 0.0).unwrap();
        assert_eq!((alone.interval, alone.p), (None, None));
        assert!(!alone.is_above() && !alone.is_below());
        assert_eq!(Estimate::of(&[], &[0.1], 0.0), None);
    }

    #[test]
    fn the_null_narrows_an_interval_but_not_below_the_arms_own_spread() {
        let reach = |null: &[f64]| {
            let interval = Estimate::of(&[1.0, 2.0, 3.0], null, 0.0).unwrap().interval.unwrap();
            0.5 * (interval.high - interval.low)
        };
        // Five degrees of freedom, t = 2.57058. The null's noise is as large: the variance is 1.
        close(reach(&[1.0, -1.0, 1.0]), 2.570_58 / 3f64.sqrt());
        // A calm null does not make the arm's own noise smaller; a loud one makes it larger.
        close(reach(&[0.0, 0.0, 0.0]), 2.570_58 / 3f64.sqrt());
        close(reach(&[2.0, -2.0, 2.0]), 2.570_58 * (14.0f64 / 5.0).sqrt() / 3f64.sqrt());
    }

    #[test]
    fn what_lies_within_the_null_is_not_above() {
        let values = [0.030, 0.031, 0.032];
        assert!(Estimate::of(&values, &[0.001, -0.001, 0.0], 0.0).unwrap().is_above());
        // The null itself came out at 4 %.
        assert!(!Estimate::of(&values, &[0.040, 0.041, 0.039], 0.0).unwrap().is_above());
        let ratios = [0.70, 0.72, 0.71];
        let estimate = Estimate::of(&ratios, &[1.01, 0.99, 1.0], 1.0).unwrap();
        assert!(estimate.is_below() && !estimate.is_above());
    }

    #[test]
    fn without_any_noise_a_difference_is_certain() {
        let estimate = Estimate::of(&[0.5, 0.5], &[0.0, 0.0], 0.0).unwrap();
        assert_eq!((estimate.p, estimate.is_above()), (Some(0.0), true));
        let equal = Estimate::of(&[0.0, 0.0], &[0.0, 0.0], 0.0).unwrap();
        assert_eq!((equal.p, equal.is_above(), equal.is_below()), (Some(1.0), false, false));
    }
}
