//! Sizes of a scan.

use super::STATE_STRIDE;

/// Sizes of a scan, once they are known to agree.
#[derive(Debug, Clone, Copy)]
pub(in crate::cuda) struct Dims {
    pub batch: usize,
    pub seqlen: usize,
    pub d_inner: usize,
    pub d_state: usize,
    /// Rows of biases of dt, 0 without.
    pub n_biases: usize,
}

impl Dims {
    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.batch * self.seqlen
    }

    /// States that a kernel computes for a channel.
    pub fn padded(&self) -> usize {
        padded_states(self.d_state)
    }

    /// Elements of the saved states.
    pub fn saved_len(&self) -> usize {
        saved_states_len(self.batch, self.seqlen, self.d_inner, self.d_state)
    }
}

/// States that a kernel computes for `d_state`: 16, 32 or 64. More lanes of a warp then own a channel.
pub(super) fn padded_states(d_state: usize) -> usize {
    d_state.next_power_of_two().max(16)
}

/// Elements of the saved states: `(batch, ceil(seqlen / STATE_STRIDE), d_inner, d_state padded to 16, 32 or 64)`.
pub fn saved_states_len(batch: usize, seqlen: usize, d_inner: usize, d_state: usize) -> usize {
    batch * seqlen.div_ceil(STATE_STRIDE) * d_inner * padded_states(d_state)
}
