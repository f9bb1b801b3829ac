//! Smoothing, crossings and the matching slope: the definitions of "relative FLOPs to match".
//!
//! A curve is a list of `(step, loss)` in ascending order of step, every loss finite.

use super::RunResult;
use crate::ablate::statistics::steps_to_reach;

/// Share of dense's run, from its end, that the slope is fitted to.
const SLOPE_FROM: f64 = 0.5;
/// Matches needed for a slope.
const MIN_MATCHES: usize = 3;

/// How a run ended for one modality.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Outcome {
    /// The last evaluation's loss.
    Final(f64),
    /// The last evaluation's loss is not finite.
    Diverged,
    /// No evaluation holds this modality.
    Unmeasured,
}

impl Outcome {
    /// The final loss, when there is a finite one.
    pub(super) fn loss(self) -> Option<f64> {
        match self {
            Outcome::Final(loss) => Some(loss),
            Outcome::Diverged | Outcome::Unmeasured => None,
        }
    }
}

/// How `run` ended for `modality`, or for all together.
pub(super) fn outcome(run: &RunResult, modality: &str) -> Outcome {
    match run.curve.iter().rev().find_map(|point| point.named(modality)) {
        Some(loss) if loss.is_finite() => Outcome::Final(loss),
        Some(_) => Outcome::Diverged,
        None => Outcome::Unmeasured,
    }
}

/// The evaluations of one modality, up to the first loss that is not finite.
pub(super) fn points(run: &RunResult, modality: &str) -> Vec<(f64, f64)> {
    run.curve
        .iter()
        .filter_map(|point| Some((point.step as f64, point.named(modality)?)))
        .take_while(|(_, loss)| loss.is_finite())
        .collect()
}

/// Replaces every inner loss by the least-squares line through it and its two neighbours; the ends stay as measured.
pub(super) fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut smoothed = points.to_vec();
    for (window, out) in points.windows(3).zip(smoothed.iter_mut().skip(1)) {
        let mean_step = window.iter().map(|p| p.0).sum::<f64>() / 3.0;
        let mean_loss = window.iter().map(|p| p.1).sum::<f64>() / 3.0;
        let covariance: f64 = window.iter().map(|p| (p.0 - mean_step) * (p.1 - mean_loss)).sum();
        let variance: f64 = window.iter().map(|p| (p.0 - mean_step).powi(2)).sum();
        out.1 = mean_loss + covariance / variance * (out.0 - mean_step);
    }
    smoothed
}

/// The lowest loss up to each step.
fn best_so_far(curve: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut best = f64::INFINITY;
    curve
        .iter()
        .map(|&(step, loss)| {
            best = best.min(loss);
            (step, best)
        })
        .collect()
}

/// First step, interpolated linearly, at which `curve` is at or below `target`.
pub(super) fn first_reach(curve: &[(f64, f64)], target: f64) -> Option<f64> {
    let &(first_step, first_loss) = curve.first()?;
    if first_loss <= target {
        return Some(first_step);
    }
    curve.windows(2).find(|pair| pair[1].1 <= target).map(|pair| {
        let ((from, above), (to, below)) = (pair[0], pair[1]);
        from + (to - from) * (above - target) / (above - below)
    })
}

/// Pairs of dense's step and the step at which the variant first reaches dense's best smoothed loss so far.
pub(super) fn matching_steps(variant: &RunResult, dense: &RunResult, modality: &str) -> Vec<(f64, f64)> {
    let of_variant = smooth(&points(variant, modality));
    let of_dense = best_so_far(&smooth(&points(dense, modality)));
    of_dense.iter().filter_map(|&(step, loss)| Some((step, first_reach(&of_variant, loss)?))).collect()
}

/// Relative FLOPs to match, by all definitions of the [module](super); `None` where not reached.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct RelativeFlops {
    /// First crossing of dense's final loss.
    pub(super) first_crossing: Option<f64>,
    /// Slope of matching steps over the second half of dense's run.
    pub(super) slope: Option<f64>,
    /// From the ends of both at several horizons: steps to dense's last end.
    pub(super) horizons: Option<f64>,
}

/// Steps and losses of all ends of a run: its horizons, and its own end.
pub(super) fn ends(run: &RunResult, modality: &str) -> Vec<(f64, f64)> {
    let last = run.curve.last().filter(|_| !run.horizons.is_empty());
    let ends = run.horizons.iter().chain(last);
    ends.filter_map(|point| Some((point.step as f64, point.named(modality)?))).collect()
}

/// Relative FLOPs that `variant` needs to match `dense`; nothing where dense has no finite final loss.
pub(super) fn relative_flops(variant: &RunResult, dense: &RunResult, modality: &str) -> RelativeFlops {
    let Some(target) = outcome(dense, modality).loss() else { return RelativeFlops::default() };
    let flops_ratio = variant.active_flops_per_token / dense.active_flops_per_token;
    let dense_steps = dense.steps as f64;
    let finite = |ratio: f64| ratio.is_finite().then_some(ratio);

    let first_crossing = first_reach(&smooth(&points(variant, modality)), target);
    let mut matches = matching_steps(variant, dense, modality);
    matches.retain(|&(step, _)| step >= SLOPE_FROM * dense_steps);
    let slope = (matches.len() >= MIN_MATCHES).then(|| {
        let products: f64 = matches.iter().map(|(step, matching)| step * matching).sum();
        products / matches.iter().map(|(step, _)| step * step).sum::<f64>()
    });
    RelativeFlops {
        first_crossing: first_crossing.and_then(|step| finite(flops_ratio * step / dense_steps)),
        slope: slope.and_then(|slope| finite(flops_ratio * slope)),
        horizons: steps_to_reach(&ends(variant, modality), target)
            .filter(|_| !dense.horizons.is_empty())
            .and_then(|steps| finite(flops_ratio * steps / dense_steps)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_keeps_straight_lines_and_ends() {
        let line: Vec<_> = [0.0, 1.0, 4.0, 5.0, 11.0].map(|step| (step, 7.0 - 0.5 * step)).to_vec();
        for (got, want) in smooth(&line).iter().zip(&line) {
            assert!((got.1 - want.1).abs() < 1e-12, "{got:?} is not {want:?}");
        }
        let bumpy = [(0.0, 9.0), (1.0, 3.0), (2.0, 6.0), (3.0, 1.0)];
        assert_eq!(smooth(&bumpy), [(0.0, 9.0), (1.0, 6.0), (2.0, 10.0 / 3.0), (3.0, 1.0)]);
        assert_eq!(smooth(&bumpy[..2]), bumpy[..2]);
        assert_eq!(smooth(&[]), []);
    }

    #[test]
    fn first_reach_interpolates_and_takes_the_first() {
        let curve = [(10.0, 4.0), (20.0, 2.0), (30.0, 3.0), (40.0, 1.0)];
        assert_eq!(first_reach(&curve, 3.0), Some(15.0));
        assert_eq!(first_reach(&curve, 2.0), Some(20.0));
        assert_eq!(first_reach(&curve, 1.5), Some(37.5));
        assert_eq!(first_reach(&curve, 5.0), Some(10.0));
        assert_eq!(first_reach(&curve, 0.5), None);
        assert_eq!(first_reach(&[], 0.5), None);
    }

    #[test]
    fn best_so_far_never_rises() {
        let curve = [(0.0, 3.0), (1.0, 2.0), (2.0, 2.5), (3.0, 1.0)];
        assert_eq!(best_so_far(&curve), [(0.0, 3.0), (1.0, 2.0), (2.0, 2.0), (3.0, 1.0)]);
    }
}
