//! Which differences of a report are more than chance.

use serde::{Deserialize, Serialize};

use super::{Estimate, LEVEL};

/// What a comparison with dense says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The loss is below dense's by more than chance.
    Better,
    /// The loss is above dense's by more than chance.
    Worse,
    /// Chance may have made the difference.
    NotToldApart,
    /// It is the null arm itself: what chance alone makes.
    Null,
    /// Nothing can be said: no dense run, a seed that diverged, or nothing to tell the noise by.
    None,
}

impl Verdict {
    /// In words. What stands on one seed says so.
    pub fn words(self, n_seeds: usize) -> &'static str {
        match (self, n_seeds) {
            (Self::Better, 1) => "one seed: better by more than the null explains",
            (Self::Worse, 1) => "one seed: worse by more than the null explains",
            (Self::NotToldApart, 1) => "one seed: not told apart from dense by the null",
            (Self::Null, 1) => "one seed: the null",
            (Self::None, 1) => "one seed: no verdict",
            (Self::Better, _) => "better",
            (Self::Worse, _) => "worse",
            (Self::NotToldApart, _) => "not told apart from dense",
            (Self::Null, _) => "the null",
            (Self::None, _) => "no verdict",
        }
    }
}

/// The verdicts of all comparisons of a report, in their order. `None` stands for one of which nothing can be said; it has no part in
/// the count of looks.
///
/// A comparison is better (or worse) where its probability under chance, adjusted by [Holm's method](adjusted) for the number of
/// comparisons, is below 5 %, *and* its 95 % interval lies wholly above (below) both dense and the null's mean.
pub fn verdicts(gains: &[Option<Estimate>]) -> Vec<Verdict> {
    let p: Vec<Option<f64>> = gains.iter().map(|gain| gain.as_ref()?.p).collect();
    let verdict = |(gain, p): (&Option<Estimate>, Option<f64>)| match (gain, p) {
        (Some(gain), Some(p)) if p < 1.0 - LEVEL && gain.is_above() => Verdict::Better,
        (Some(gain), Some(p)) if p < 1.0 - LEVEL && gain.is_below() => Verdict::Worse,
        (Some(_), Some(_)) => Verdict::NotToldApart,
        _ => Verdict::None,
    };
    gains.iter().zip(adjusted(&p)).map(verdict).collect()
}

/// Probabilities adjusted for how many there are (Holm 1979): the smallest is multiplied by their number, the next by one less, and so
/// on; none is smaller than one before it, nor above 1.
pub fn adjusted(p: &[Option<f64>]) -> Vec<Option<f64>> {
    let mut order: Vec<(usize, f64)> = p.iter().enumerate().filter_map(|(index, p)| Some((index, (*p)?))).collect();
    order.sort_by(|(_, a), (_, b)| a.total_cmp(b));
    let (mut adjusted, mut floor, n) = (vec![None; p.len()], 0.0f64, order.len());
    for (rank, (index, p)) in order.into_iter().enumerate() {
        floor = floor.max(p * (n - rank) as f64).min(1.0);
        adjusted[index] = Some(floor);
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holm_multiplies_by_what_is_left() {
        let p = [Some(0.01), None, Some(0.04), Some(0.03), Some(0.005)];
        let expected = [Some(0.03), None, Some(0.06), Some(0.06), Some(0.02)];
        for (got, want) in adjusted(&p).into_iter().zip(expected) {
            match (got, want) {
                (Some(got), Some(want)) => assert!((got - want).abs() < 1e-12, "{got} is not {want}"),
                pair => assert_eq!(pair, (None, None)),
            }
        }
        assert_eq!(adjusted(&[Some(0.9), Some(0.8)]), [Some(1.0), Some(1.0)]);
        assert_eq!(adjusted(&[]), []);
    }

    #[test]
    fn a_difference_among_many_needs_more_than_one_alone() {
        let gain = Estimate::of(&[0.010, 0.012, 0.018], &[], 0.0);
        assert_eq!(verdicts(&[gain]), [Verdict::Better]);
        let nothing = Estimate::of(&[0.01, -0.01, 0.0], &[], 0.0);
        let among = verdicts(&[gain, nothing, nothing, None]);
        assert_eq!(among, [Verdict::NotToldApart, Verdict::NotToldApart, Verdict::NotToldApart, Verdict::None]);
        let worse = Estimate::of(&[-0.010, -0.011, -0.012], &[0.001, -0.001, 0.0], 0.0);
        assert_eq!(verdicts(&[worse]), [Verdict::Worse]);
        assert_eq!(verdicts(&[Estimate::of(&[0.5], &[], 0.0)]), [Verdict::None]);
    }
}
