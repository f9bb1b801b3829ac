//! Arguments of the scan, and the checks they pass before anything is computed.

use crate::error::{MAX_SIZE, Result, expect_limit, expect_presence, expect_size};
use crate::plan::{ModalityOffsets, SequenceLayout};
use crate::rows::{Rows, RowsMut};

/// Largest d_state.
pub const MAX_D_STATE: usize = 64;

/// A state is saved for the backward pass every so many steps.
pub const STATE_STRIDE: usize = 16;

const OP: &str = "selective_scan";

/// What makes the step size delta of `dt + dt_bias`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeltaActivation {
    /// `log(1 + e^x)`: what Mamba uses.
    Softplus,
    /// x itself.
    Identity,
}

/// Bias of dt, one row of channels for each modality (or a single one for all).
#[derive(Debug, Clone, Copy)]
pub struct DtBias<'a, T> {
    /// `(n_modalities, d_inner)`.
    pub bias: &'a [T],
    /// Rows of each modality.
    pub offsets: &'a ModalityOffsets,
}

/// Inputs of the scan; `n_rows = batch * seqlen`.
#[derive(Debug, Clone, Copy)]
pub struct ScanInputs<'a, T> {
    /// How time runs through the rows.
    pub layout: SequenceLayout<'a>,
    /// `(n_rows, d_inner)`: output of the conv.
    pub u: Rows<'a, T>,
    /// `(n_rows, d_inner)`: step size before bias and activation.
    pub dt: Rows<'a, T>,
    /// Added to dt.
    pub dt_bias: Option<DtBias<'a, T>>,
    /// What makes delta of dt.
    pub delta_activation: DeltaActivation,
    /// `(d_inner, d_state)`, usually negative.
    pub a: &'a [T],
    /// `(n_rows, d_state)`.
    pub b: Rows<'a, T>,
    /// `(n_rows, d_state)`.
    pub c: Rows<'a, T>,
    /// `(d_inner)`: the skip D.
    pub d_skip: Option<&'a [T]>,
    /// `(n_rows, d_inner)`: the gate before its SiLU.
    pub z: Option<Rows<'a, T>>,
    /// `(batch, d_inner, d_state)`: state before the first position; zero if absent. A document start there wins.
    pub initial_state: Option<&'a [T]>,
}

/// Outputs of the forward pass.
#[derive(Debug)]
pub struct ScanOutputs<'a, T> {
    /// `(n_rows, d_inner)`.
    pub out: RowsMut<'a, T>,
    /// `(batch, d_inner, d_state)`: state after the last position.
    pub last_state: Option<&'a mut [T]>,
    /// [`saved_states_len`] elements, for [`super::backward`].
    pub saved_states: Option<&'a mut [T]>,
}

/// Gradients that come in.
#[derive(Debug, Clone, Copy)]
pub struct ScanOutputGrads<'a, T> {
    /// `(n_rows, d_inner)`.
    pub grad_out: Rows<'a, T>,
    /// `(batch, d_inner, d_state)`; zero if absent.
    pub grad_last_state: Option<&'a [T]>,
}

/// Gradients that go out, all overwritten.
#[derive(Debug)]
pub struct ScanGrads<'a, T> {
    /// `(n_rows, d_inner)`.
    pub grad_u: RowsMut<'a, T>,
    /// `(n_rows, d_inner)`: gradient of dt, before bias and activation.
    pub grad_dt: RowsMut<'a, T>,
    /// As the bias; exactly where there is one.
    pub grad_dt_bias: Option<&'a mut [T]>,
    /// `(d_inner, d_state)`.
    pub grad_a: &'a mut [T],
    /// `(n_rows, d_state)`.
    pub grad_b: RowsMut<'a, T>,
    /// `(n_rows, d_state)`.
    pub grad_c: RowsMut<'a, T>,
    /// `(d_inner)`; exactly where there is a skip.
    pub grad_d_skip: Option<&'a mut [T]>,
    /// `(n_rows, d_inner)`; exactly where there is a gate.
    pub grad_z: Option<RowsMut<'a, T>>,
    /// `(batch, d_inner, d_state)`, if asked for; there must be an initial state.
    pub grad_initial_state: Option<&'a mut [T]>,
    /// `(n_rows, d_inner)`, if asked for: the forward output once more, which costs the backward pass a store. It lets
    /// the caller drop that output in between.
    pub out: Option<RowsMut<'a, T>>,
}

/// Elements of the saved states: `(batch, ceil(seqlen / STATE_STRIDE), d_state, d_inner)`.
pub fn saved_states_len(batch: usize, seqlen: usize, d_inner: usize, d_state: usize) -> usize {
    [seqlen.div_ceil(STATE_STRIDE), d_state, d_inner].into_iter().fold(batch, usize::saturating_mul)
}

/// Sizes of a scan, once they are known to agree.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dims {
    pub batch: usize,
    pub seqlen: usize,
    pub d_inner: usize,
    pub d_state: usize,
    pub n_biases: usize,
}

impl Dims {
    /// Elements of a state, saturating: no slice is that long.
    pub fn state_len(&self) -> usize {
        self.batch.saturating_mul(self.d_inner * self.d_state)
    }

