//! The plain-language reading: sentences computed from the samples, which say no more than those show.

use super::curve;
use super::group::{Cell, Group, Variant, capitalised};
use super::numbers::{self, Quantity, Sample};
use super::{Comparison, downstream, order, rates};
use crate::ablate::statistics::{Estimate, Verdict};

/// A dense curve that passes its own final loss before this share of its run makes first crossings look early.
const EARLY: f64 = 0.9;
/// A gain that prints as 0.0 %.
const LEVEL: f64 = 0.0005;

/// What the runs of one setting say.
pub(super) struct Reading {
    /// Setting and scale.
    pub(super) heading: String,
    /// One statement each.
    pub(super) sentences: Vec<String>,
}

/// Reads one group.
pub(super) fn reading(group: &Group) -> Reading {
    let mut sentences = Vec::new();
    match (group.variant(order::DENSE), group.variant(order::MOM)) {
        (None, _) => sentences.push("No dense run is done, so there is nothing to compare with yet.".to_owned()),
        (_, None) => sentences.push("No run of Mixture-of-Mamba (mom) is done yet.".to_owned()),
        (Some(dense), Some(mom)) => {
            let modalities = || group.modalities().map(|target| target.name);
            for target in &group.targets {
                sentences.push(compared(
                    &mom.cell(target.name),
                    target.name,
                    group.comparison(order::MOM, target.name),
                ));
            }
            sentences.extend(null(group));
            sentences.extend(order_of_gain(group, mom));
            sentences.extend(modalities().filter_map(|modality| parts(group, mom, modality)));
            sentences.extend(baselines(group, mom));
            sentences.extend(cost(mom));
            sentences.extend(diverged(group));
            sentences.extend(modalities().filter_map(|modality| early_dense(dense, modality)));
        }
    }
    sentences.extend(downstream::sentences(group));
    sentences.extend(rates::sentences(group));
    sentences.extend(unequal_lengths(group));
    if group.is_one_seed() {
        sentences.push(
            "One seed per variant: how much seeds differ is unknown, and any difference here may be chance.".to_owned(),
        );
    }
    Reading { heading: format!("{}, scale {}", group.title(), group.scale), sentences }
}

/// "5.1 % below dense", "1.2 % above dense" or "level with dense".
pub(super) fn beside_dense(gain: f64) -> String {
    match gain {
        _ if gain.abs() < LEVEL => "level with dense".to_owned(),
        _ if gain > 0.0 => format!("{} below dense", Quantity::Percent.show(gain)),
        _ => format!("{} above dense", Quantity::Percent.show(-gain)),
    }
}

/// What the null arm came to: what chance alone makes.
fn null(group: &Group) -> Option<String> {
    let null = group.variant(order::NULL)?;
    let gains: Vec<String> = group
        .targets
        .iter()
        .filter_map(|target| {
            Some(format!("{} {}", target.name, Quantity::Gain.show(null.cell(target.name).gain.mean()?)))
        })
        .collect();
    let seeds = if null.runs.len() == 1 { " (one seed)" } else { "" };
    (!gains.is_empty()).then(|| {
        format!("The null, dense from other initial weights, ends beside dense by{seeds}: {}.", gains.join(", "))
    })
}

/// Mixture-of-Mamba against dense for one loss.
fn compared(cell: &Cell, modality: &str, comparison: Option<&Comparison>) -> String {
    let subject = capitalised(modality);
    let Some(gain) = cell.gain.mean() else {
        return match cell {
            Cell { n_paired: 0, .. } => format!("{subject}: no dense run of the same seed to compare MoM with."),
            Cell { n_comparable: 0, .. } => {
                format!("{subject}: dense has no finite final loss, so MoM is not compared.")
            }
            Cell { n_diverged: 0, .. } => format!("{subject}: MoM has no evaluation."),
            _ => format!("{subject}: MoM diverged."),
        };
    };
    let n_seeds = cell.gain.values.len();
    let below = cell.gain.values.iter().filter(|&&gain| gain > 0.0).count();
    let over_seeds = match cell.gain.spread() {
        Some(spread) => {
            format!(" (± {} points over {n_seeds} seeds; below in {below} of {n_seeds})", Quantity::Gain.spread(spread))
        }
        None => String::new(),
    };
    // What a difference would save is only told where that is more than chance, too.
    let tells = |of: fn(&Comparison) -> Option<&Estimate>| comparison.is_some_and(|c| c.tells(of(c)));
    let of_crossing = tells(|c| c.relative_flops_first_crossing.as_ref());
    let crossing = if of_crossing { crossing(&cell.first_crossing, gain) } else { String::new() };
    let mut text = format!("{subject}: MoM ends {}{over_seeds}{crossing}.", beside_dense(gain));
    if let Some(comparison) = comparison {
        text.push_str(&verdict(comparison));
    }
    if let Some(horizons) = cell.horizons.mean().filter(|_| tells(|c| c.relative_flops_horizons.as_ref())) {
        text.push_str(&format!(" By horizons: {} of dense's training FLOPs.", Quantity::Percent.show(horizons)));
    }
    if let Some(slope) = cell.slope.mean().filter(|_| tells(|c| c.relative_flops_slope.as_ref())) {
        let all_reached = cell.first_crossing.values.len() == cell.first_crossing.n_runs;
        let part = if all_reached { "second half" } else { "part of the second half that it matches" };
        text.push_str(&format!(" Slope over the {part}: {}.", Quantity::Percent.show(slope)));
    }
    if cell.n_diverged > 0 {
        text.push_str(&format!(" MoM diverged in {} of {} seeds.", cell.n_diverged, cell.records.len()));
    }
    text
}

