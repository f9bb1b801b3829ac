//! Training of Mixture-of-Mamba models, and the paper's comparison.
//!
//! | item | what it is |
//! | --- | --- |
//! | [`RunConfig`] | one run as TOML, with `key=value` overrides |
//! | [`Prepared`] | sources read, tokenizers fitted or loaded, both splits tokenised |
//! | [`PublishedImages`], [`PublishedSpeech`] | published codecs as tokenizers of the data |
//! | [`Trainer`] | model, optimiser and data position: steps, validation, checkpoints |
//! | [`run`] | a whole run in a folder: resumes, evaluates, writes metrics and its result |
//! | [`ablate`] | many runs, side by side: settings, variants, seeds; goes on where it stopped |
//! | [`Trained`], [`evaluate`] | the model of a run, a checkpoint or an export, and its losses on any source |
//! | [`dist`] | the ranks of a run: one process a GPU |
//! | [`speed`] | how fast a model trains on this machine |
//! | [`Generator`] | goes on with a document of text, pictures and speech, on either device |
//! | [`samples`] | what a model makes of held-out documents while it is trained |
//! | [`ablate::report`] | tables, curves and plots of a sweep |
//!
//! Training is a pure function of configuration and data: two runs with one seed write the same bytes, and a run that was
//! stopped anywhere and resumed writes the same bytes as one that was not, on the same machine.
//!
//! ```
//! use mom_train::{Prepared, RunConfig, Trainer};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = tempfile::tempdir()?;
//! let text = r#"
//!     model = { setting = "chameleon", variant = "mom", scale = "nano" }
//!     data = { sources = [{ scenes = { documents = 48 } }], batch = 2, seqlen = 128 }
//!     train = { steps = 3 }
//!     "#;
//! let config = RunConfig::from_toml(text, &["data.tokenizers.image.codes=16".to_owned()])?;
//! let prepared = Prepared::new(&config, folder.path(), |_| {})?;
//! let mut trainer = Trainer::new(&config, &prepared)?;
//! while trainer.steps_done() < config.train.steps {
//!     let step = trainer.step()?;
//!     println!("step {}: loss {:.3}", step.step, step.loss);
//! }
//! # Ok(())
//! # }
//! ```

pub mod ablate;
mod checkpoint;
pub mod config;
mod data;
pub mod dist;
mod error;
mod eval;
mod files;
mod generate;
mod lease;
mod lock;
pub mod optim;
pub mod run;
pub mod samples;
pub mod speed;
pub mod telemetry;
mod train;
mod trained;

pub use config::{DeviceKind, Graph, OnSpike, Precision, Recompute, RunConfig};
pub use data::{Latents, Prepared, PublishedImages, PublishedSpeech};
pub use error::{Error, Origin, Result};
pub use eval::{EvalOptions, Evaluation, Score, evaluate};
pub use files::{FileError, replace as replace_file};
pub use generate::{Draft, GenerateOptions, Generator, Part, PromptPart, draw, read_prompts};
pub use telemetry::{Downstream, Figure, memory};
pub use train::{Skipped, StepReport, Trainer, Validation};
pub use trained::Trained;

/// The README's example, compiled. (`examples/own_pairs.rs` runs the same and more.)
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// Held by a test that computes on a device: while a step is captured, what another thread puts there would become a part of
/// it.
#[cfg(test)]
static ONE_ON_DEVICE: std::sync::Mutex<()> = std::sync::Mutex::new(());
