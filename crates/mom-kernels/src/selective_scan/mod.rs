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

mod backward;
mod forward;
mod params;
pub mod reference;
mod step;

pub use backward::backward;
pub use forward::forward;
pub use params::{
    DeltaActivation, DtBias, MAX_D_STATE, STATE_STRIDE, ScanGrads, ScanInputs, ScanOutputGrads, ScanOutputs,
    saved_states_len,
};
pub use step::step;

#[cfg(doc)]
use crate::SequenceLayout;
