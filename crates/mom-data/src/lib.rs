//! Data for multimodal models: read in the formats people have, tokenised once, mixed, packed into batches.
//!
//! The stages, in the order in which a sample walks through them; each is usable alone:
//!
//! 1. [`readers`]: each gives the samples of one format, and an account of everything that it finds.
//!    [`scenes`], an endless generator of documents, is a source like any other. A [`SourceConfig`] names one.
//! 2. [`media`]: images and recordings, decoded.
//! 3. [`Tokenizers`]: byte-level BPE, an image patch codebook and speech units, fitted to the training split or given.
//! 4. [`Dataset`]: both splits, tokenised into a folder; what is there is not made again.
//! 5. [`Documents`]: the mixture of a split's sources, by weight.
//! 6. [`Loader`]: documents packed into sequences, handed out as [`Batch`]es of plain arrays; stops and goes on anywhere.
//!
//! Everything is a pure function of configuration and seeds: no result depends on thread count or hash order.
//!
//! ```
//! use mom_data::scenes::SceneSource;
//! use mom_data::{Dataset, Forms, Loader, Needs, Order, SourceConfig, TokenizerConfig, Tokenizers};
//!
//! # fn main() -> mom_data::Result<()> {
//! // Or SourceConfig::at("a folder of shards, a table, pairs of files, ...").
//! let sources = [SourceConfig::generated(SceneSource { documents: 64, ..SceneSource::default() })];
//! let tokenizers = Tokenizers::fit(&sources, &TokenizerConfig::default(), Needs::CODES_AND_UNITS, |_| {})?;
//! let data = Dataset::load(&sources, &tokenizers)?;
//! println!("{}", data.tallies["scenes"]);
//!
//! let mut loader = Loader::new(data.train, Forms::default(), 4, 256, Order::Shuffled { seed: 1 })?;
//! let batch = loader.next_batch()?;
//! assert_eq!(batch.tokens.len(), 4 * 256);
//! assert!(batch.n_targets() > 0);
//! # Ok(())
//! # }
//! ```

pub mod batch;
mod dataset;
mod document;
pub mod encode;
mod error;
mod files;
mod fit;
pub mod inspect;
pub mod latents;
mod loader;
pub mod media;
mod mixture;
mod needs;
mod packing;
pub mod pixels;
mod progress;
pub mod readers;
mod rng;
pub mod scenes;
mod source;
mod split;
mod store;
mod tally;
mod tokenizers;
mod vocabulary;

pub use batch::{Batch, Chunk, NO_TARGET, Order, Position, Share};
pub use dataset::Dataset;
pub use document::{Content, Document};
pub use error::{DataError, Result};
pub use loader::Loader;
pub use mixture::{Documents, FormWeights, Forms};
pub use needs::{ImageNeed, Needs, SpeechNeed};
pub use pixels::RgbImage;
pub use progress::Progress;
pub use source::{FirstTokens, OnDamaged, SourceConfig, SplitRule, check as check_sources};
pub use tokenizers::{
    CodeKind, External, ExternalIdentities, FileReference, ImageCodebook, ImageConfig, ImageForm, ImageTokenizer,
    ImageTokens, Latents, MAX_SPEECH_UNITS, NetworkDevice, NetworkDtype, Repeats, SPEECH_UNITS_PER_SEC, SpeechCodebook,
    SpeechConfig, SpeechTokenizer, TextConfig, TextTokenizer, TokenizerConfig, Tokenizers,
};
pub use vocabulary::{Modality, Special, Vocabulary};

/// The README's example, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
