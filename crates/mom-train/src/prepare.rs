//! From a folder of shards to two tokenised splits.

use std::path::{Path, PathBuf};

use mom_data::{Corpus, Dataset, Loader, Order, Recipe, Tokenizers};
use mom_models::{ImagePatches, TokenBatch};
use serde::{Deserialize, Serialize};

use crate::error::require;
use crate::files::At;
use crate::run::write_json;
use crate::{Error, Result, RunConfig};

/// Raised whenever the same configuration and data would train another model.
const FORMAT_VERSION: u32 = 1;
const IDENTITY: &str = "identity.json";

/// What the results of a folder stand for beside their configurations.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    format_version: u32,
    /// [`Corpus::fingerprint`] in hexadecimal, since JSON readers may round a large number.
    corpus: String,
    samples: usize,
}

/// Opens the shards of a run or sweep and makes sure that `folder` was made with them, or that it is new.
///
/// # Errors
/// Shards that cannot be read; [`Error::OtherData`] for a folder of other shards or another version of this crate.
pub(crate) fn open_corpus(shards: &Path, folder: &Path) -> Result<Corpus> {
    let corpus = Corpus::open(shards)?;
    let now = Identity {
        format_version: FORMAT_VERSION,
        corpus: format!("{:016x}", corpus.fingerprint()),
        samples: corpus.len(),
    };
    let path = folder.join(IDENTITY);
    if !path.is_file() {
        crate::files::create_folder(folder)?;
        write_json(&path, &now)?;
        return Ok(corpus);
    }
    let text = std::fs::read(&path).at("read", &path)?;
    let then: Identity = serde_json::from_slice(&text)
        .map_err(|error| Error::Content { path: path.clone(), reason: error.to_string() })?;
    if then == now {
        return Ok(corpus);
    }
    let what = if then.format_version == now.format_version {
        format!("{} samples in {} are not the {} it began with", now.samples, shards.display(), then.samples)
    } else {
        format!("its format is {}, this version's {}", then.format_version, now.format_version)
    };
    Err(Error::OtherData { path, what })
}

/// The data of a run. Runs of one setting share it.
#[derive(Debug)]
pub struct Prepared {
    /// Fitted or loaded.
    pub tokenizers: Tokenizers,
    /// Both splits.
    pub dataset: Dataset,
    recipe: Recipe,
}

impl Prepared {
    /// Opens the shards, loads the tokenizers of `tokenizers_dir` or fits and saves them there, and tokenises everything that
    /// was not tokenised before: tokens lie beside the tokenizers and are mapped into memory. The folder around
    /// `tokenizers_dir` remembers the shards.
    ///
    /// `progress(done, total)` is called now and then, in samples.
    ///
    /// # Errors
    /// Shards or tokenizers that cannot be read; a folder of other shards; tokenizers of another configuration.
    pub fn new(config: &RunConfig, tokenizers_dir: &Path, progress: impl FnMut(usize, usize)) -> Result<Self> {
        let folder = tokenizers_dir.parent().unwrap_or(tokenizers_dir);
        let corpus = open_corpus(&config.data.shards, folder)?;
        let recipe = config.recipe();
        let wanted = &config.data.tokenizers;
        let tokenizers = if tokenizers_dir.join("tokenizers.json").is_file() {
            let loaded = Tokenizers::load(tokenizers_dir)?;
            if loaded.config() != wanted || loaded.needs() != recipe.needs() {
                let reason =
                    "these tokenizers were fitted with another configuration; remove them, or use another folder";
                return Err(Error::Content { path: tokenizers_dir.into(), reason: reason.to_owned() });
            }
            loaded
        } else {
            let fitted = Tokenizers::fit(&corpus, wanted, recipe.needs())?;
            fitted.save(tokenizers_dir)?;
            fitted
        };
        let dataset = Dataset::prepare(&corpus, &tokenizers, &recipe, &tokens_beside(tokenizers_dir), progress)?;
        Ok(Self { tokenizers, dataset, recipe })
    }

    /// A hash of all tokens: a run goes on with the data it began with, or not at all.
    pub fn fingerprint(&self) -> u64 {
        self.dataset.fingerprint()
    }

    /// Batches of the training split, in an order that is a function of the seed.
    ///
    /// # Errors
    /// A sequence too short for an image.
    pub fn train_loader(&self, config: &RunConfig) -> Result<Loader> {
        self.check(config)?;
        let order = Order::Shuffled { seed: config.train.seed };
        let (batch, seqlen) = (config.data.batch, config.data.seqlen);
        Ok(Loader::new(self.dataset.train.clone(), self.recipe, batch, seqlen, order)?)
    }

    /// Batches of the held-out split, the same in every run.
    ///
    /// # Errors
    /// A sequence too short for an image.
    pub fn validation_loader(&self, config: &RunConfig) -> Result<Loader> {
        self.check(config)?;
        let (batch, seqlen) = (config.data.batch, config.data.seqlen);
        Ok(Loader::new(self.dataset.held_out.clone(), self.recipe, batch, seqlen, Order::Sequential)?)
    }

    fn check(&self, config: &RunConfig) -> Result<()> {
        let recipe = config.recipe();
        require(recipe == self.recipe, "data.recipe", &format!("{:?}, as prepared", self.recipe), format!("{recipe:?}"))
    }
}

/// `tokens` beside `tokenizers`, `tokens-chameleon` beside `tokenizers-chameleon`.
fn tokens_beside(tokenizers_dir: &Path) -> PathBuf {
    let name = tokenizers_dir.file_name().unwrap_or_default().to_string_lossy();
    tokenizers_dir.with_file_name(match name.strip_prefix("tokenizers") {
        Some(rest) => format!("tokens{rest}"),
        None => format!("{name}-tokens"),
    })
}

/// A batch as a model reads it.
pub(crate) fn view(batch: &mom_data::Batch) -> TokenBatch<'_> {
    TokenBatch {
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
