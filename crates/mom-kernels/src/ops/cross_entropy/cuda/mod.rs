//! Softmax cross-entropy of rows of logits on the GPU, with a z-loss, and its gradient; meaning as
//! [`crate::cross_entropy`].
//!
//! Needs the feature `cuda`.
//!
//! ```text
//! lse_r = log sum_v exp(l_rv),   loss_r = lse_r - l_r,target
//! gradient of sum_r scale weight_r (loss_r + z lse_r^2):
//! scale weight_r (softmax_v (1 + 2 z lse_r) - [v = target])
//! ```
//!
//! A row without a target ([`NO_TARGET`]) is not read: its loss and lse are zero, and so is its gradient. Targets
//! cannot be refused before a launch, being on the device: one that names no class counts as none and is told by
//! [`check`].

mod abi;
mod args;
mod loss;
mod scale;
mod sums;

pub use args::{GroupInputs, Losses, MAX_GROUPS, NO_TARGET, Scale, Targets};
pub use loss::{check, forward, forward_backward, forward_backward_in_place};
pub use scale::{scale, scale_in_place};
pub use sums::{group_sums, group_sums_workspace_len, total};
