//! Sizes as the kernels have them.

use crate::ops::selective_scan::check::Dims;
use crate::ops::selective_scan::params::STATE_STRIDE;

/// States that a kernel computes for `d_state`: 16, 32 or 64. More lanes of a warp then own a channel.
pub(super) fn padded_states(d_state: usize) -> usize {
    d_state.next_power_of_two().max(16)
}

/// Elements of the saved states: `(batch, ceil(seqlen / STATE_STRIDE), d_inner, d_state padded to 16, 32 or 64)`.
pub fn saved_states_len(batch: usize, seqlen: usize, d_inner: usize, d_state: usize) -> usize {
    batch * seqlen.div_ceil(STATE_STRIDE) * d_inner * padded_states(d_state)
}

/// The same of sizes that agree.
pub(super) fn saved_len(dims: Dims) -> usize {
    saved_states_len(dims.batch, dims.seqlen, dims.d_inner, dims.d_state)
}

impl Dims {
    /// States that a kernel computes for a channel.
    pub(super) fn padded(&self) -> usize {
        padded_states(self.d_state)
    }
}
