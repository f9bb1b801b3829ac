//! The Mixture-of-Mamba mixer: everything between the norm and the residual of a block.
//!
//! ```text
//! [x | z]     = in_proj_m(input)                 d_model -> 2 d_inner      per modality
//! u           = silu(conv1d(x))                  along time                shared
//! [dt | B | C] = x_proj_m(u)                     d_inner -> dt_rank + 2 d_state
//! delta       = softplus(dt_proj_m(dt) + bias_m) dt_rank -> d_inner
//! y           = scan(u, delta, -exp(A_log), B, C, D) silu(z)               shared
//! output      = out_proj_m(y)                    d_inner -> d_model
//! ```
//!
//! Source: class `MixtureOfMamba` of the published code (arXiv 2501.16295), with the dt bias applied also where dt_proj
//! is shared. A projection with a single weight is shared by all modalities; four of them make a dense Mamba mixer.
//!
//! **Saved for backward:** in_proj's and x_proj's outputs, the scan's states, and of a chunk the conv's window before it. Conv, dt and y are computed again.
//!
//! # The order of calls
//!
//! The comments of both sides, `cpu` and `cuda`, count these steps. Forward:
//!
//! 1. in_proj: `[x | z]`
//! 2. conv: u
//! 3. x_proj: `[dt | B | C]`
//! 4. dt_proj, without its biases
//! 5. A = -exp(A_log)
//! 6. scan, with the biases of dt and the gate: y
//! 7. out_proj; the GPU adds a residual on the way
//!
//! Backward, where the first four make what the scan needs and the forward pass did not save:
//!
//! 1. out_proj: the gradient of y
//! 2. conv once more: u
//! 3. dt_proj once more: dt
//! 4. A = -exp(A_log)
//! 5. scan: the gradients of u, dt, its biases, A, B, C, D, z; and y once more
//! 6. A_log
//! 7. out_proj: its weights
//! 8. dt_proj: its input, its weights
//! 9. x_proj: its input, onto the gradient of u
//! 10. conv: x, taps and bias
//! 11. x_proj: its weights
//! 12. in_proj: its input, its weights
//!
//! The sequence is not one generic function, though the arguments of each call are one struct: what stands between the calls
//! is another thing on each side. On the CPU every matrix is a `Vec` of its own. On the GPU one workspace is cut up ahead of
//! time, gradients take the place of what they are gradients of, one matrix is u, then y, then u again, and the input's
//! gradient lends its memory to the scan. A trait over both would have to name every one of these borrows.
//!
//! An error leaves outputs and states as they were: the GPU's side checks all arguments before the first launch, the CPU's
//! computes in memory of its own, which is the caller's at the end.
//!
//! # One sequence over several ranks
//!
//! Where a rank has a chunk of each sequence ([`Context`]), it asks the others for what crosses the borders: before the conv (2) for
//! the window of the chunk before, which is kept for the backward pass; before the scan (6) for its state, from what every chunk leaves (its decay,
//! and its last state from zero, [`selective_scan::ends`](crate::selective_scan::ends)), so that no rank waits for another one's scan.
//! Backward, before the scan (5), for the gradient of its last state in the same way; and before the conv (10) for the gradient of
//! its last inputs. All else is a chunk's own.
//!
//! ```
//! use mom_kernels::grouped_gemm::GroupedWeights;
//! use mom_kernels::mixer::{self, MixerState, MixerWeights};
//! use mom_kernels::{ModalityPlan, Rows};
//!
//! // One feature, one channel, one state; the projections are shared by two modalities.
//! let plan = ModalityPlan::new(1, 3, 2, &[0, 1, 0], None)?;
//! let shared = |n_in, n_out, w| GroupedWeights::new(n_in, n_out, vec![w], None);
//! let weights = MixerWeights::new(
//!     shared(1, 2, &[1.0f64, 1.0][..])?,
//!     &[1.0],
//!     shared(1, 3, &[1.0; 3])?,
//!     shared(1, 1, &[1.0])?,
//!     &[0.0],
//!     &[1.0],
//!     shared(1, 1, &[1.0])?,
//! );
//! let x = [1.0, 2.0, 3.0];
//! let whole = mixer::forward(&plan, Rows::new("x", &x, 1)?, &weights, None)?;
//!
//! // Rows are in modality order: row 0 is the first token, row 2 the second. Token by token gives the same.
//! let mut state = MixerState::zeros(&weights, 1);
//! for (modality, row) in [(0, 0), (1, 2), (0, 1)] {
//!     let token = ModalityPlan::new(1, 1, 2, &[modality], None)?;
//!     let y = mixer::step(&token, Rows::new("x", &x[row..row + 1], 1)?, &weights, &mut state)?;
//!     assert!((y[0] - whole[row]).abs() < 1e-12);
//! }
//! # Ok::<(), mom_kernels::Error>(())
//! ```

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod params;

pub use cpu::{
    MixerGrads, MixerSaved, MixerState, MixerWeights, ProjectionGrads, backward, backward_chunk, forward,
    forward_chunk, forward_chunk_saving, forward_saving, step,
};

pub use crate::ops::plan::Context;
