//! Causal depthwise convolution along time, then SiLU, on the GPU; equations and meaning as [`crate::causal_conv1d`].
//!
//! **Saved for backward:** nothing; the backward pass recomputes the convolution. Taps, bias and states are f32 whatever
//! the activations are.

mod backward;
mod forward;
mod params;
mod select;

pub use crate::causal_conv1d::{Activation, MAX_D_CONV};
pub use backward::{backward, backward_workspace_len, workspace_len};
pub use forward::forward;
pub use params::{ConvGrads, ConvInputs};
