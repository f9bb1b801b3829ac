//! Softmax cross-entropy of rows of logits with a z-loss, and its gradient in place.
//!
//! ```text
//! lse = log sum_v exp(l_v),   nll = lse - l_target,   loss = nll + z lse^2
//! d loss / d l_v = softmax_v (1 + 2 z lse) - [v = target]
//! ```
//!
//! The z-loss keeps the normaliser near 1 (Chameleon, arXiv 2405.09818, with z = 1e-5). Loss and gradient come from one
//! pass over the logits, which are overwritten: a caller that works in chunks of rows never holds more than a chunk.
//!
//! ```
//! use mom_kernels::RowsMut;
//! use mom_kernels::cross_entropy::{Gradient, RowLoss, forward_backward};
//!
//! // Two classes of one logit: either has probability 1/2. The logits become the gradient.
//! let mut logits = [3.0f64, 3.0];
//! let mut losses = [RowLoss::default()];
//! let rows = RowsMut::new("logits", &mut logits, 2)?;
//! forward_backward(rows, &[1], Gradient::InPlace { scale: 1.0, z: 0.0 }, &mut losses)?;
//! assert!((losses[0].nll - 2.0f64.ln()).abs() < 1e-12);
//! assert!((logits[0] - 0.5).abs() < 1e-12 && (logits[1] + 0.5).abs() < 1e-12);
//! # Ok::<(), mom_kernels::Error>(())
//! ```

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod params;

pub use cpu::{Gradient, RowLoss, forward_backward};
