//! From sources to two tokenised splits.

mod identity;
mod networks;
mod published;
mod view;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use mom_data::readers::Tally;
use mom_data::scenes::truth::Recogniser;
use mom_data::{Dataset, ImageNeed, Loader, Order, Progress, SourceConfig, Tokenizers};
use mom_models::Architecture;

pub(crate) use identity::{outside_of_sources, same_sources, unchanged_sources};
pub(crate) use networks::{OtherBytes, attach};
pub use published::{Latents, PublishedImages, PublishedSpeech};
pub(crate) use view::view;

use crate::config::tokenizers_of;
use crate::error::require;
use crate::lease::Lease;
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
    /// Why published networks that made the tokens are not here.
    absent: Vec<String>,
    /// Once somebody wants to know what words speech has.
    reader: OnceLock<Recogniser>,
}

impl Prepared {
    /// Loads the tokenizers of `folder`/tokenizers or fits and saves them there, and tokenises into `folder`/tokens what
    /// was not tokenised before. Published networks are opened, and compared with what is asked for, before anything is read;
    /// where their tokens are there already, they may be absent.
    ///
    /// # Errors
    /// Sources or tokenizers that cannot be read; tokenizers of another configuration; weights that cannot be read, of another
    /// network or size, or other ones than those that tokens were made with.
    pub fn new(config: &RunConfig, folder: &Path, mut progress: impl FnMut(Progress<'_>)) -> Result<Self> {
        outside_of_sources(&config.data.sources(), folder)?;
        // One process at a time makes what several may use.
        let _lock = FolderLock::wait(folder, PREPARING, || {
            progress(Progress { what: "waiting for another process that prepares these data", done: 0, total: 0 });
        })?;
        let wanted = &config.data.tokenizers;
        let has_networks = wanted.has_image_network(config.needs()) || wanted.has_speech_network(config.needs());
        let _lease = if has_networks { Lease::on(config.train.device, false)? } else { None };
        let (tokenizers, absent) = Self::tokenizers_of_run(config, folder, &mut progress)?;
        let dataset = Dataset::prepare(&config.data.sources(), &tokenizers, &folder.join("tokens"), &mut progress)?;
        Ok(Self { absent, ..Self::of(tokenizers, dataset) })
    }

    /// The tokenizers of a run, and which networks are absent.
    fn tokenizers_of_run(
        config: &RunConfig,
        folder: &Path,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(Tokenizers, Vec<String>)> {
        let (sources, wanted, device) = (config.data.sources(), &config.data.tokenizers, config.train.device);
        let dir = folder.join("tokenizers");
        let as_asked = |tokenizers: &Tokenizers| {
            tokenizers.config().anywhere() == wanted.anywhere() && tokenizers.needs() == config.needs()
        };
        let content = |path: &Path, reason: &str| Error::Content { path: path.into(), reason: reason.to_owned() };
        let of_origin = config.train.init_from.as_deref().and_then(tokenizers_of);
        if dir.join("tokenizers.json").is_file() {
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
            attach(loaded, wanted, device, OtherBytes::Refuse)
        } else if let Some(origin) = of_origin {
            let loaded = Tokenizers::load(&origin)?;
            if !as_asked(&loaded) {
                let reason = "the tokenizers of train.init_from were made with another setting or other data.tokenizers; leave \
                              data.tokenizers away to take them as they are";
                return Err(content(&origin, reason));
            }
            let (loaded, absent) = attach(loaded, wanted, device, OtherBytes::Refuse)?;
            loaded.save(&dir)?;
            Ok((loaded, absent))
        } else {
            let external = networks::open(wanted, config.needs(), device)?;
            if let Some(image) = external.image.as_ref().and_then(|image| image.grid()) {
                check_length(config, image, wanted.image.patch)?;
            }
            let wanted = networks::from_anywhere(wanted)?;
            let fitted = Tokenizers::fit(&sources, &wanted, config.needs(), progress)?.with_external(external)?;
            fitted.save(&dir)?;
            Ok((fitted, Vec::new()))
        }
    }

    /// Gives back the memory of published networks, whose tokens are made: for a run that draws nothing on its way.
    pub fn release_networks(&mut self) {
        let reason = "they were given back once the tokens were made";
        self.tokenizers = self.tokenizers.clone().detached(reason);
    }

    /// Documents and the tokenizers that made them.
    pub(crate) fn of(tokenizers: Tokenizers, dataset: Dataset) -> Self {
        Self { tokenizers, dataset, absent: Vec::new(), reader: OnceLock::new() }
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

    /// What a user should know of the data: what was skipped or ignored, how tokenizers came out, and whose weights are absent.
    pub fn notes(&self) -> Vec<String> {
        let is_lost = |tally: &Tally| tally.n_skipped() + tally.n_ignored() + tally.ungrouped > 0;
        let lost = self.dataset.tallies.iter().filter(|(_, tally)| is_lost(tally));
        let lost = lost.map(|(name, tally)| format!("{name}: {tally}"));
        self.tokenizers.notes().iter().chain(&self.absent).cloned().chain(lost).collect()
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

/// Fails if a picture of continuous patches, which is never cut, does not fit in a sequence.
fn check_length(config: &RunConfig, [rows, columns]: [usize; 2], patch: usize) -> Result<()> {
    if config.needs().image != ImageNeed::Patches {
        return Ok(());
    }
    let n_positions = (rows / patch.max(1)) * (columns / patch.max(1)) + 2;
    let expected = format!("at least {n_positions}, the patches of an image and two markers");
    require(config.data.seqlen >= n_positions, "data.seqlen", &expected, config.data.seqlen)
}
