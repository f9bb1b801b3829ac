//! From sources to two tokenised splits.

use std::path::{Path, PathBuf};

use mom_data::{Dataset, Loader, Order, Progress, SourceConfig, Tokenizers};
use mom_models::{Batch, ImagePatches};
use serde::{Deserialize, Serialize};

use crate::error::require;
use crate::files::At;
use crate::run::write_json;
use crate::{Error, Result, RunConfig};

/// Raised whenever the same configuration and data would train another model.
const FORMAT_VERSION: u32 = 2;
const IDENTITY: &str = "identity.json";

/// What the results of a folder stand for beside their configurations.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    format_version: u32,
    /// Name and contents of each source: names and sizes of its files, as a hash in hexadecimal.
    sources: Vec<(String, String)>,
}

/// Makes sure that `folder` was made with these sources, or that it is new. Sources that are gone are not compared: their
/// tokens are what is left.
///
/// # Errors
/// A folder that cannot be listed; [`Error::OtherData`] for a folder of other sources or another version of this crate.
pub(crate) fn same_sources(sources: &[SourceConfig], folder: &Path) -> Result<()> {
    let mut now = Identity { format_version: FORMAT_VERSION, sources: Vec::new() };
    for source in sources {
        let contents = source.contents()?;
        now.sources.push((source.name(), contents.map_or_else(|| "?".to_owned(), |hash| format!("{hash:016x}"))));
    }
    let path = folder.join(IDENTITY);
    if !path.is_file() {
        crate::files::create_folder(folder)?;
        return write_json(&path, &now);
    }
    let text = std::fs::read(&path).at("read", &path)?;
    let content = |reason: String| Error::Content { path: path.clone(), reason };
    let version = serde_json::from_slice::<serde_json::Value>(&text).map_err(|error| content(error.to_string()))?;
    let version = version.get("format_version").and_then(serde_json::Value::as_u64).unwrap_or(0);
    if version != u64::from(FORMAT_VERSION) {
        let what = format!("its format is {version}, this version's is {FORMAT_VERSION}");
        return Err(Error::OtherData { path, what });
    }
    let then: Identity = serde_json::from_slice(&text).map_err(|error| content(error.to_string()))?;
    let names = |identity: &Identity| identity.sources.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    if names(&then) != names(&now) {
        let what = format!("its sources are {}, now {}", names(&then).join(", "), names(&now).join(", "));
        return Err(Error::OtherData { path, what });
    }
    match then.sources.iter().zip(&now.sources).find(|(then, now)| then.1 != now.1 && now.1 != "?" && then.1 != "?") {
        Some((_, (name, _))) => {
            let what = format!("the files of the source {name} are not those that it began with");
            Err(Error::OtherData { path, what })
        }
        None => Ok(()),
    }
}

/// The data of a run. Runs of one setting share it.
#[derive(Debug)]
pub struct Prepared {
    /// Fitted or loaded.
    pub tokenizers: Tokenizers,
    /// Both splits.
    pub dataset: Dataset,
}

impl Prepared {
    /// Loads the tokenizers of `folder`/tokenizers or fits and saves them there, and tokenises into `folder`/tokens what
    /// was not tokenised before.
    ///
    /// # Errors
    /// Sources or tokenizers that cannot be read; tokenizers of another configuration.
    pub fn new(config: &RunConfig, folder: &Path, mut progress: impl FnMut(Progress<'_>)) -> Result<Self> {
        let (sources, wanted) = (config.data.sources(), &config.data.tokenizers);
        let dir = folder.join("tokenizers");
        let tokenizers = if dir.join("tokenizers.json").is_file() {
            let loaded = Tokenizers::load(&dir)?;
            if loaded.config() != wanted || loaded.needs() != config.needs() {
                let reason =
                    "these tokenizers were fitted with another configuration; remove them, or use another folder";
                return Err(Error::Content { path: dir, reason: reason.to_owned() });
            }
            loaded
        } else {
            let fitted = Tokenizers::fit(&sources, wanted, config.needs(), &mut progress)?;
            fitted.save(&dir)?;
            fitted
        };
        let dataset = Dataset::prepare(&sources, &tokenizers, &folder.join("tokens"), &mut progress)?;
        Ok(Self { tokenizers, dataset })
    }

    /// The folder of a run's tokenizers and tokens: `data.prepared`, or the run's own.
    pub fn folder_of(config: &RunConfig, run: &Path) -> PathBuf {
        config.data.prepared.clone().unwrap_or_else(|| run.to_path_buf())
    }

    /// A hash of all documents and how they are mixed: a run goes on with the data it began with, or not at all.
    pub fn fingerprint(&self) -> u64 {
        self.dataset.fingerprint()
    }

    /// What a user should know of the data: what was skipped or ignored, and how tokenizers came out.
    pub fn notes(&self) -> Vec<String> {
        let lost = self.dataset.tallies.iter().filter(|(_, tally)| tally.n_skipped() + tally.n_ignored() > 0);
        let lost = lost.map(|(name, tally)| format!("{name}: {tally}"));
        self.tokenizers.notes().iter().cloned().chain(lost).collect()
    }

    /// Batches of the training split, in an order that is a function of the seed.
    ///
    /// # Errors
    /// A sequence too short for an image.
    pub fn train_loader(&self, config: &RunConfig) -> Result<Loader> {
        self.check(config)?;
        let order = Order::Shuffled { seed: config.train.seed };
        let (batch, seqlen) = (config.data.batch, config.data.seqlen);
        Ok(Loader::new(self.dataset.train.clone(), config.forms(), batch, seqlen, order)?)
    }

    /// Batches of one pass over the held-out split, the same in every run.
    ///
    /// # Errors
    /// A sequence too short for an image.
    pub fn validation_loader(&self, config: &RunConfig) -> Result<Loader> {
        self.check(config)?;
        let (batch, seqlen) = (config.data.batch, config.data.seqlen);
        Ok(Loader::pass(self.dataset.held_out.clone(), config.forms(), batch, seqlen)?)
    }

    fn check(&self, config: &RunConfig) -> Result<()> {
        let (needs, prepared) = (config.needs(), self.tokenizers.needs());
        require(needs == prepared, "model.setting", &format!("one of {prepared:?}, as prepared"), format!("{needs:?}"))
    }
}

/// A batch as a model reads it.
pub(crate) fn view(batch: &mom_data::Batch) -> Batch<'_> {
    Batch {
        batch: batch.batch,
        seqlen: batch.seqlen,
        tokens: &batch.tokens,
        targets: &batch.targets,
        modality_ids: &batch.modality_ids,
        target_modality_ids: &batch.target_modality_ids,
        document_starts: &batch.document_starts,
        patches: ImagePatches {
            values: &batch.patches,
            positions: &batch.patch_positions,
            images: &batch.patch_images,
        },
    }
}

const _: () = assert!(mom_data::NO_TARGET == mom_models::NO_TARGET);
