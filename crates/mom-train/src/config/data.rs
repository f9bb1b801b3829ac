//! `[data]`: what a run is trained on.

use std::path::{Path, PathBuf};

use mom_data::{Forms, SourceConfig, TokenizerConfig};
use serde::{Deserialize, Serialize};

use crate::files::At;
use crate::{Error, Result};

/// The data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSection {
    /// File or folder of the only source, with all defaults; or else `sources`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards: Option<PathBuf>,
    /// Sequences in a batch.
    pub batch: usize,
    /// Positions in a sequence.
    pub seqlen: usize,
    /// Folder of tokenizers and tokens that several runs share; a run's own folder if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepared: Option<PathBuf>,
    /// How samples become documents; the setting's own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forms: Option<Forms>,
    /// How tokenizers are fitted. Defaults follow the scale: small ones below 37M, then the paper's.
    #[serde(default)]
    pub tokenizers: TokenizerConfig,
    /// Where samples come from, and how much of each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceConfig>,
}

impl DataSection {
    /// Where samples come from.
    pub fn sources(&self) -> Vec<SourceConfig> {
        match &self.shards {
            Some(path) => vec![SourceConfig::at(path)],
            None => self.sources.clone(),
        }
    }

    /// Everything but where files lie: what two runs of the same data agree in.
    pub(crate) fn without_paths(&self) -> Self {
        let mut data = self.clone();
        data.shards = data.shards.map(|_| PathBuf::new());
        data.prepared = None;
        data.tokenizers = data.tokenizers.anywhere();
        for source in &mut data.sources {
            // A name that is not given is the path's last part, which is compared.
            source.name = Some(source.name());
            source.path = source.path.as_ref().map(|_| PathBuf::new());
        }
        data
    }
}

/// Sources at a path that a command names: a file or folder of any format, or a TOML file whose section `[data]` has `sources`.
///
/// # Errors
/// A TOML file that cannot be read, or without sources.
pub fn sources_at(path: &Path) -> Result<Vec<SourceConfig>> {
    if path.extension().is_none_or(|ending| ending != "toml") {
        return Ok(vec![SourceConfig::at(path)]);
    }
    let content = |reason: &str| Error::Content { path: path.into(), reason: reason.to_owned() };
    let sources = section_of(path)?.remove("sources").ok_or_else(|| content("its section [data] has no sources"))?;
    let origin = Some(path.display().to_string());
    sources.try_into().map_err(|source| Error::Toml { origin, source: Box::new(source) })
}

/// The section `[data]` of a TOML file.
pub(crate) fn section_of(path: &Path) -> Result<toml::Table> {
    let text = std::fs::read_to_string(path).at("read", path)?;
    let origin = Some(path.display().to_string());
    let mut table: toml::Table =
        toml::from_str(&text).map_err(|source| Error::Toml { origin, source: Box::new(source) })?;
    match table.remove("data") {
        Some(toml::Value::Table(data)) => Ok(data),
        _ => Err(Error::Content { path: path.into(), reason: "it has no section [data]".to_owned() }),
    }
}
