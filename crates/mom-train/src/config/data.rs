//! `[data]`: what a run is trained on.

use std::path::PathBuf;

use mom_data::{Forms, SourceConfig, TokenizerConfig};
use serde::{Deserialize, Serialize};

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
        let text = &mut data.tokenizers.text;
        text.tokenizer = text.tokenizer.as_ref().map(|_| PathBuf::new());
        for source in &mut data.sources {
            // A name that is not given is the path's last part, which is compared.
            source.name = Some(source.name());
            source.path = source.path.as_ref().map(|_| PathBuf::new());
        }
        data
    }
}
