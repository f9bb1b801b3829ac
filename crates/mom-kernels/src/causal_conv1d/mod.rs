//! Causal depthwise convolution along time, then SiLU.
//!
//! ```text
//! pre_t[d] = bias[d] + sum_k weight[d][k] x_{t - (d_conv - 1) + k}[d],   out_t = silu(pre_t)
//! ```
//!
//! Taps before a document's start read zero (or the initial state, where the sequence continues). Source: the conv1d of
//! the published block (`nn.Conv1d(groups = d_inner, padding = d_conv - 1)` cut to seqlen). **Saved for backward:**
//! nothing; the backward pass recomputes `pre`.

mod backward;
mod forward;
mod params;
mod step;

pub use backward::backward;
pub use forward::forward;
pub use params::{Activation, ConvGrads, ConvInputs, MAX_D_CONV};
pub use step::step;
