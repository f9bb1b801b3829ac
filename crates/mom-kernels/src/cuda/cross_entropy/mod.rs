//! Softmax cross-entropy of rows of logits on the GPU, with a z-loss, and its gradient; meaning as
//! [`crate::cross_entropy`].
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
mod loss;
mod scale;
mod sums;

use super::ids;

const OP: &str = "cross_entropy";

/// The target of a row that has none.
pub const NO_TARGET: u32 = ids::NONE;

/// Most groups that [`group_sums`] takes.
pub const MAX_GROUPS: usize = 8;

pub use loss::{Losses, Scale, Targets, check, forward, forward_backward, forward_backward_in_place};
pub use scale::{scale, scale_in_place};
pub use sums::{GroupInputs, group_sums, group_sums_workspace_len, total};
