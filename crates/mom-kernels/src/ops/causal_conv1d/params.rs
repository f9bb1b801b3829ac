//! Arguments of the convolution, once for CPU and GPU, and the checks that they pass before anything is computed.
//!
//! `Rows`, `Slice`, ... are views of the memory in question: [`causal_conv1d`](crate::causal_conv1d) names them for the host,
//! `cuda::causal_conv1d` for the device, where taps, bias and states are f32 whatever the activations are.

use crate::error::{MAX_SIZE, Result, expect_limit, expect_presence};
use crate::shape::{
    Elements, Matrix, Sequences, expect_any_elements, expect_any_matrix, expect_elements, expect_matrix,
};

/// Largest width.
pub const MAX_D_CONV: usize = 4;

pub(crate) const OP: &str = "causal_conv1d";

/// What follows the convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x sigmoid(x).
    Silu,
    /// Nothing.
    Identity,
}

/// Inputs of the convolution; `n_rows = batch * seqlen`.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct ConvInputs<Rows, Slice, Layout> {
    /// How time runs through the rows.
    pub layout: Layout,
    /// `(n_rows, d_inner)`.
    pub x: Rows,
    /// `(d_inner, d_conv)`, the last tap on the present; d_conv 1 to [`MAX_D_CONV`].
    pub weight: Slice,
    /// `(d_inner)`.
    pub bias: Option<Slice>,
    /// What follows.
    pub activation: Activation,
    /// `(batch, d_conv - 1, d_inner)`: the inputs before the first position, oldest first; zero if absent.
    pub initial_state: Option<Slice>,
}

/// What the backward pass writes, all overwritten.
#[derive(Debug)]
#[non_exhaustive]
pub struct ConvGrads<RowsMut, SliceMut> {
    /// `(n_rows, d_inner)`. On a GPU it may lie on exactly the rows of x (`DeviceRowsMut::in_place`), with the same results to
    /// the bit.
    pub grad_x: RowsMut,
    /// `(n_rows, d_inner)`, if asked for: the forward pass's output once more, which is computed on the way; for who did not
    /// keep it.
    pub out: Option<RowsMut>,
    /// `(d_inner, d_conv)`.
    pub grad_weight: SliceMut,
    /// `(d_inner)`; exactly where there is a bias.
    pub grad_bias: Option<SliceMut>,
    /// `(batch, d_conv - 1, d_inner)`, if asked for; there must be an initial state.
    pub grad_initial_state: Option<SliceMut>,
}

impl<Rows, Slice, Layout> ConvInputs<Rows, Slice, Layout> {
    /// A convolution with SiLU, from zero, without bias.
    pub fn new(layout: Layout, x: Rows, weight: Slice) -> Self {
        Self { layout, x, weight, bias: None, activation: Activation::Silu, initial_state: None }
    }

    /// With a bias.
    #[must_use]
    pub fn with_bias(self, bias: impl Into<Option<Slice>>) -> Self {
        Self { bias: bias.into(), ..self }
    }

    /// With something else behind it.
    #[must_use]
    pub fn with_activation(self, activation: Activation) -> Self {
        Self { activation, ..self }
    }

    /// From the inputs before the first position.
    #[must_use]
    pub fn with_initial_state(self, initial_state: impl Into<Option<Slice>>) -> Self {
        Self { initial_state: initial_state.into(), ..self }
    }
}

impl<RowsMut, SliceMut> ConvGrads<RowsMut, SliceMut> {
    /// The gradients that there always are.
    pub fn new(grad_x: RowsMut, grad_weight: SliceMut) -> Self {
        Self { grad_x, out: None, grad_weight, grad_bias: None, grad_initial_state: None }
    }

    /// And the forward pass's output once more.
    #[must_use]
    pub fn with_out(self, out: impl Into<Option<RowsMut>>) -> Self {
        Self { out: out.into(), ..self }
    }

    /// And that of the bias.
    #[must_use]
    pub fn with_grad_bias(self, grad_bias: impl Into<Option<SliceMut>>) -> Self {
        Self { grad_bias: grad_bias.into(), ..self }
    }

    /// And that of the initial state.
    #[must_use]
    pub fn with_grad_initial_state(self, grad_initial_state: impl Into<Option<SliceMut>>) -> Self {
        Self { grad_initial_state: grad_initial_state.into(), ..self }
    }
}

/// Sizes of a convolution, once they are known to agree.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dims {
    pub batch: usize,
    pub seqlen: usize,
    pub d_inner: usize,
    pub d_conv: usize,
}

impl Dims {
    /// Checks a state, where there is one.
    pub fn expect_state(&self, arg: &'static str, state: Option<&impl Elements>) -> Result<()> {
        expect_any_elements(OP, arg, self.batch.saturating_mul((self.d_conv - 1) * self.d_inner), state)
    }

    /// Shape of a matrix of channels.
    pub fn channels(&self) -> (usize, usize) {
        (self.batch * self.seqlen, self.d_inner)
    }
}

/// The number of taps, where those of all channels and the bias fit together.
pub(crate) fn validate_taps(d_inner: usize, weight: &impl Elements, bias: Option<&impl Elements>) -> Result<usize> {
    expect_limit(OP, "d_inner", MAX_SIZE, d_inner)?;
    let d_conv = weight.n_elements() / d_inner;
    expect_limit(OP, "d_conv", MAX_D_CONV, d_conv)?;
    expect_elements(OP, "weight", d_inner * d_conv, weight)?;
    expect_any_elements(OP, "bias", d_inner, bias)?;
    Ok(d_conv)
}

impl<Rows, Slice, Layout> ConvInputs<Rows, Slice, Layout> {
    pub(crate) fn validate(&self) -> Result<Dims>
    where
        Rows: Matrix,
        Slice: Elements,
        Layout: Sequences,
    {
        let d_inner = self.x.width();
        let d_conv = validate_taps(d_inner, &self.weight, self.bias.as_ref())?;
        let dims = Dims { batch: self.layout.batch(), seqlen: self.layout.seqlen(), d_inner, d_conv };
        expect_matrix(OP, "x", dims.channels(), &self.x)?;
        dims.expect_state("initial_state", self.initial_state.as_ref())?;
        Ok(dims)
    }
}

impl<RowsMut, SliceMut> ConvGrads<RowsMut, SliceMut> {
    pub(crate) fn validate<Rows, Slice, Layout>(
        &self,
        inputs: &ConvInputs<Rows, Slice, Layout>,
        dims: Dims,
    ) -> Result<()>
    where
        RowsMut: Matrix,
        SliceMut: Elements,
    {
        expect_matrix(OP, "grad_x", dims.channels(), &self.grad_x)?;
        expect_any_matrix(OP, "out", dims.channels(), self.out.as_ref())?;
        expect_elements(OP, "grad_weight", dims.d_inner * dims.d_conv, &self.grad_weight)?;
        expect_presence(OP, "grad_bias", inputs.bias.is_some(), self.grad_bias.is_some())?;
        expect_any_elements(OP, "grad_bias", dims.d_inner, self.grad_bias.as_ref())?;
        if self.grad_initial_state.is_some() {
            expect_presence(OP, "initial_state", true, inputs.initial_state.is_some())?;
        }
        dims.expect_state("grad_initial_state", self.grad_initial_state.as_ref())
    }
}
