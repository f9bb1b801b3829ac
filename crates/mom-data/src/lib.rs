//! Multimodal documents: generated or read from shards, tokenised, packed into batches.
//!
//! The stages, each usable alone:
//!
//! 1. [`scenes`]: an endless generator of documents (image, caption, utterance), and their writing as WebDataset shards.
//! 2. [`Corpus`]: any folder of WebDataset shards, samples decoded on demand; what cannot be used is counted
//!    ([`SkipReport`]), never passed over in silence.
//! 3. [`Tokenizers`]: byte-level BPE, an image patch codebook and speech units, fitted on the training split, stored in a
//!    folder; one [`Vocabulary`] for all.
//! 4. [`Dataset`]: both splits tokenised for a [`Recipe`], one of the paper's three settings.
//! 5. [`Loader`]: documents packed into sequences, handed out as [`Batch`]es of plain arrays; stops and goes on anywhere.
//!
//! Everything is a pure function of configuration and seeds: no result depends on thread count or hash order.
//!
//! ```
//! use mom_data::scenes::{self, SceneConfig, ShardOptions};
//! use mom_data::{Corpus, Dataset, Loader, Order, Recipe, TokenizerConfig, Tokenizers};
//!
//! # fn main() -> mom_data::Result<()> {
//! let document = scenes::document(7, 42, &SceneConfig::default());
//! println!("{} ({} samples of speech)", document.caption, document.speech.len());
//!
//! let folder = tempfile::tempdir().expect("a temporary folder");
//! let options = ShardOptions { seed: 7, documents: 64, ..ShardOptions::default() };
//! scenes::write_shards(folder.path().join("shards"), &options, |_done, _total| {})?;
//!
//! let corpus = Corpus::open(folder.path().join("shards"))?;
//! let recipe = Recipe::three_modality();
//! let tokenizers = Tokenizers::fit(&corpus, &TokenizerConfig::default(), recipe.needs())?;
//! tokenizers.save(folder.path().join("tokenizers"))?;
//!
//! let data = Dataset::load(&corpus, &tokenizers, &recipe)?;
//! let mut loader = Loader::new(data.train, recipe, 4, 256, Order::Shuffled { seed: 1 })?;
//! let batch = loader.next_batch()?;
//! assert_eq!(batch.tokens.len(), 4 * 256);
//! assert!(batch.n_targets() > 0);
//! # Ok(())
//! # }
//! ```

pub mod batch;
mod documents;
pub mod encode;
mod error;
mod files;
mod loader;
mod packing;
pub mod pixels;
mod recipe;
mod rng;
pub mod scenes;
mod shards;
mod tokenizers;
mod tokens;
mod vocabulary;

pub use batch::{Batch, NO_TARGET, Order, Position};
pub use documents::{Dataset, DocumentSet, PART, Split};
pub use error::{DataError, Result};
pub use loader::Loader;
pub use pixels::RgbImage;
pub use recipe::{FormWeights, ImageNeed, Needs, Recipe, SpeechNeed};
pub use shards::{Corpus, Sample, SkipReason, SkipReport};
pub use tokenizers::{
    ImageCodebook, ImageConfig, MAX_SPEECH_UNITS, Repeats, SPEECH_UNITS_PER_SEC, SpeechCodebook, SpeechConfig,
    TextConfig, TextTokenizer, TokenizerConfig, Tokenizers,
};
pub use vocabulary::{Modality, Special, Vocabulary};