    pub fn n_segments(&self) -> usize {
        self.seqlen.div_ceil(STATE_STRIDE)
    }
}

impl<T> ScanInputs<'_, T> {
    pub(super) fn validate(&self) -> Result<Dims> {
        let (n_rows, d_inner, d_state) = (self.layout.n_rows(), self.u.width(), self.b.width());
        expect_limit(OP, "d_inner", MAX_SIZE, d_inner)?;
        expect_limit(OP, "d_state", MAX_D_STATE, d_state)?;
        self.u.expect(OP, "u", n_rows, d_inner)?;
        self.dt.expect(OP, "dt", n_rows, d_inner)?;
        self.b.expect(OP, "b", n_rows, d_state)?;
        self.c.expect(OP, "c", n_rows, d_state)?;
        expect_size(OP, "a", "elements", d_inner * d_state, self.a.len())?;
        if let Some(d_skip) = self.d_skip {
            expect_size(OP, "d_skip", "elements", d_inner, d_skip.len())?;
        }
        if let Some(z) = &self.z {
            z.expect(OP, "z", n_rows, d_inner)?;
        }
        let mut n_biases = 0;
        if let Some(dt_bias) = &self.dt_bias {
            n_biases = dt_bias.offsets.n_modalities();
            expect_size(OP, "dt_bias.offsets", "rows", n_rows, dt_bias.offsets.n_rows())?;
            expect_size(OP, "dt_bias.bias", "elements", n_biases * d_inner, dt_bias.bias.len())?;
        }
        let dims = Dims { batch: self.layout.batch(), seqlen: self.layout.seqlen(), d_inner, d_state, n_biases };
        expect_state("initial_state", self.initial_state, dims)?;
        Ok(dims)
    }
}

impl<T> ScanOutputs<'_, T> {
    pub(super) fn validate(&self, dims: Dims) -> Result<()> {
        expect_rows("out", &self.out, dims, dims.d_inner)?;
        expect_state("last_state", self.last_state.as_deref(), dims)?;
        if let Some(saved) = &self.saved_states {
            expect_size(OP, "saved_states", "elements", saved_len(dims), saved.len())?;
        }
        Ok(())
    }
}

impl<T> ScanGrads<'_, T> {
    pub(super) fn validate(
        &self,
        inputs: &ScanInputs<'_, T>,
        saved_states: &[T],
        output_grads: &ScanOutputGrads<'_, T>,
        dims: Dims,
    ) -> Result<()> {
        let Dims { batch, seqlen, d_inner, d_state, n_biases } = dims;
        expect_size(OP, "saved_states", "elements", saved_len(dims), saved_states.len())?;
        output_grads.grad_out.expect(OP, "grad_out", batch * seqlen, d_inner)?;
        expect_state("grad_last_state", output_grads.grad_last_state, dims)?;
        for (arg, rows, width) in [
            ("grad_u", Some(&self.grad_u), d_inner),
            ("grad_dt", Some(&self.grad_dt), d_inner),
            ("grad_b", Some(&self.grad_b), d_state),
            ("grad_c", Some(&self.grad_c), d_state),
            ("grad_z", self.grad_z.as_ref(), d_inner),
            ("out", self.out.as_ref(), d_inner),
        ] {
            if let Some(rows) = rows {
                expect_rows(arg, rows, dims, width)?;
            }
        }
        expect_size(OP, "grad_a", "elements", d_inner * d_state, self.grad_a.len())?;
        expect_presence(OP, "grad_dt_bias", inputs.dt_bias.is_some(), self.grad_dt_bias.is_some())?;
        expect_presence(OP, "grad_d_skip", inputs.d_skip.is_some(), self.grad_d_skip.is_some())?;
        expect_presence(OP, "grad_z", inputs.z.is_some(), self.grad_z.is_some())?;
        if let Some(grad) = &self.grad_dt_bias {
            expect_size(OP, "grad_dt_bias", "elements", n_biases * d_inner, grad.len())?;
        }
        if let Some(grad) = &self.grad_d_skip {
            expect_size(OP, "grad_d_skip", "elements", d_inner, grad.len())?;
        }
        if self.grad_initial_state.is_some() {
            expect_presence(OP, "initial_state", true, inputs.initial_state.is_some())?;
        }
        expect_state("grad_initial_state", self.grad_initial_state.as_deref(), dims)
    }
}

fn saved_len(dims: Dims) -> usize {
    saved_states_len(dims.batch, dims.seqlen, dims.d_inner, dims.d_state)
}

fn expect_rows<T>(arg: &'static str, rows: &RowsMut<'_, T>, dims: Dims, width: usize) -> Result<()> {
    expect_size(OP, arg, "rows", dims.batch * dims.seqlen, rows.n_rows())?;
    expect_size(OP, arg, "columns", width, rows.width())
}

fn expect_state<T>(arg: &'static str, state: Option<&[T]>, dims: Dims) -> Result<()> {
    state.map_or(Ok(()), |state| expect_size(OP, arg, "elements", dims.state_len(), state.len()))
}
