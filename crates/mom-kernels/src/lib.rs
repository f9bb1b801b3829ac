//! The kernels of Mixture-of-Mamba, as plain functions over slices.
//!
//! Every operation is a forward / backward pair over named structs; nothing here knows a tensor library or a tape.
//! The layout is token-major: an activation is a matrix of rows (tokens) whose channels are contiguous, see [`Rows`].
//! Rows are in *modality order* ([`ModalityPlan`]), so that the weights of one modality meet one contiguous range of
//! rows; the two operations that follow time (conv and scan) find the row of a position through [`SequenceLayout`].
//!
//! | operation | module | computes |
//! | --- | --- | --- |
//! | modality plan | [`plan`] | counting sort of positions by modality |
//! | selective scan | [`selective_scan`] | `h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t`, `y_t = C_t . h_t + D u_t`, gate |
//! | causal conv | [`causal_conv1d`] | depthwise convolution along time, then SiLU |
//! | grouped products | [`grouped_gemm`] | `y = x W_m^T + b_m` for the rows of each modality m, and both gradients |
//! | RMS norm | [`rms_norm`] | `y = x / rms(x) * w` |
//! | attention | [`attention`] | `softmax(q k') v` of each head, with a mask of intervals; for what is compared with the mixer |
//! | rotary embedding | [`rotary_embedding`] | pairs of features turned by an angle of their position |
//! | cross-entropy | [`cross_entropy`] | loss and gradient of rows of logits, with z-loss |
//! | mixer | [`mixer`] | the whole Mixture-of-Mamba mixer, forward and backward, from the operations above |
//!
//! With the feature `cuda` the same operations, and those that only training on a GPU needs, are in `cuda`; each operation's
//! own `cuda` module is the same one. The feature `f16` adds the kernels for half precision there.
//!
//! Element types are `f32` and `f64`. Vector instructions (AVX2, AVX-512, NEON) are chosen at run time; threads are rayon's.
//! All reductions run in a fixed order: on one machine two calls give the same bits, whatever the number of threads.
//!
//! ```
//! use mom_kernels::{ModalityPlan, Rows, RowsMut, grouped_gemm};
//!
//! // Two tokens of modality 1 around one of modality 0; a 2 -> 1 projection with its own weights for each.
//! let plan = ModalityPlan::new(1, 3, 2, &[1, 0, 1], None)?;
//! assert_eq!(plan.row_of_position(), &[1, 0, 2]);
//! let x = [1.0f32, 1.0, 2.0, 0.0, 0.0, 3.0]; // rows in modality order
//! let (w0, w1) = ([1.0f32, 10.0], [2.0f32, 20.0]);
//! let mut y = [0.0f32; 3];
//! grouped_gemm::forward(
//!     plan.modality_offsets(),
//!     Rows::new("x", &x, 2)?,
//!     &grouped_gemm::GroupedWeights::new(2, 1, vec![&w0, &w1], None)?,
//!     RowsMut::new("y", &mut y, 1)?,
//! )?;
//! assert_eq!(y, [11.0, 4.0, 60.0]);
//! # Ok::<(), mom_kernels::Error>(())
//! ```

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "cuda")]
pub mod cuda;
mod error;
mod ops;
mod rows;
#[cfg(feature = "cuda")]
mod runtime;
mod shape;
pub mod simd;

pub use error::{Error, Result};
pub use ops::plan::{ModalityOffsets, ModalityPlan, SequenceLayout};
pub use ops::{
    attention, causal_conv1d, cross_entropy, grouped_gemm, mixer, plan, rms_norm, rotary_embedding, selective_scan,
};
pub use rows::{Rows, RowsMut};
pub use simd::Element;

/// The README's example, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