/// What a comparison says, as a sentence of its own.
fn verdict(comparison: &Comparison) -> String {
    let interval = comparison.gain_interval().map(|of| format!(", 95 % interval of the gain {of}")).unwrap_or_default();
    match (comparison.verdict, comparison.n_seeds) {
        (Verdict::None, 1) => " One seed: no verdict.".to_owned(),
        (Verdict::None, _) => " No verdict.".to_owned(),
        _ => format!(" Verdict: {}{interval}.", comparison.words()),
    }
}

/// The second half of a sentence that says where MoM ends.
fn crossing(reached: &Sample, gain: f64) -> String {
    let above = gain <= -LEVEL;
    let Some(mean) = reached.mean() else { return " and does not reach dense's final loss".to_owned() };
    let spread =
        reached.spread().map(|spread| format!(" (± {})", Quantity::Percent.spread(spread))).unwrap_or_default();
    let share = format!("after {} of dense's training FLOPs{spread}", Quantity::Percent.show(mean));
    match (reached.values.len(), reached.n_runs) {
        (some, all) if some < all => {
            let joint = if above { ", but" } else { " and" };
            format!("{joint} reaches dense's final loss in {some} of {all} seeds, there {share}")
        }
        _ if above => format!(", but had reached dense's final loss {share}"),
        _ => format!(" and reaches dense's final loss {share}"),
    }
}

fn order_of_gain(group: &Group, mom: &Variant) -> Option<String> {
    const OF_THE_PAPER: [&str; 3] = ["speech", "image", "text"];
    // An order of differences that may be chance says nothing.
    let is_told = |name: &str| group.comparison(order::MOM, name).is_some_and(Comparison::is_told);
    let mut gains: Vec<(&str, f64)> = group
        .modalities()
        .filter(|target| is_told(target.name))
        .filter_map(|target| Some((target.name, mom.cell(target.name).gain.mean()?)))
        .collect();
    if gains.len() < 2 {
        return None;
    }
    gains.sort_by(|a, b| b.1.total_cmp(&a.1));
    let ours: Vec<&str> = gains.iter().map(|(name, _)| *name).collect();
    let theirs: Vec<&str> = OF_THE_PAPER.into_iter().filter(|name| ours.contains(name)).collect();
    let printed: Vec<String> =
        gains.iter().map(|(name, gain)| format!("{name} ({})", Quantity::Gain.show(*gain))).collect();
    Some(match ours == theirs {
        true => format!("Order of MoM's gain: {}; the order that the paper reports.", printed.join(", ")),
        false => format!("Order of MoM's gain: {}; the paper reports {}.", printed.join(", "), theirs.join(", ")),
    })
}

/// Gains of a variant beside those of Mixture-of-Mamba, over the seeds that both have.
struct BesideMom<'a> {
    name: &'a str,
    gain: f64,
    of_mom: f64,
    /// Gain minus that of Mixture-of-Mamba, with the null's noise beside it.
    ahead: Option<Estimate>,
}

impl<'a> BesideMom<'a> {
    fn of(group: &Group, variant: &Variant<'a>, mom: &Variant, modality: &str) -> Option<Self> {
        let (of_variant, of_mom) = (variant.cell(modality).records, mom.cell(modality).records);
        let (gains, of_mom): (Vec<f64>, Vec<f64>) = of_variant
            .iter()
            .filter_map(|record| {
                let other = of_mom.iter().find(|other| other.seed == record.seed)?;
                Some((record.gain_over_dense?, other.gain_over_dense?))
            })
            .unzip();
        let ahead: Vec<f64> = gains.iter().zip(&of_mom).map(|(gain, of_mom)| gain - of_mom).collect();
        let null = group.variant(order::NULL).map(|null| null.cell(modality).gain.values).unwrap_or_default();
        let ahead = Estimate::of(&ahead, &null, 0.0);
        let mean = |values: Vec<f64>| Sample { n_runs: values.len(), values }.mean();
        Some(Self { name: variant.name, gain: mean(gains)?, of_mom: mean(of_mom)?, ahead })
    }

    fn lead(&self) -> f64 {
        self.gain - self.of_mom
    }

    /// "+4.2 % against +5.1 %", with a remark where the difference of the two may be chance.
    fn figures(&self) -> String {
        let told = self.ahead.is_some_and(|ahead| ahead.is_above() || ahead.is_below());
        let one_seed = self.ahead.is_some_and(|ahead| ahead.n_seeds == 1);
        let remark = match (told, one_seed) {
            (true, _) => "",
            (false, true) => "; one seed",
            (false, false) => "; not told apart",
        };
        format!("{} against {}{remark}", Quantity::Gain.show(self.gain), Quantity::Gain.show(self.of_mom))
    }
}

