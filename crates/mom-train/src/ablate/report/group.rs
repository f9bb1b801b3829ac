//! Runs sorted into what is compared: one group per setting and scale, its variants, and their samples over seeds.

use super::curve::{self, Outcome};
use super::numbers::Sample;
use super::records::{dense_of, record, sorted};
use super::{ArmRates, Comparison, DownstreamComparison, Record, RunResult, order};
use crate::config::JOINT;

/// All runs of one setting at one scale.
pub(super) struct Group<'a> {
    /// Setting of the runs.
    pub(super) setting: &'a str,
    /// Scale of the runs.
    pub(super) scale: &'a str,
    /// Start of the group's file names, and its anchor in the page.
    pub(super) stem: String,
    /// What has a loss: the modalities that any run has, in order, then all of them together.
    pub(super) targets: Vec<Target<'a>>,
    /// Variants that have a run, in order.
    pub(super) variants: Vec<Variant<'a>>,
    /// With several learning rates: every arm at every rate, in order.
    pub(super) arms: Vec<&'a ArmRates>,
    /// Every variant beside dense; none before they are judged.
    pub(super) comparisons: Vec<Comparison>,
    /// The same in downstream figures.
    pub(super) downstream: Vec<DownstreamComparison>,
}

/// What has a loss of its own.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    /// A modality, or "joint".
    pub(super) name: &'a str,
    /// The loss in words, with its unit.
    pub(super) loss: &'a str,
}

impl Target<'_> {
    /// All modalities together: what is trained on.
    pub(super) fn is_joint(&self) -> bool {
        self.name == JOINT
    }
}

/// The runs of one variant, in order of seed.
pub(super) struct Variant<'a> {
    /// Name of the variant.
    pub(super) name: &'a str,
    /// Its runs, each with the dense run of its seed.
    pub(super) runs: Vec<Paired<'a>>,
}

/// A run and the dense run it is compared with.
#[derive(Clone, Copy)]
pub(super) struct Paired<'a> {
    /// The run.
    pub(super) run: &'a RunResult,
    /// The dense run of the same setting, scale and seed.
    pub(super) dense: Option<&'a RunResult>,
}

/// One variant's results for one modality, over seeds.
pub(super) struct Cell {
    /// The records of the runs that have this modality.
    pub(super) records: Vec<Record>,
    /// Final losses.
    pub(super) loss: Sample,
    /// Gains over dense, of the seeds that can be compared.
    pub(super) gain: Sample,
    /// Relative FLOPs, first crossing, of the same seeds.
    pub(super) first_crossing: Sample,
    /// Relative FLOPs, slope, of the same seeds.
    pub(super) slope: Sample,
    /// Relative FLOPs, horizons, of the same seeds.
    pub(super) horizons: Sample,
    /// Seeds with a last loss that is not finite.
    pub(super) n_diverged: usize,
    /// Seeds of which the dense run has a finite final loss.
    pub(super) n_comparable: usize,
    /// Seeds that have a dense run.
    pub(super) n_paired: usize,
}

impl Group<'_> {
    /// "Transfusion", "Chameleon", "Three modalities", or the name as given.
    pub(super) fn title(&self) -> String {
        match self.setting {
            "three-modality" => "Three modalities".to_owned(),
            other => capitalised(other),
        }
    }

    /// The modalities alone.
    pub(super) fn modalities(&self) -> impl Iterator<Item = &Target<'_>> {
        self.targets.iter().filter(|target| !target.is_joint())
    }

    /// A variant beside dense.
    pub(super) fn comparison(&self, variant: &str, target: &str) -> Option<&Comparison> {
        self.comparisons.iter().find(|comparison| (&*comparison.variant, &*comparison.target) == (variant, target))
    }

    /// Whether nothing is known of how seeds differ.
    pub(super) fn is_one_seed(&self) -> bool {
        !self.variants.is_empty() && self.variants.iter().all(|variant| variant.runs.len() == 1)
    }

    /// Whether any run was brought to an end on the way.
    pub(super) fn has_horizons(&self) -> bool {
        self.variants.iter().flat_map(|variant| &variant.runs).any(|paired| !paired.run.horizons.is_empty())
    }

    /// The variant of this name.
    pub(super) fn variant(&self, name: &str) -> Option<&Variant<'_>> {
        self.variants.iter().find(|variant| variant.name == name)
    }
}

