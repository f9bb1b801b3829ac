//! The arguments as views of host memory; the shapes stand in [`params`].

use crate::ops::plan::{ModalityOffsets, SequenceLayout};
use crate::ops::selective_scan::check::Dims;
use crate::ops::selective_scan::params::{self, STATE_STRIDE};
use crate::rows::{Rows, RowsMut};

/// Bias of dt.
pub type DtBias<'a, T> = params::DtBias<&'a [T], &'a ModalityOffsets>;

/// Inputs of the scan.
pub type ScanInputs<'a, T> = params::ScanInputs<Rows<'a, T>, &'a [T], SequenceLayout<'a>, &'a ModalityOffsets>;

/// Outputs of the forward pass.
pub type ScanOutputs<'a, T> = params::ScanOutputs<RowsMut<'a, T>, &'a mut [T]>;

/// Gradients that come in.
pub type ScanOutputGrads<'a, T> = params::ScanOutputGrads<Rows<'a, T>, &'a [T]>;

/// Gradients that go out, all overwritten.
pub type ScanGrads<'a, T> = params::ScanGrads<RowsMut<'a, T>, &'a mut [T]>;

/// Elements of the saved states: `(batch, ceil(seqlen / STATE_STRIDE), d_state, d_inner)`.
pub fn saved_states_len(batch: usize, seqlen: usize, d_inner: usize, d_state: usize) -> usize {
    [seqlen.div_ceil(STATE_STRIDE), d_state, d_inner].into_iter().fold(batch, usize::saturating_mul)
}

/// The same of sizes that agree.
pub(super) fn saved_len(dims: Dims) -> usize {
    saved_states_len(dims.batch, dims.seqlen, dims.d_inner, dims.d_state)
}
