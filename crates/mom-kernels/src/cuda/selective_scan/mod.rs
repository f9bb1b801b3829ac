//! Selective scan on the GPU; equations and meaning as [`crate::selective_scan`].
//!
//! d_state 1 to 64, fast at 16. **Saved for backward:** the state before every [`STATE_STRIDE`]th step
//! ([`saved_states_len`] f32). States, `A`, `D` and the bias are f32 whatever the activations are.
//!
//! A kernel walks vectors of channels where every matrix lets it: rows and first columns on 16 bytes, d_inner a multiple
//! of 8, d_state 16. Anything else runs too, element by element.

mod backward;
mod forward;
mod params;
mod step;

pub use crate::selective_scan::{DeltaActivation, MAX_D_STATE, STATE_STRIDE};
pub use backward::{backward, backward_workspace_len, workspace_len};
pub use forward::{forward, saved_states_len};
pub use params::{DtBias, ScanGrads, ScanInputs, ScanOutputGrads, ScanOutputs};
pub use step::step;