impl Variant<'_> {
    /// Samples of one modality over the seeds.
    pub(super) fn cell(&self, modality: &str) -> Cell {
        let runs: Vec<&Paired> = self.runs.iter().filter(|paired| paired.has(modality)).collect();
        let records: Vec<Record> = runs.iter().map(|paired| record(paired.run, paired.dense, modality)).collect();
        // A seed without dense's final loss says nothing of the variant: it is left out, not counted as a failure.
        let comparable =
            |paired: &Paired| paired.dense.is_some_and(|dense| curve::outcome(dense, modality).loss().is_some());
        let compared = |value: fn(&Record) -> Option<f64>| {
            let pairs = runs.iter().zip(&records).filter(|(paired, _)| comparable(paired));
            Sample::of(pairs.map(|(_, record)| value(record)))
        };
        Cell {
            loss: Sample::of(records.iter().map(|record| record.final_val_loss)),
            gain: compared(|record| record.gain_over_dense),
            first_crossing: compared(|record| record.relative_flops_first_crossing),
            slope: compared(|record| record.relative_flops_slope),
            horizons: compared(|record| record.relative_flops_horizons),
            n_diverged: runs.iter().filter(|paired| curve::outcome(paired.run, modality) == Outcome::Diverged).count(),
            n_comparable: runs.iter().filter(|paired| comparable(paired)).count(),
            n_paired: runs.iter().filter(|paired| paired.dense.is_some()).count(),
            records,
        }
    }

    /// Sample of a figure of the runs themselves.
    pub(super) fn sample(&self, value: impl Fn(&RunResult) -> f64) -> Sample {
        Sample::of(self.runs.iter().map(|paired| Some(value(paired.run))))
    }

    /// Wall-clock time over that of the dense run of the same seed.
    pub(super) fn wall_ratio(&self) -> Sample {
        Sample::of(self.runs.iter().map(|paired| {
            let ratio = paired.run.wall_secs / paired.dense?.wall_secs;
            ratio.is_finite().then_some(ratio)
        }))
    }
}

impl Paired<'_> {
    /// True when the run has this modality; all of them together every run has.
    pub(super) fn has(&self, modality: &str) -> bool {
        modality == JOINT || self.run.modalities.iter().any(|info| info.name == modality)
    }
}

/// The groups of `runs`, in the report's order, and those of which no run has a good learning rate behind them.
pub(super) fn groups<'a>(runs: &'a [RunResult], arms: &'a [ArmRates]) -> Vec<Group<'a>> {
    let mut groups: Vec<Group> = Vec::new();
    let new = |setting, scale| Group {
        setting,
        scale,
        stem: String::new(),
        targets: Vec::new(),
        variants: Vec::new(),
        arms: Vec::new(),
        comparisons: Vec::new(),
        downstream: Vec::new(),
    };
    for run in sorted(runs) {
        if groups.last().is_none_or(|group| (group.setting, group.scale) != (&run.setting, &run.scale)) {
            groups.push(new(&run.setting, &run.scale));
        }
        let Some(group) = groups.last_mut() else { continue };
        for modality in &run.modalities {
            if group.targets.iter().all(|known| known.name != modality.name) {
                group.targets.push(Target { name: &modality.name, loss: &modality.loss });
            }
        }
        let paired = Paired { run, dense: dense_of(run, runs) };
        match group.variants.last_mut().filter(|variant| variant.name == run.variant) {
            Some(variant) => variant.runs.push(paired),
            None => group.variants.push(Variant { name: &run.variant, runs: vec![paired] }),
        }
    }
    for arm in arms {
        let of = |group: &Group| (group.setting, group.scale) == (&arm.setting, &arm.scale);
        let at = groups.iter().position(of).unwrap_or_else(|| {
            groups.push(new(&arm.setting, &arm.scale));
            groups.len() - 1
        });
        groups[at].arms.push(arm);
    }
    groups.iter_mut().for_each(|group| group.arms.sort_by_key(|arm| order::variant(&arm.variant)));
    for group in &mut groups {
        group.targets.sort_by_key(|target| order::modality(target.name));
        if group.targets.len() > 1 {
            group.targets.push(Target { name: JOINT, loss: joint_in_words(group.setting) });
        }
    }
    name_files(&mut groups);
    groups
}

/// What is trained on, in words that a panel has room for.
pub(super) fn joint_in_words(setting: &str) -> &'static str {
    match setting {
        "transfusion" => "cross-entropy + weighted diffusion loss",
        _ => "cross-entropy over all targets",
    }
}

/// Gives each group a file stem of its own: its setting, and its scale where a setting has several.
fn name_files(groups: &mut [Group]) {
    let settings: Vec<&str> = groups.iter().map(|group| group.setting).collect();
    let mut taken: Vec<String> = Vec::new();
    for group in groups {
        let several = settings.iter().filter(|&&setting| setting == group.setting).count() > 1;
        let stem = if several { format!("{}-{}", group.setting, group.scale) } else { group.setting.to_owned() };
        group.stem = file_name(&stem);
        // Names that differ only in characters that files cannot have.
        while taken.contains(&group.stem) {
            group.stem.push('_');
        }
        taken.push(group.stem.clone());
    }
}

/// A name reduced to letters, digits, `-`, `+` and `_`.
pub(super) fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || "-+_".contains(c) { c } else { '_' }).collect()
}

/// The word with its first letter in upper case.
pub(super) fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
