//! Arguments of the scan, once for CPU and GPU, and the checks that they pass before anything is computed.
//!
//! `Rows`, `Slice`, ... are views of the memory in question: [`selective_scan`](crate::selective_scan) names them for the
//! host, `cuda::selective_scan` for the device, where states and small weights are f32 whatever the activations are.

/// Largest d_state.
pub const MAX_D_STATE: usize = 64;

/// A state is saved for the backward pass every so many steps.
pub const STATE_STRIDE: usize = 16;

pub(crate) const OP: &str = "selective_scan";

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
#[non_exhaustive]
pub struct DtBias<Slice, Offsets> {
    /// `(n_modalities, d_inner)`.
    pub bias: Slice,
    /// Rows of each modality.
    pub offsets: Offsets,
}

/// Inputs of the scan; `n_rows = batch * seqlen`.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct ScanInputs<Rows, Slice, Layout, Offsets> {
    /// How time runs through the rows.
    pub layout: Layout,
    /// `(n_rows, d_inner)`: output of the conv.
    pub u: Rows,
    /// `(n_rows, d_inner)`: step size before bias and activation.
    pub dt: Rows,
    /// Added to dt.
    pub dt_bias: Option<DtBias<Slice, Offsets>>,
    /// What makes delta of dt.
    pub delta_activation: DeltaActivation,
    /// `(d_inner, d_state)`, usually negative.
    pub a: Slice,
    /// `(n_rows, d_state)`.
    pub b: Rows,
    /// `(n_rows, d_state)`.
    pub c: Rows,
    /// `(d_inner)`: the skip D.
    pub d_skip: Option<Slice>,
    /// `(n_rows, d_inner)`: the gate before its SiLU.
    pub z: Option<Rows>,
    /// `(batch, d_inner, d_state)`: state before the first position; zero if absent. A document start there wins.
    pub initial_state: Option<Slice>,
}

/// Outputs of the forward pass.
#[derive(Debug)]
#[non_exhaustive]
pub struct ScanOutputs<RowsMut, SliceMut> {
    /// `(n_rows, d_inner)`.
    pub out: RowsMut,
    /// `(batch, d_inner, d_state)`: state after the last position.
    pub last_state: Option<SliceMut>,
    /// `saved_states_len` elements, for `backward`; on a GPU they begin on 16 bytes.
    pub saved_states: Option<SliceMut>,
}

/// Gradients that come in.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct ScanOutputGrads<Rows, Slice> {
    /// `(n_rows, d_inner)`.
    pub grad_out: Rows,
    /// `(batch, d_inner, d_state)`; zero if absent.
    pub grad_last_state: Option<Slice>,
}

/// Gradients that go out, all overwritten.
///
/// On a GPU `grad_u`, `grad_dt`, `grad_z` and `out` may each lie in the memory of any of `u`, `dt`, `z` and `grad_out`
/// (`DeviceRowsMut::in_place`): on exactly its rows, not partly. The results are the same to the bit.
#[derive(Debug)]
#[non_exhaustive]
pub struct ScanGrads<RowsMut, SliceMut> {
    /// `(n_rows, d_inner)`.
    pub grad_u: RowsMut,
    /// `(n_rows, d_inner)`: gradient of dt, before bias and activation.
    pub grad_dt: RowsMut,
    /// As the bias; exactly where there is one. On a GPU the sum of `grad_dt` as it was stored.
    pub grad_dt_bias: Option<SliceMut>,
    /// `(d_inner, d_state)`.
    pub grad_a: SliceMut,
    /// `(n_rows, d_state)`.
    pub grad_b: RowsMut,
    /// `(n_rows, d_state)`.
    pub grad_c: RowsMut,
    /// `(d_inner)`; exactly where there is a skip.
    pub grad_d_skip: Option<SliceMut>,
    /// `(n_rows, d_inner)`; exactly where there is a gate.
    pub grad_z: Option<RowsMut>,
    /// `(batch, d_inner, d_state)`, if asked for; there must be an initial state.
    pub grad_initial_state: Option<SliceMut>,
    /// `(n_rows, d_inner)`, if asked for: the forward output once more, which costs the backward pass a store. It lets
    /// the caller drop that output in between.
    pub out: Option<RowsMut>,
}

impl<Slice, Offsets> DtBias<Slice, Offsets> {
    /// A row of `bias` for each modality of `offsets`.
    pub fn new(bias: Slice, offsets: Offsets) -> Self {
        Self { bias, offsets }
    }
}

