//! The Mixture-of-Mamba block as a candle module.
//!
//! A batch is sorted by modality once ([`ModalityPlan`]); from then on activations are *rows in modality order*,
//! `(n_rows, d_model)`, so that every projection is one product over contiguous rows per modality. [`to_rows`] and
//! [`to_positions`] change between that order and `(batch, seqlen, d_model)`.
//!
//! | item | what it is |
//! | --- | --- |
//! | [`MixtureOfMamba`] | the mixer: four projections, each shared or per modality ([`Untied`]), conv, scan |
//! | [`Block`] | pre-norm, mixer, residual |
//! | [`RmsNorm`] | the norm, with a gradient (candle-nn's fused one has none) |
//! | [`Plan`] | a batch's [`ModalityPlan`], shared by the nodes of a tape and sent to a device once |
//! | [`MixerState`] | what decoding carries from one call to the next; a clone is a snapshot |
//! | [`cuda_device`], [`to_device`], [`convert`], [`accumulate`] | a GPU as these modules want it (feature `cuda`), host values there, and sums of gradients |
//! | [`ops`] | the operations alone: selective scan, causal conv, grouped linear, RMS norm, rows |
//! | [`autograd`], [`host`] | functions of any number of tensors on candle's tape or one of their own, and what to write them with |
//! | [`Arrivals`] | weights that are still on their way to a device when a forward pass begins |
//! | [`Init`] | initial values, a pure function of a seed and a parameter's name |
//!
//! Dense Mamba is the same code: `n_modalities = 1` and nothing untied. Tensors are `f32` or `f64` on the CPU, `bf16`,
//! `f16` or `f32` on a GPU; anything else is an error, never a silent conversion. candle itself is re-exported
//! ([`candle_core`], [`candle_nn`]) in the version that fits.
//!
//! ```
//! use mom_core::candle_core::{DType, Device, Tensor};
//! use mom_core::candle_nn::{VarBuilder, VarMap};
//! use mom_core::{Init, MixerConfig, MixtureOfMamba, Plan, Untied};
//!
//! // Two modalities, every projection per modality.
//! let config = MixerConfig { n_modalities: 2, untied: Untied::ALL, ..MixerConfig::new(16) };
//! let parameters = VarMap::new();
//! let vb = VarBuilder::from_varmap(&parameters, DType::F32, &Device::Cpu);
//! let mixer = MixtureOfMamba::new(&config, &Init::seeded(7), vb)?;
//!
//! // One sequence of five tokens: text, text, image, image, text.
//! let plan = Plan::new(1, 5, 2, &[0, 0, 1, 1, 0], None)?;
//! let x = Tensor::ones((1, 5, 16), DType::F32, &Device::Cpu)?;
//! let y = mixer.forward_positions(&x, &plan)?;
//! assert_eq!(y.dims(), &[1, 5, 16]);
//!
//! let grads = y.sqr()?.sum_all()?.backward()?;
//! let image_weight = parameters.data().lock().unwrap()["local_experts_in_proj.1.weight"].clone();
//! assert!(grads.get(&image_weight).is_some());
//! # Ok::<(), mom_core::Error>(())
//! ```

mod arrivals;
pub mod autograd;
mod block;
mod config;
#[cfg(feature = "cuda")]
pub mod cuda;
mod device;
mod error;
pub mod host;
mod init;
mod linear;
mod mixer;
pub mod ops;
mod plan;
mod state;
mod weights;

pub use candle_core;
pub use candle_nn;

pub use arrivals::{Arrivals, Part};
pub use block::{Block, BlockConfig, RmsNorm};
pub use config::{MixerConfig, Projection, SharedDtBias, Untied};
pub use device::{HostValue, accumulate, convert, cuda_device, to_device};
pub use error::{Error, Result};
pub use init::{Draw, Init};
pub use mixer::MixtureOfMamba;
pub use mom_kernels::mixer::Context;
pub use mom_kernels::{ModalityOffsets, ModalityPlan};
pub use ops::rows::{to_positions, to_rows};
pub use plan::Plan;
pub use state::MixerState;

/// The README's example, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
