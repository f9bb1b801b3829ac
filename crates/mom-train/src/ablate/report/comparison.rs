//! What every variant's difference from dense amounts to: the only place where a report judges.

use serde::{Deserialize, Serialize};

use super::group::{Cell, Group, groups};
use super::numbers::{Quantity, Sample};
use super::{RunResult, order};
use crate::ablate::statistics::{Estimate, Interval, Verdict, adjusted, verdicts};

/// A variant beside dense: one loss, over the seeds. See [`statistics`](crate::ablate::statistics) for what is estimated how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// Setting of the runs.
    pub setting: String,
    /// Scale of the runs.
    pub scale: String,
    /// The variant; `null` for dense from other initial weights.
    pub variant: String,
    /// A modality, or `joint` for what is trained on.
    pub target: String,
    /// Seeds of which both the variant's run and dense's are done.
    pub n_seeds: usize,
    /// Seeds of which the variant diverged.
    pub n_diverged: usize,
    /// `(L_dense - L) / L_dense` of the final losses.
    pub gain: Option<Estimate>,
    /// Relative FLOPs to match by first crossing; only where every seed has a value.
    pub relative_flops_first_crossing: Option<Estimate>,
    /// Relative FLOPs to match by slope; only where every seed has a value.
    pub relative_flops_slope: Option<Estimate>,
    /// Relative FLOPs to match by horizons; only where every seed has a value.
    pub relative_flops_horizons: Option<Estimate>,
    /// The gain's probability under chance, adjusted for the number of comparisons in the report.
    pub p_adjusted: Option<f64>,
    /// What it says.
    pub verdict: Verdict,
}

impl Comparison {
    /// The verdict in words.
    pub fn words(&self) -> &'static str {
        self.verdict.words(self.n_seeds)
    }

    /// The 95 % interval of the gain, in percent.
    pub fn gain_interval(&self) -> Option<String> {
        Some(interval(self.gain?.interval?, Quantity::Gain))
    }

    /// Whether the gain is more than chance, in whatever direction.
    pub(super) fn is_told(&self) -> bool {
        matches!(self.verdict, Verdict::Better | Verdict::Worse)
    }

    /// Whether a figure of relative FLOPs is more than chance; one that some seeds have no value of stands as it is.
    pub(super) fn tells(&self, estimate: Option<&Estimate>) -> bool {
        self.is_told() && estimate.is_none_or(|estimate| estimate.is_above() || estimate.is_below())
    }

    /// A figure of relative FLOPs with its interval. Where chance may have made it, that stands beside it.
    pub(super) fn flops(&self, sample: &Sample, estimate: Option<&Estimate>, absent: &str) -> String {
        let mut text = sample.show(absent, Quantity::Percent);
        let Some(estimate) = estimate else { return text };
        if let Some(of) = estimate.interval {
            text.push_str(&format!(" {}", interval(of, Quantity::Percent)));
        }
        if !self.tells(Some(estimate))
            && matches!(self.verdict, Verdict::Better | Verdict::Worse | Verdict::NotToldApart)
        {
            text.push_str(", not told apart");
        }
        text
    }
}

/// "[+1.2, +3.4 %]".
fn interval(Interval { low, high }: Interval, quantity: Quantity) -> String {
    let (low, high) = (quantity.show(low), quantity.show(high));
    format!("[{}, {high}]", low.strip_suffix(" %").unwrap_or(&low))
}

/// Every variant of every setting and scale beside dense, in the report's order. The verdicts take account of how many there are.
pub fn comparisons(runs: &[RunResult]) -> Vec<Comparison> {
    groups(runs, &[]).into_iter().flat_map(|group| group.comparisons).collect()
}

/// Compares the variants of all groups of a report.
pub(super) fn compare(groups: &mut [Group]) {
    for group in groups.iter_mut() {
        group.comparisons = of_group(group);
    }
    let all = || groups.iter().flat_map(|group| &group.comparisons);
    // The null is what others are judged by; a seed that diverged leaves a mean that flatters.
    let judged = |comparison: &Comparison| comparison.variant != order::NULL && comparison.n_diverged == 0;
    let gains: Vec<_> = all().map(|comparison| comparison.gain.filter(|_| judged(comparison))).collect();
    let p = adjusted(&gains.iter().map(|gain| gain.as_ref()?.p).collect::<Vec<_>>());
    let judged = verdicts(&gains).into_iter().zip(p);
    let mut judged = judged.collect::<Vec<_>>().into_iter();
    for comparison in groups.iter_mut().flat_map(|group| &mut group.comparisons) {
        if let Some((verdict, p)) = judged.next() {
            comparison.p_adjusted = p;
            comparison.verdict = if comparison.variant == order::NULL { Verdict::Null } else { verdict };
        }
    }
}

fn of_group(group: &Group) -> Vec<Comparison> {
    let mut comparisons = Vec::new();
    let variants = group.variants.iter().filter(|variant| variant.name != order::DENSE);
    for (variant, target) in variants.flat_map(|variant| group.targets.iter().map(move |target| (variant, target))) {
        let cell = variant.cell(target.name);
        if cell.records.is_empty() {
            continue;
        }
        let is_null = variant.name == order::NULL;
        let null = group.variant(order::NULL).filter(|_| !is_null).map(|null| null.cell(target.name));
        let estimate = |of: fn(&Cell) -> &Sample, reference: f64| {
            // A mean over those seeds alone that came so far would flatter.
            let whole = |cell: &Cell| (of(cell).values.len() == of(cell).n_runs).then(|| of(cell).values.clone());
            let null = null.as_ref().and_then(whole).unwrap_or_default();
            Estimate::of(&whole(&cell)?, &null, reference)
        };
        comparisons.push(Comparison {
            setting: group.setting.to_owned(),
            scale: group.scale.to_owned(),
            variant: variant.name.to_owned(),
            target: target.name.to_owned(),
            n_seeds: cell.n_comparable,
            n_diverged: cell.n_diverged,
            gain: estimate(|cell| &cell.gain, 0.0),
            relative_flops_first_crossing: estimate(|cell| &cell.first_crossing, 1.0),
            relative_flops_slope: estimate(|cell| &cell.slope, 1.0),
            relative_flops_horizons: estimate(|cell| &cell.horizons, 1.0),
            p_adjusted: None,
            verdict: Verdict::None,
        });
    }
    comparisons
}