/// Mixture-of-Mamba against its parts for one modality.
fn parts(group: &Group, mom: &Variant, modality: &str) -> Option<String> {
    let mut parts: Vec<BesideMom> = group
        .variants
        .iter()
        .filter(|variant| order::is_partial(variant.name))
        .filter_map(|variant| BesideMom::of(group, variant, mom, modality))
        .collect();
    parts.sort_by(|a, b| b.lead().total_cmp(&a.lead()));
    let best = parts.first()?;
    let of_parts = match parts.len() {
        1 => "the only part run".to_owned(),
        n_parts => format!("the best of {n_parts} parts"),
    };
    let ahead: Vec<String> = parts
        .iter()
        .filter(|part| part.lead() > LEVEL)
        .map(|part| format!("{} ({})", part.name, part.figures()))
        .collect();
    let mut text = if !ahead.is_empty() {
        let verb = if ahead.len() == 1 { "gains" } else { "gain" };
        format!("Ablation, {modality}: {} {verb} more than MoM.", numbers::list(&ahead))
    } else {
        let place = if best.lead() < -LEVEL { "gains less than MoM" } else { "is level with MoM" };
        format!("Ablation, {modality}: {of_parts}, {}, {place} ({}).", best.name, best.figures())
    };
    let losing: Vec<String> = parts.iter().filter(|part| part.gain < -LEVEL).map(|part| part.name.to_owned()).collect();
    if !losing.is_empty() {
        text.push_str(&format!(" Mean loss above dense: {}.", numbers::list(&losing)));
    }
    Some(text)
}

/// Variants that are neither Mixture-of-Mamba nor its parts: the published behaviour, a transformer, a learned router.
fn baselines(group: &Group, mom: &Variant) -> Vec<String> {
    let others = group
        .variants
        .iter()
        .filter(|variant| !order::is_yardstick(variant.name) && variant.name != order::MOM)
        .filter(|variant| !order::is_partial(variant.name));
    others
        .filter_map(|variant| {
            let gains: Vec<String> = group
                .targets
                .iter()
                .filter_map(|target| {
                    let beside = BesideMom::of(group, variant, mom, target.name)?;
                    let (gain, of_mom) = (Quantity::Gain.show(beside.gain), Quantity::Gain.show(beside.of_mom));
                    let words = group.comparison(variant.name, target.name).map_or("no verdict", Comparison::words);
                    Some(format!("{} {gain} ({words}; MoM {of_mom})", target.name))
                })
                .collect();
            (!gains.is_empty()).then(|| format!("Gain of {} over dense: {}.", variant.name, gains.join(", ")))
        })
        .collect()
}

fn cost(mom: &Variant) -> Option<String> {
    let ratio = mom.wall_ratio();
    let spread = ratio.spread().map(|spread| format!(" (± {spread:.2})")).unwrap_or_default();
    Some(format!("MoM takes {} dense's wall-clock time{spread}.", Quantity::Factor.show(ratio.mean()?)))
}

/// Variants other than Mixture-of-Mamba, of which its own sentences tell, that diverged.
fn diverged(group: &Group) -> Option<String> {
    let variants = group.variants.iter().filter(|variant| variant.name != order::MOM);
    let runs: Vec<String> = variants
        .flat_map(|variant| group.modalities().map(move |modality| (variant, modality.name)))
        .map(|(variant, modality)| (variant.name, modality, variant.cell(modality)))
        .filter(|(.., cell)| cell.n_diverged > 0)
        .map(|(name, modality, cell)| {
            format!("{name} for {modality} in {} of {} seeds", cell.n_diverged, cell.records.len())
        })
        .collect();
    (!runs.is_empty()).then(|| format!("Diverged: {}.", numbers::list(&runs)))
}

/// A warning where dense passes its own final loss early, because then every first crossing comes early.
fn early_dense(dense: &Variant, modality: &str) -> Option<String> {
    let shares = Sample::of(dense.runs.iter().filter(|paired| paired.has(modality)).map(|paired| {
        let target = curve::outcome(paired.run, modality).loss()?;
        let step = curve::first_reach(&curve::smooth(&curve::points(paired.run, modality)), target)?;
        Some(step / paired.run.steps as f64)
    }));
    let share = shares.mean().filter(|&share| share < EARLY)?;
    Some(format!(
        "{}: dense's own smoothed curve first passes its final loss after {} of its run, so first crossings come early \
         here; prefer the slope.",
        capitalised(modality),
        Quantity::Percent.show(share)
    ))
}

fn unequal_lengths(group: &Group) -> Option<String> {
    let names: Vec<String> = group
        .variants
        .iter()
        .filter(|variant| variant.runs.iter().any(|pair| pair.dense.is_some_and(|dense| dense.steps != pair.run.steps)))
        .map(|variant| variant.name.to_owned())
        .collect();
    (!names.is_empty()).then(|| {
        format!(
            "Trained for another number of steps than dense, so final losses are not of equal training: {}.",
            numbers::list(&names)
        )
    })
}