impl<Rows, Slice, Layout, Offsets> ScanInputs<Rows, Slice, Layout, Offsets> {
    /// A scan with softplus, from a zero state, without bias, skip and gate.
    pub fn new(layout: Layout, u: Rows, dt: Rows, a: Slice, b: Rows, c: Rows) -> Self {
        let delta_activation = DeltaActivation::Softplus;
        Self { layout, u, dt, dt_bias: None, delta_activation, a, b, c, d_skip: None, z: None, initial_state: None }
    }

    /// With a bias of dt.
    #[must_use]
    pub fn with_dt_bias(self, dt_bias: impl Into<Option<DtBias<Slice, Offsets>>>) -> Self {
        Self { dt_bias: dt_bias.into(), ..self }
    }

    /// With another activation of dt.
    #[must_use]
    pub fn with_delta_activation(self, delta_activation: DeltaActivation) -> Self {
        Self { delta_activation, ..self }
    }

    /// With the skip D.
    #[must_use]
    pub fn with_d_skip(self, d_skip: impl Into<Option<Slice>>) -> Self {
        Self { d_skip: d_skip.into(), ..self }
    }

    /// With a gate.
    #[must_use]
    pub fn with_z(self, z: impl Into<Option<Rows>>) -> Self {
        Self { z: z.into(), ..self }
    }

    /// From a state.
    #[must_use]
    pub fn with_initial_state(self, initial_state: impl Into<Option<Slice>>) -> Self {
        Self { initial_state: initial_state.into(), ..self }
    }
}

impl<RowsMut, SliceMut> ScanOutputs<RowsMut, SliceMut> {
    /// The output alone.
    pub fn new(out: RowsMut) -> Self {
        Self { out, last_state: None, saved_states: None }
    }

    /// And the state after the last position.
    #[must_use]
    pub fn with_last_state(self, last_state: impl Into<Option<SliceMut>>) -> Self {
        Self { last_state: last_state.into(), ..self }
    }

    /// And what the backward pass needs.
    #[must_use]
    pub fn with_saved_states(self, saved_states: impl Into<Option<SliceMut>>) -> Self {
        Self { saved_states: saved_states.into(), ..self }
    }
}

impl<Rows, Slice> ScanOutputGrads<Rows, Slice> {
    /// The gradient of the output, where nothing followed the last state.
    pub fn new(grad_out: Rows) -> Self {
        Self { grad_out, grad_last_state: None }
    }

    /// And that of the last state.
    #[must_use]
    pub fn with_grad_last_state(self, grad_last_state: impl Into<Option<Slice>>) -> Self {
        Self { grad_last_state: grad_last_state.into(), ..self }
    }
}

impl<RowsMut, SliceMut> ScanGrads<RowsMut, SliceMut> {
    /// The gradients that there always are.
    pub fn new(grad_u: RowsMut, grad_dt: RowsMut, grad_a: SliceMut, grad_b: RowsMut, grad_c: RowsMut) -> Self {
        Self {
            grad_u,
            grad_dt,
            grad_dt_bias: None,
            grad_a,
            grad_b,
            grad_c,
            grad_d_skip: None,
            grad_z: None,
            grad_initial_state: None,
            out: None,
        }
    }

    /// And that of the bias of dt.
    #[must_use]
    pub fn with_grad_dt_bias(self, grad_dt_bias: impl Into<Option<SliceMut>>) -> Self {
        Self { grad_dt_bias: grad_dt_bias.into(), ..self }
    }

    /// And that of the skip D.
    #[must_use]
    pub fn with_grad_d_skip(self, grad_d_skip: impl Into<Option<SliceMut>>) -> Self {
        Self { grad_d_skip: grad_d_skip.into(), ..self }
    }

    /// And that of the gate.
    #[must_use]
    pub fn with_grad_z(self, grad_z: impl Into<Option<RowsMut>>) -> Self {
        Self { grad_z: grad_z.into(), ..self }
    }

    /// And that of the initial state.
    #[must_use]
    pub fn with_grad_initial_state(self, grad_initial_state: impl Into<Option<SliceMut>>) -> Self {
        Self { grad_initial_state: grad_initial_state.into(), ..self }
    }

    /// And the forward pass's output once more.
    #[must_use]
    pub fn with_out(self, out: impl Into<Option<RowsMut>>) -> Self {
        Self { out: out.into(), ..self }
    }
}
