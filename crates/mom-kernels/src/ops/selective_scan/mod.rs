//! Selective scan: the recurrence of a Mamba block, with everything around it that is per element.
//!
//! For each channel d and state n, along time within a document (Mamba, arXiv 2312.00752, algorithm 2; reference
//! function `selective_scan_ref` of the published code):
//!
//! ```text
//! delta_t = softplus(dt_t + dt_bias)                         (or dt_t itself)
//! h_t[n]  = exp(delta_t A[n]) h_{t-1}[n] + delta_t B_t[n] u_t
//! y_t     = sum_n C_t[n] h_t[n] + D u_t
//! out_t   = y_t silu(z_t)                                    (or y_t)
//! ```
//!
//! `B` and `C` are shared by all channels. Rows are found by [`SequenceLayout::row`], so u, dt, z, B, C and out stay in
//! modality order; at a document start the state is zero.
//!
//! **Saved for backward:** the state at every [`STATE_STRIDE`]th step. The backward pass recomputes the steps between.
//!
//! ```
//! use mom_kernels::selective_scan::{self, DeltaActivation, ScanInputs, ScanOutputs};
//! use mom_kernels::{Rows, RowsMut, SequenceLayout};
//!
//! // One channel with one state over three positions; delta = 1 and A = ln(1/2), so that the state halves at each.
//! let (u, ones, a) = ([1.0f64, 0.0, 0.0], [1.0; 3], [0.5f64.ln()]);
//! let rows = |name, x| Rows::new(name, x, 1);
//! let (dt, b, c) = (rows("dt", &ones)?, rows("b", &ones)?, rows("c", &ones)?);
//! let inputs = ScanInputs::new(SequenceLayout::contiguous(1, 3, None)?, rows("u", &u)?, dt, &a, b, c)
//!     .with_delta_activation(DeltaActivation::Identity);
//! let (mut out, mut last) = ([0.0; 3], [0.0; 1]);
//! let outputs = ScanOutputs::new(RowsMut::new("out", &mut out, 1)?).with_last_state(&mut last[..]);
//! selective_scan::forward(&inputs, outputs)?;
//! for (got, want) in out.iter().zip([1.0, 0.5, 0.25]) {
//!     assert!((got - want).abs() < 1e-12);
//! }
//! assert_eq!(last[0], out[2]);
//! # Ok::<(), mom_kernels::Error>(())
//! ```

mod check;
mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod params;

pub use cpu::{
    DtBias, ScanGrads, ScanInputs, ScanOutputGrads, ScanOutputs, adjoint_ends, backward, carry, ends, forward,
    reference, saved_states_len, step,
};
pub use params::{DeltaActivation, MAX_D_STATE, STATE_STRIDE};

#[cfg(doc)]
use crate::SequenceLayout;
