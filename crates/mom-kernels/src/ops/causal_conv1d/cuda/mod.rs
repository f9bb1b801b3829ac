//! Causal depthwise convolution along time, then SiLU, on the GPU; equations and meaning as [`crate::causal_conv1d`].
//!
//! Needs the feature `cuda`.
//!
//! **Saved for backward:** nothing; the backward pass recomputes the convolution. Taps, bias and states are f32 whatever
//! the activations are.

mod abi;
mod args;
mod backward;
mod forward;
mod select;

pub use args::{ConvGrads, ConvInputs};
pub use backward::{backward, backward_workspace_len, workspace_len};
pub use forward::forward;

pub use crate::ops::causal_conv1d::params::{Activation, MAX_D_CONV};
