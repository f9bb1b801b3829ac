//! AdamW over many tensors in a launch, and the global norm of gradients (Loshchilov & Hutter, arXiv 1711.05101).
//!
//! ```text
//! g = grad min(1, max_norm / norm)
//! m = beta1 m + (1 - beta1) g                     v = beta2 v + (1 - beta2) g^2
//! w = w (1 - lr decay) - lr (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps)
//! ```
//!
//! Master weights and moments are f32 whatever the gradients are. Nothing comes to the host: the norm stays on the
//! device. A captured graph keeps an [`AdamWStep`] as it was and reads a [`StepRecord`] again at each launch.

mod abi;
mod norm;
mod update;

const OP: &str = "adamw";

pub use norm::{global_norm, global_norm_workspace_len, norm_of_squares, squares};
pub use update::{AdamWStep, AdamWTensor, Clip, Step, StepRecord, adamw, adamw_if_finite};
