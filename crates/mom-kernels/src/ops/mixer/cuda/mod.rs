//! The mixer on the GPU, and the residual block around it; equations and meaning as [`crate::mixer`].
//!
//! Needs the feature `cuda`.
//!
//! The operations of this module's siblings in a row, over one workspace that the caller owns. **Saved for backward:**
//! in_proj's and x_proj's outputs and the scan's states. Conv, dt and y are computed again, and so is the norm. The
//! backward pass consumes what was saved: gradients take the place of what they are gradients of.

mod args;
mod backward;
mod block;
mod borders;
mod check;
mod decays;
mod forward;
mod inputs;
mod sizes;
pub mod step;
mod workspace;

pub use args::{Block, BlockGrads, MixerBackward, MixerGrads, MixerOutputs, MixerSaved, MixerStates, MixerWeights};
pub use backward::{backward, backward_workspace_bytes};
pub use block::{block_backward, block_backward_workspace_bytes, block_forward, block_forward_workspace_bytes};
pub use forward::{Saves, forward, forward_workspace_bytes};
pub use sizes::MixerSizes;
