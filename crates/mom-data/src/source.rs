//! A source: where samples come from, how they are read, and how much of them is wanted.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::require;
use crate::readers::{self, Format, ReadOptions, Reader};
use crate::scenes::{SceneReader, SceneSource};
use crate::{DataError, Modality, Result};

/// One source of a mixture: a path, or generated scenes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// Name in messages and of its store; the last part of the path if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// File or folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Generated documents instead of a path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scenes: Option<SceneSource>,
    /// Format; guessed from the names of the files if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Share of tokens, relative to the weights of the other sources.
    #[serde(default = "defaults::weight")]
    pub weight: f64,
    /// Which split its samples belong to.
    #[serde(default)]
    pub split: SplitRule,
    /// Modalities that are taken from its samples.
    #[serde(default = "defaults::parts")]
    pub parts: Vec<Modality>,
    /// Fields that hold the text, see [`ReadOptions::text_fields`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub text: Vec<String>,
    /// Field whose value keeps samples on one side of the split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// See [`ReadOptions::end_of_document`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_of_document: Option<u32>,
    /// See [`ReadOptions::token_modality`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_modality: Option<Modality>,
    /// See [`ReadOptions::mode_modalities`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mode_modalities: Vec<Modality>,
    /// Taken from ready tokens, where a modality's do not begin at 0.
    #[serde(default)]
    pub first_token: FirstTokens,
    /// What becomes of a file that is damaged.
    #[serde(default)]
    pub damaged: OnDamaged,
}

/// Which split the samples of a source belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SplitRule {
    /// A fraction is held out, by a hash of the group or key.
    #[default]
    HeldOut,
    /// All are trained on.
    Train,
    /// All are validated on.
    Validation,
}

/// What becomes of a file that is damaged as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnDamaged {
    /// An error that names it.
    #[default]
    Stop,
    /// What stands before the damage is used; the file is counted and named.
    Skip,
}

/// First token of each modality in ready tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FirstTokens {
    /// Of text.
    pub text: u32,
    /// Of image codes.
    pub image: u32,
    /// Of speech units.
    pub speech: u32,
}

impl FirstTokens {
    /// Of a modality.
    pub const fn of(&self, modality: Modality) -> u32 {
        match modality {
            Modality::Text => self.text,
            Modality::Image => self.image,
            Modality::Speech => self.speech,
        }
    }
}

mod defaults {
    use crate::Modality;

    pub(super) const fn weight() -> f64 {
        1.0
    }
    pub(super) fn parts() -> Vec<Modality> {
        Modality::ALL.to_vec()
    }
}

impl SourceConfig {
    /// Everything that lies at a path, with all defaults.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            name: None,
            path: Some(path.into()),
            scenes: None,
            format: None,
            weight: defaults::weight(),
            split: SplitRule::default(),
            parts: defaults::parts(),
            text: Vec::new(),
            group: None,
            end_of_document: None,
            token_modality: None,
            mode_modalities: Vec::new(),
            first_token: FirstTokens::default(),
            damaged: OnDamaged::default(),
        }
    }

    /// Generated scenes, with all defaults.
    pub fn generated(scenes: SceneSource) -> Self {
        Self { path: None, scenes: Some(scenes), ..Self::at("") }
    }

    /// Name in messages and of its store.
    pub fn name(&self) -> String {
        let last = || {
            let path = self.path.as_deref()?;
            // Of `.` and the like there is no last part.
            let path = if path.file_name().is_none() { &path.canonicalize().ok()? } else { path };
            Some(path.file_name()?.to_string_lossy().into_owned())
        };
        self.name.clone().or_else(last).unwrap_or_else(|| "scenes".to_owned())
    }

    /// Checks every value, reads nothing.
    ///
    /// # Errors
    /// [`DataError::Config`], naming the field.
    pub fn validate(&self) -> Result<()> {
        let one = self.path.is_some() != self.scenes.is_some();
        require(one, "sources.path", "given, or else sources.scenes", "both or neither")?;
        let weight = self.weight;
        require(weight.is_finite() && weight > 0.0, "sources.weight", "positive and finite", weight)?;
        require(!self.parts.is_empty(), "sources.parts", "at least one of text, image, speech", "none")?;
        let fits = self.scenes.is_none() || matches!(self.format, None | Some(Format::Scenes));
        require(fits, "sources.format", "absent for generated scenes", self.format.map_or("", Format::name))?;
        self.scenes.as_ref().map_or(Ok(()), SceneSource::validate)
    }

    /// Whether a modality is taken.
    pub fn takes(&self, modality: Modality) -> bool {
        self.parts.contains(&modality)
    }

    /// Opens the source: lists its units, reads none.
    ///
    /// # Errors
    /// As [`readers::open`], and [`Self::validate`].
    pub fn open(&self) -> Result<Box<dyn Reader>> {
        self.validate()?;
        match (&self.path, &self.scenes) {
            (_, Some(scenes)) => Ok(Box::new(SceneReader::new(scenes, self.takes(Modality::Speech))?)),
            (Some(path), None) => readers::open(path, self.format, &self.read_options()),
            (None, None) => Err(DataError::Config {
                field: "sources.path",
                expected: "given".to_owned(),
                got: "nothing".to_owned(),
            }),
        }
    }

    /// Changes when any file of the source does, its format or what is read of it; reads no file. `None` where nothing is
    /// at its path (any more).
    pub(crate) fn stamp(&self) -> Result<Option<u64>> {
        match (&self.path, &self.scenes) {
            (_, Some(scenes)) => Ok(Some(scenes.stamp())),
            (Some(path), None) if path.exists() => readers::stamp(path).map(Some),
            _ => Ok(None),
        }
    }

    /// A hash of names and sizes of all files, or of what is generated: the same for a copy elsewhere. `None` where nothing is
    /// at the path.
    ///
    /// # Errors
    /// [`DataError::Io`] for a folder that cannot be listed.
    pub fn contents(&self) -> Result<Option<u64>> {
        match (&self.path, &self.scenes) {
            (_, Some(scenes)) => Ok(Some(scenes.stamp())),
            (Some(path), None) if path.exists() => readers::contents(path).map(Some),
            _ => Ok(None),
        }
    }

    /// What tokens of a unit depend on beside its files and the tokenizers.
    pub(crate) fn reading(&self) -> String {
        let Self { format, parts, first_token, .. } = self;
        format!("{format:?} {parts:?} {first_token:?} {:?}", self.read_options())
    }

    fn read_options(&self) -> ReadOptions {
        ReadOptions {
            text_fields: self.text.clone(),
            group_field: self.group.clone(),
            end_of_document: self.end_of_document,
            token_modality: self.token_modality,
            mode_modalities: self.mode_modalities.clone(),
        }
    }
}

/// Checks sources before any is read.
///
/// # Errors
/// [`DataError::Config`], naming the field or the two sources of one name.
pub fn check(sources: &[SourceConfig]) -> Result<()> {
    require(!sources.is_empty(), "sources", "at least one", "none")?;
    let mut names = std::collections::BTreeSet::new();
    for source in sources {
        source.validate()?;
        let name = source.name();
        require(names.insert(name.clone()), "sources.name", "another one for each source", name)?;
    }
    Ok(())
}
