//! RMS norm of rows on the GPU, with the residual's sum in front if asked for; meaning as [`crate::rms_norm`].
//!
//! Needs the feature `cuda`.
//!
//! `sum = x + residual`, `y = sum / rms(sum) * w`: one pass instead of two. **Saved for backward:** the sum (or x).

mod abi;
mod args;
mod backward;
mod forward;
mod select;

pub use args::{NormInputs, Residual};
pub use backward::{backward, backward_workspace_len};
pub use forward::forward;
