//! From sources to two tokenised splits.

mod codecs;
mod identity;
mod view;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use mom_data::scenes::truth::Recogniser;
use mom_data::{Dataset, Loader, Order, Progress, SourceConfig, TextConfig, TokenizerConfig, Tokenizers};
use mom_models::Architecture;

pub use codecs::{Latents, PublishedImages, PublishedSpeech};
pub(crate) use identity::same_sources;
pub(crate) use view::view;

use crate::config::tokenizers_of;
use crate::error::require;
use crate::lock::FolderLock;
use crate::{Error, Result, RunConfig};

/// Positions over which the keys of a query are counted.
const COUNTED_POSITIONS: usize = 1 << 16;

/// Held while what is missing in a folder is made.
const PREPARING: &str = ".preparing.lock";

/// The data of a run. Runs of one setting share it.
#[derive(Debug)]
pub struct Prepared {
    /// Fitted or loaded.
    pub tokenizers: Tokenizers,
    /// Both splits.
    pub dataset: Dataset,
    /// Once somebody wants to know what words speech has.
    reader: OnceLock<Recogniser>,
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
        // One process at a time makes what several may use.
        let _lock = FolderLock::wait(folder, PREPARING, || {
            progress(Progress { what: "waiting for another process that prepares these data", done: 0, total: 0 });
        })?;
        let anywhere = |config: &TokenizerConfig| {
            let tokenizer = config.text.tokenizer.as_ref().map(|_| PathBuf::new());
            TokenizerConfig { text: TextConfig { tokenizer, ..config.text.clone() }, ..config.clone() }
        };
        let as_asked = |tokenizers: &Tokenizers| {
            anywhere(tokenizers.config()) == anywhere(wanted) && tokenizers.needs() == config.needs()
        };
        let content = |path: &Path, reason: &str| Error::Content { path: path.into(), reason: reason.to_owned() };
        let of_origin = config.train.init_from.as_deref().and_then(tokenizers_of);
        let tokenizers = if dir.join("tokenizers.json").is_file() {
            let loaded = Tokenizers::load(&dir)?;
            // The user's own file may lie elsewhere, or be gone; if it is there it is still the same one.
            let other = match &wanted.text.tokenizer {
                Some(path) if path.is_file() => !loaded.has_text_of(path)?,
                _ => false,
            };
            if other || !as_asked(&loaded) {
                let reason =
                    "these tokenizers were made with another configuration; remove them, or use another folder";
                return Err(content(&dir, reason));
            }
            // In a folder that several runs share they may be another model's; a run's own are those that it began with.
            if let Some(origin) = of_origin.filter(|_| config.data.prepared.is_some())
                && Tokenizers::load(origin)?.fingerprint()? != loaded.fingerprint()?
            {
                let reason = "these are not the tokenizers of the model in train.init_from; use another folder";
                return Err(content(&dir, reason));
            }
            loaded
        } else if let Some(origin) = of_origin {
            let loaded = Tokenizers::load(&origin)?;
            if !as_asked(&loaded) {
                let reason = "the tokenizers of train.init_from were made with another setting or other data.tokenizers; leave \
                              data.tokenizers away to take them as they are";
                return Err(content(&origin, reason));
            }
            loaded.save(&dir)?;
            loaded
        } else {
            let fitted = Tokenizers::fit(&sources, wanted, config.needs(), &mut progress)?;
            fitted.save(&dir)?;
            fitted
        };
        let dataset = Dataset::prepare(&sources, &tokenizers, &folder.join("tokens"), &mut progress)?;
        Ok(Self::of(tokenizers, dataset))
    }

    /// Documents and the tokenizers that made them.
    pub(crate) fn of(tokenizers: Tokenizers, dataset: Dataset) -> Self {
        Self { tokenizers, dataset, reader: OnceLock::new() }
    }

    /// What reads the words of speech of the small world from its units; it takes some seconds to learn them, once.
    ///
    /// # Errors
    /// Speech that other programs made units of.
    pub(crate) fn reader_of_speech(&self) -> Result<&Recogniser> {
        let codebook = self.tokenizers.speech_codebook()?;
        Ok(self.reader.get_or_init(|| Recogniser::learn(codebook)))
    }

    /// Holds a folder of tokenizers and tokens against other processes that would make what is missing; waits for one that does.
    /// `None` of a folder that can only be read.
    ///
    /// # Errors
    /// What keeps it from being held otherwise.
    pub fn hold(folder: &Path) -> Result<Option<FolderLock>> {
        match FolderLock::wait(folder, PREPARING, || {}) {
            Ok(lock) => Ok(Some(lock)),
            Err(Error::File(error)) if error.is_read_only() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Tokenises sources into `folder` with given tokenizers, to evaluate on all of their documents.
    ///
    /// # Errors
    /// Sources that cannot be read.
    pub fn to_evaluate(
        sources: &[SourceConfig],
        tokenizers: Tokenizers,
        folder: &Path,
        progress: impl FnMut(Progress<'_>),
    ) -> Result<Self> {
        let dataset = Dataset::prepare_to_evaluate(sources, &tokenizers, folder, progress)?;
        Ok(Self::of(tokenizers, dataset))
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

    /// The configuration with what the data alone can tell: how many keys a query of a transformer meets, where it does not say.
    ///
    /// # Errors
    /// A sequence too short for an image; documents so long that attention alone costs a token more than the dense model does.
    pub fn resolved(&self, config: &RunConfig) -> Result<RunConfig> {
        let mut config = config.clone();
        let is_transformer = matches!(config.model.variant.architecture(), Architecture::Transformer(_));
        if is_transformer && config.model.mean_keys.is_none() {
            config.model.mean_keys = Some(self.mean_keys(&config)?.ceil() as usize);
            config.validate()?;
        }
        Ok(config)
    }

    /// Counted over some sequences of the training split, the same for every seed.
    fn mean_keys(&self, config: &RunConfig) -> Result<f64> {
        self.check(config)?;
        let seqlen = config.data.seqlen;
        let batch = (COUNTED_POSITIONS / seqlen).clamp(8, 256);
        let order = Order::Shuffled { seed: 0 };
        let mut loader = Loader::new(self.dataset.train.clone(), config.forms(), batch, seqlen, order)?;
        Ok(view(&loader.next_batch()?).mean_keys()?)
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
