//! Which settings the data can serve, found before anything is fitted.
//!
//! A setting is served if, among the samples that are looked at, each modality that makes it what it is has one at least: images
//! in Transfusion and Chameleon; text, images and speech with three modalities. (Nothing is decoded, and no sample needs to be
//! complete: a document is made of what its sample has.)
//!
//! Up to [`LOOKED_AT`] samples of each source are looked at, from [`UNITS`] of its units at most, evenly spaced, so that shards
//! sorted by kind do no harm; the look ends as soon as nothing is missing.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::ControlFlow;

use mom_data::readers::{Outcome, Part};
use mom_data::{ImageNeed, Modality, SourceConfig, SpeechNeed};
use mom_models::Setting;

use super::{Planned, SweepOptions};
use crate::config::needs;
use crate::{Error, Result, run};

/// Samples of a source that are looked at.
pub const LOOKED_AT: usize = 1024;
/// Units of a source that they come from, at most.
pub const UNITS: usize = 64;

/// What is done about a setting that the data cannot serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unserved {
    /// It is passed over with a word, as long as another one is left.
    Skip,
    /// An error, before anything is made.
    #[default]
    Refuse,
}

/// Runs of the settings that the data can serve.
#[derive(Debug)]
pub struct Served {
    /// In their order.
    pub plan: Vec<Planned>,
    /// What was passed over and why, in words.
    pub skipped: Vec<String>,
}

impl SweepOptions {
    /// The plan without the settings that the data cannot serve. A setting whose data were prepared before, or whose runs are done,
    /// is not looked at again.
    ///
    /// # Errors
    /// As [`Self::plan`]; a source that cannot be opened; [`Error::Unserved`] for a setting that may not be skipped, or where none is
    /// left.
    pub fn served(&self) -> Result<Served> {
        let mut plan = self.plan_after(&self.ended()?)?;
        let mut skipped = Vec::new();
        let mut asked: Vec<Setting> = Vec::new();
        if self.data.is_some() {
            for planned in &plan {
                if !asked.contains(&planned.config.model.setting) && self.is_new(planned)? {
                    asked.push(planned.config.model.setting);
                }
            }
        }
        let Some(first) = plan.iter().find(|planned| asked.contains(&planned.config.model.setting)) else {
            return Ok(Served { plan, skipped });
        };
        let seen = Seen::of(&first.config.data.sources(), &asked)?;
        let unserved: Vec<Setting> = asked.into_iter().filter(|&setting| !seen.missing(setting).is_empty()).collect();
        let is_served = |planned: &Planned| !unserved.contains(&planned.config.model.setting);
        if !unserved.is_empty() && (self.unserved == Unserved::Refuse || !plan.iter().any(is_served)) {
            let needs = unserved.iter().map(|&setting| format!("{setting} needs {}", list(makes(setting)))).collect();
            return Err(Error::Unserved { needs, found: seen.to_string() });
        }
        for &setting in &unserved {
            let missing =
                seen.missing(setting).iter().map(|m| format!("no sample has {}", noun(*m))).collect::<Vec<_>>();
            skipped.push(format!("{setting} is skipped: {} ({seen})", missing.join(", ")));
        }
        plan.retain(is_served);
        Ok(Served { plan, skipped })
    }

    /// These options for the settings of a plan alone.
    pub(super) fn only(&self, plan: &[Planned]) -> Self {
        let is_planned = |setting: &Setting| plan.iter().any(|planned| planned.config.model.setting == *setting);
        Self { settings: self.settings.iter().copied().filter(is_planned).collect(), ..self.clone() }
    }

    fn is_new(&self, planned: &Planned) -> Result<bool> {
        let prepared = self.prepared(&planned.config).join("tokenizers/tokenizers.json").is_file();
        Ok(!prepared && run::finished(&planned.folder, &planned.config)?.is_none())
    }
}

/// The modalities that make a setting what it is.
const fn makes(setting: Setting) -> &'static [Modality] {
    if setting.has_speech() { &Modality::ALL } else { &[Modality::Image] }
}

/// Whether a setting can take a part.
fn takes(setting: Setting, part: &Part) -> bool {
    let needs = needs(setting);
    match part {
        Part::Text(_) | Part::Codes { modality: Modality::Text, .. } => true,
        Part::Image(_) => needs.image != ImageNeed::None,
        Part::Latents { .. } => needs.image == ImageNeed::Patches,
        Part::Codes { modality: Modality::Image, .. } => needs.image == ImageNeed::Codes,
        Part::Audio(_) | Part::Codes { modality: Modality::Speech, .. } => needs.speech == SpeechNeed::Units,
    }
}

