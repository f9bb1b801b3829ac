//! What every variant's difference from dense amounts to: the only place where a report judges.

use super::group::{Cell, Group, groups};
use super::numbers::Sample;
use super::{ArmRates, Comparison, DownstreamComparison, RunResult, downstream, order};
use crate::ablate::statistics::{Estimate, Verdict, adjusted, verdicts};

/// Every variant of every setting and scale beside dense, in the report's order. The verdicts take account of how many there are.
pub fn comparisons(runs: &[RunResult]) -> Vec<Comparison> {
    judged(runs, &[]).into_iter().flat_map(|group| group.comparisons).collect()
}

/// The same in every downstream figure that runs have. These verdicts take account of how many headlines there are.
pub fn downstream_comparisons(runs: &[RunResult]) -> Vec<DownstreamComparison> {
    judged(runs, &[]).into_iter().flat_map(|group| group.downstream).collect()
}

/// The groups of a report, whose variants are compared.
pub(super) fn judged<'a>(runs: &'a [RunResult], arms: &'a [ArmRates]) -> Vec<Group<'a>> {
    let mut groups = groups(runs, arms);
    compare(&mut groups);
    downstream::compare(&mut groups);
    groups
}

fn compare(groups: &mut [Group]) {
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
