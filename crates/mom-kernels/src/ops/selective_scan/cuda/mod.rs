//! Selective scan on the GPU; equations and meaning as [`crate::selective_scan`].
//!
//! Needs the feature `cuda`.
//!
//! d_state 1 to 64, fast at 16. **Saved for backward:** the state before every [`STATE_STRIDE`]th step
//! ([`saved_states_len`] f32). States, `A`, `D` and the bias are f32 whatever the activations are.
//!
//! Where sequences times channels are few, time is cut into chunks that run at once: what a chunk leaves to the next, a decay
//! and a state, is computed before, in the workspace. A chunk's end does not read steps whose part in it has decayed below
//! 2^-48 for all of 32 channels; so infinities and NaN of a far past need not come over a chunk's border.
//!
//! Where other ranks have the chunks before and behind ([`ends()`], [`carry`]), the same is computed of all chunks, and folded; the pass
//! that follows takes it from there ([`forward_with_ends`], [`backward_with_ends`]).
//!
//! A kernel walks vectors of channels where every matrix lets it: rows and first columns on 16 bytes, d_inner a multiple
//! of 8, d_state 16. Anything else runs too, element by element.

mod abi;
mod args;
mod backward;
mod borders;
mod dims;
mod ends;
mod forward;
mod select;
mod step;

pub use args::{DtBias, ScanGrads, ScanInputs, ScanOutputGrads, ScanOutputs};
pub(crate) use backward::{BackwardMemory, backward_in, backward_memory_len};
pub use backward::{backward, backward_with_ends, backward_workspace_len};
pub use borders::{Chunk, Order, adjoint_ends, carry, ends, ends_len, ends_workspace_len};
pub use dims::saved_states_len;
pub use forward::{forward, forward_with_ends, forward_workspace_len};
pub use step::step;

pub(crate) use crate::ops::selective_scan::check::Dims;
pub use crate::ops::selective_scan::params::{DeltaActivation, MAX_D_STATE, STATE_STRIDE};
