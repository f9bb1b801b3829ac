//! The one check of a scan's arguments, and the sizes that it gives: nothing is computed or launched before.

use super::params::{MAX_D_STATE, OP, STATE_STRIDE, ScanGrads, ScanInputs, ScanOutputGrads, ScanOutputs};
use crate::error::{MAX_SIZE, Result, expect_limit, expect_presence, expect_size};
use crate::shape::{Elements, Groups, Matrix, Sequences, expect_any_elements, expect_any_matrix};
use crate::shape::{expect_elements, expect_matrix};

/// Sizes of a scan, once they are known to agree.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dims {
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

    /// Elements of a state, saturating: no slice is that long.
    pub fn state_len(&self) -> usize {
        self.batch.saturating_mul(self.d_inner * self.d_state)
    }

    /// States that are saved of a sequence.
    pub fn n_segments(&self) -> usize {
        self.seqlen.div_ceil(STATE_STRIDE)
    }

    /// Shape of a matrix of channels.
    fn channels(&self) -> (usize, usize) {
        (self.n_rows(), self.d_inner)
    }

    /// Shape of B and C.
    fn states(&self) -> (usize, usize) {
        (self.n_rows(), self.d_state)
    }
}

impl<Rows, Slice, Layout, Offsets> ScanInputs<Rows, Slice, Layout, Offsets> {
    pub(crate) fn validate(&self) -> Result<Dims>
    where
        Rows: Matrix,
        Slice: Elements,
        Layout: Sequences,
        Offsets: Groups,
    {
        let (batch, seqlen) = (self.layout.batch(), self.layout.seqlen());
        let (d_inner, d_state) = (self.u.width(), self.b.width());
        expect_limit(OP, "d_inner", MAX_SIZE, d_inner)?;
        expect_limit(OP, "d_state", MAX_D_STATE, d_state)?;
        let n_biases = self.dt_bias.as_ref().map_or(0, |dt_bias| dt_bias.offsets.n_groups());
        let dims = Dims { batch, seqlen, d_inner, d_state, n_biases };
        expect_matrix(OP, "u", dims.channels(), &self.u)?;
        expect_matrix(OP, "dt", dims.channels(), &self.dt)?;
        expect_matrix(OP, "b", dims.states(), &self.b)?;
        expect_matrix(OP, "c", dims.states(), &self.c)?;
        expect_elements(OP, "a", d_inner * d_state, &self.a)?;
        expect_any_elements(OP, "d_skip", d_inner, self.d_skip.as_ref())?;
        expect_any_matrix(OP, "z", dims.channels(), self.z.as_ref())?;
        if let Some(dt_bias) = &self.dt_bias {
            expect_size(OP, "dt_bias.offsets", "rows", dims.n_rows(), dt_bias.offsets.n_rows())?;
            expect_elements(OP, "dt_bias.bias", n_biases * d_inner, &dt_bias.bias)?;
        }
        expect_any_elements(OP, "initial_state", dims.state_len(), self.initial_state.as_ref())?;
        Ok(dims)
    }
}

impl<RowsMut, SliceMut> ScanOutputs<RowsMut, SliceMut> {
    /// `saved_len`: elements of the saved states, which CPU and GPU lay out each in its way.
    pub(crate) fn validate(&self, dims: Dims, saved_len: usize) -> Result<()>
    where
        RowsMut: Matrix,
        SliceMut: Elements,
    {
        expect_matrix(OP, "out", dims.channels(), &self.out)?;
        expect_any_elements(OP, "last_state", dims.state_len(), self.last_state.as_ref())?;
        expect_any_elements(OP, "saved_states", saved_len, self.saved_states.as_ref())
    }
}

/// What the backward pass reads and writes, but for the inputs, which gave `dims`. `saved_len` as in
/// [`ScanOutputs::validate`].
pub(crate) fn validate_backward<Rows: Matrix, Slice: Elements, Layout, Offsets>(
    inputs: &ScanInputs<Rows, Slice, Layout, Offsets>,
    saved_states: &impl Elements,
    output_grads: &ScanOutputGrads<Rows, Slice>,
    grads: &ScanGrads<impl Matrix, impl Elements>,
    dims: Dims,
    saved_len: usize,
) -> Result<()> {
    expect_elements(OP, "saved_states", saved_len, saved_states)?;
    expect_matrix(OP, "grad_out", dims.channels(), &output_grads.grad_out)?;
    expect_any_elements(OP, "grad_last_state", dims.state_len(), output_grads.grad_last_state.as_ref())?;
    expect_matrix(OP, "grad_u", dims.channels(), &grads.grad_u)?;
    expect_matrix(OP, "grad_dt", dims.channels(), &grads.grad_dt)?;
    expect_matrix(OP, "grad_b", dims.states(), &grads.grad_b)?;
    expect_matrix(OP, "grad_c", dims.states(), &grads.grad_c)?;
    expect_any_matrix(OP, "grad_z", dims.channels(), grads.grad_z.as_ref())?;
    expect_any_matrix(OP, "out", dims.channels(), grads.out.as_ref())?;
    expect_elements(OP, "grad_a", dims.d_inner * dims.d_state, &grads.grad_a)?;
    expect_presence(OP, "grad_dt_bias", inputs.dt_bias.is_some(), grads.grad_dt_bias.is_some())?;
    expect_presence(OP, "grad_d_skip", inputs.d_skip.is_some(), grads.grad_d_skip.is_some())?;
    expect_presence(OP, "grad_z", inputs.z.is_some(), grads.grad_z.is_some())?;
    expect_any_elements(OP, "grad_dt_bias", dims.n_biases * dims.d_inner, grads.grad_dt_bias.as_ref())?;
    expect_any_elements(OP, "grad_d_skip", dims.d_inner, grads.grad_d_skip.as_ref())?;
    if grads.grad_initial_state.is_some() {
        expect_presence(OP, "initial_state", true, inputs.initial_state.is_some())?;
    }
    expect_any_elements(OP, "grad_initial_state", dims.state_len(), grads.grad_initial_state.as_ref())
}
