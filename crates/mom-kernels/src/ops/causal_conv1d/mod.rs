//! Causal depthwise convolution along time, then SiLU.
//!
//! ```text
//! pre_t[d] = bias[d] + sum_k weight[d][k] x_{t - (d_conv - 1) + k}[d],   out_t = silu(pre_t)
//! ```
//!
//! Taps before a document's start read zero (or the initial state, where the sequence continues). Source: the conv1d of
//! the published block (`nn.Conv1d(groups = d_inner, padding = d_conv - 1)` cut to seqlen). **Saved for backward:**
//! nothing; the backward pass recomputes `pre`.
//!
//! ```
//! use mom_kernels::causal_conv1d::{self, Activation, ConvInputs};
//! use mom_kernels::{Rows, RowsMut, SequenceLayout};
//!
//! // One channel: out_t = x_t + 10 x_{t - 1}. A new document begins at the third position.
//! let layout = SequenceLayout::contiguous(1, 4, Some(&[true, false, true, false]))?;
//! let x = [1.0f32, 2.0, 3.0, 4.0];
//! let inputs = ConvInputs::new(layout, Rows::new("x", &x, 1)?, &[10.0, 1.0]).with_activation(Activation::Identity);
//! let mut out = [0.0; 4];
//! causal_conv1d::forward(&inputs, RowsMut::new("out", &mut out, 1)?, None)?;
//! assert_eq!(out, [1.0, 12.0, 3.0, 34.0]);
//! # Ok::<(), mom_kernels::Error>(())
//! ```

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod params;

pub use cpu::{ConvGrads, ConvInputs, backward, forward, step};
pub use params::{Activation, MAX_D_CONV};
