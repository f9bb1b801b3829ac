//! Mixture-of-Mamba language models: the backbone at every scale of the paper, and the three settings with their losses.
//!
//! | item | what it is |
//! | --- | --- |
//! | [`ModelConfig`], [`Scale`], [`Variant`] | what is built: setting, size, and which arm of the comparison |
//! | [`blocks`] | the blocks of every arm: Mamba's, routed ones, a transformer's |
//! | [`Model`] | embedding, backbone and heads; [`Model::loss`] takes a [`Batch`] of plain host arrays |
//! | [`Inputs`] | a batch that was checked and sent to where the model is, while a device works on another |
//! | [`Setting`] | Transfusion, Chameleon, three modalities |
//! | [`Patcher`] | continuous patches in and out, by a linear layer or a U-Net ([`UnetPatcher`]) |
//! | [`diffusion`] | the DDPM schedule, its noise, and its sampler |
//! | [`decode`] | token by token with states, for any setting |
//! | [`codecs`] | published media tokenizers with their weights: VQGAN, KL autoencoders, Mimi, HuBERT |
//! | [`flops`] | active FLOPs, counted |
//!
//! Activations stay in row order (tokens of one modality contiguous) from the embedding to the heads; a head runs over the
//! rows that have a target of its own alone, but in a captured graph over all.
//!
//! ```
//! use candle_core::{DType, Device};
//! use mom_models::{Model, ModelConfig, NO_TARGET, Normaliser, Setting, Batch, Variant};
//!
//! let config = ModelConfig::new(Setting::Chameleon, Variant::Mom, "nano".parse()?, 32);
//! let (model, parameters) = Model::seeded(&config, 7, DType::F32, &Device::Cpu)?;
//! println!("{} weights, {} of them active", config.total_parameters(), config.active_parameters());
//!
//! // One sequence: begin-of-document, two image codes, two text tokens.
//! let batch = Batch {
//!     tokens: &[1, 20, 21, 8, 9],
//!     targets: &[20, 21, 8, 9, NO_TARGET],
//!     modality_ids: &[0, 1, 1, 0, 0],
//!     target_modality_ids: &[1, 1, 0, 0, 0],
//!     document_starts: &[true, false, false, false, false],
//!     ..Batch::empty(1, 5)
//! };
//! let losses = model.loss(&batch, None, Normaliser::of(&batch))?;
//! let gradients = losses.total.backward()?;
//! assert_eq!(losses.by_modality()?[1].count, 2);
//! assert!(parameters.iter().all(|(_, variable)| gradients.get(variable).is_some()));
//! # Ok::<(), mom_models::Error>(())
//! ```

mod backbone;
mod batch;
pub mod blocks;
pub mod codecs;
mod config;
#[cfg(feature = "cuda")]
mod cuda;
pub mod decode;
mod diagnose;
pub mod diffusion;
mod error;
pub mod flops;
pub mod layers;
mod model;
mod parameters;
mod patcher;
mod scale;
mod variant;

pub use backbone::Backbone;
pub use batch::{Batch, ImagePatches, NO_TARGET, Normaliser};
pub use config::{ModelConfig, Setting};
pub use error::{Error, Result};
pub use model::{Inputs, Losses, ModalityLoss, Model};
pub use parameters::Parameters;
pub use patcher::{Images, LinearPatcher, PatchOrder, Patcher, PatcherKind, Pictures, Skips, UnetConfig, UnetPatcher};
pub use scale::{NANO, SCALES, Scale, TINY};
pub use variant::{Architecture, Variant};

/// The README's example, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