/// What samples were seen to have.
#[derive(Debug)]
struct Seen {
    /// Each source by name, with the number of its samples that were looked at.
    sources: Vec<(String, usize)>,
    /// Modalities of their parts.
    parts: BTreeSet<Modality>,
    /// What each setting that was asked for can take of them.
    taken: Vec<(Setting, BTreeSet<Modality>)>,
}

impl Seen {
    fn of(sources: &[SourceConfig], settings: &[Setting]) -> Result<Self> {
        let taken = settings.iter().map(|&setting| (setting, BTreeSet::new())).collect();
        let mut seen = Self { sources: Vec::new(), parts: BTreeSet::new(), taken };
        for source in sources {
            let n_samples = seen.look(source)?;
            seen.sources.push((source.name(), n_samples));
        }
        Ok(seen)
    }

    /// Looks at a source; gives the number of samples.
    fn look(&mut self, source: &SourceConfig) -> Result<usize> {
        let reader = source.open()?;
        let n_units = reader.units().len();
        let n_opened = n_units.min(UNITS);
        let of_unit = LOOKED_AT.div_ceil(n_opened.max(1));
        let mut n_samples = 0;
        for index in 0..n_opened {
            let mut n_here = 0;
            // What is damaged is told when it is read for good.
            let _ = reader.read(index * n_units / n_opened, &mut |outcome| {
                if let Outcome::Sample(sample) = outcome {
                    n_here += 1;
                    sample.parts.iter().for_each(|part| self.note(source, part));
                }
                let enough = n_here >= of_unit || self.is_enough();
                if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            n_samples += n_here;
            if self.is_enough() {
                break;
            }
        }
        Ok(n_samples)
    }

    fn note(&mut self, source: &SourceConfig, part: &Part) {
        let modality = modality_of(part);
        if source.takes(modality) {
            self.parts.insert(modality);
            self.taken.iter_mut().filter(|(setting, _)| takes(*setting, part)).for_each(|(_, taken)| {
                taken.insert(modality);
            });
        }
    }

    /// Whether no setting lacks anything.
    fn is_enough(&self) -> bool {
        self.taken.iter().all(|(setting, taken)| makes(*setting).iter().all(|modality| taken.contains(modality)))
    }

    /// What a setting lacks. Nothing, where no sample could be read at all: why is told when they are read for good.
    fn missing(&self, setting: Setting) -> Vec<Modality> {
        let taken = self.taken.iter().find(|(of, _)| *of == setting);
        let lacks = |modality: &Modality| taken.is_some_and(|(_, taken)| !taken.contains(modality));
        let is_known = self.sources.iter().any(|(_, n_samples)| *n_samples > 0);
        makes(setting).iter().copied().filter(|modality| is_known && lacks(modality)).collect()
    }
}

/// "96 samples of shards were looked at, which have text and images".
impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of_source = |(name, n_samples): &(String, usize)| format!("{n_samples} samples of {name}");
        let sources: Vec<String> = self.sources.iter().map(of_source).collect();
        let parts: Vec<Modality> = self.parts.iter().copied().collect();
        write!(f, "{} were looked at, which have {}", sources.join(", "), list(&parts))
    }
}

const fn modality_of(part: &Part) -> Modality {
    match part {
        Part::Text(_) => Modality::Text,
        Part::Image(_) | Part::Latents { .. } => Modality::Image,
        Part::Audio(_) => Modality::Speech,
        Part::Codes { modality, .. } => *modality,
    }
}

const fn noun(modality: Modality) -> &'static str {
    match modality {
        Modality::Text => "text",
        Modality::Image => "an image",
        Modality::Speech => "speech",
    }
}

/// "text, images and speech".
fn list(modalities: &[Modality]) -> String {
    let word = |modality: &Modality| match modality {
        Modality::Text => "text",
        Modality::Image => "images",
        Modality::Speech => "speech",
    };
    let words: Vec<&str> = modalities.iter().map(word).collect();
    match words.as_slice() {
        [] => "nothing of this kind".to_owned(),
        [one] => (*one).to_owned(),
        [all @ .., last] => format!("{} and {last}", all.join(", ")),
    }
}
