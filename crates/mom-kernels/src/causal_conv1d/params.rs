//! Arguments of the convolution, and their checks.

use crate::error::{MAX_SIZE, Result, expect_limit, expect_presence, expect_size};
use crate::plan::SequenceLayout;
use crate::rows::{Rows, RowsMut};
use crate::simd::{Block, Element, load_block, splat_block};

/// Largest width.
pub const MAX_D_CONV: usize = 4;

pub(super) const OP: &str = "causal_conv1d";

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
pub struct ConvInputs<'a, T> {
    /// How time runs through the rows.
    pub layout: SequenceLayout<'a>,
    /// `(n_rows, d_inner)`.
    pub x: Rows<'a, T>,
    /// `(d_inner, d_conv)`, the last tap on the present; d_conv 1 to [`MAX_D_CONV`].
    pub weight: &'a [T],
    /// `(d_inner)`.
    pub bias: Option<&'a [T]>,
    /// What follows.
    pub activation: Activation,
    /// `(batch, d_conv - 1, d_inner)`: the inputs before the first position, oldest first; zero if absent.
    pub initial_state: Option<&'a [T]>,
}

/// Gradients that go out, all overwritten.
#[derive(Debug)]
pub struct ConvGrads<'a, T> {
    /// `(n_rows, d_inner)`.
    pub grad_x: RowsMut<'a, T>,
    /// `(d_inner, d_conv)`.
    pub grad_weight: &'a mut [T],
    /// `(d_inner)`; exactly where there is a bias.
    pub grad_bias: Option<&'a mut [T]>,
    /// `(batch, d_conv - 1, d_inner)`, if asked for; there must be an initial state.
    pub grad_initial_state: Option<&'a mut [T]>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Dims {
    pub batch: usize,
    pub seqlen: usize,
    pub d_inner: usize,
    pub d_conv: usize,
}

impl Dims {
    pub fn expect_state<T>(&self, arg: &'static str, state: Option<&[T]>) -> Result<()> {
        let expected = self.batch.saturating_mul((self.d_conv - 1) * self.d_inner);
        state.map_or(Ok(()), |state| expect_size(OP, arg, "elements", expected, state.len()))
    }
}

impl<T: Element> ConvInputs<'_, T> {
    pub(super) fn validate(&self) -> Result<Dims> {
        let d_inner = self.x.width();
        expect_limit(OP, "d_inner", MAX_SIZE, d_inner)?;
        let d_conv = self.weight.len() / d_inner;
        expect_limit(OP, "d_conv", MAX_D_CONV, d_conv)?;
        expect_size(OP, "weight", "elements", d_inner * d_conv, self.weight.len())?;
        self.x.expect(OP, "x", self.layout.n_rows(), d_inner)?;
        if let Some(bias) = self.bias {
            expect_size(OP, "bias", "elements", d_inner, bias.len())?;
        }
        let dims = Dims { batch: self.layout.batch(), seqlen: self.layout.seqlen(), d_inner, d_conv };
        dims.expect_state("initial_state", self.initial_state)?;
        Ok(dims)
    }

    /// Taps and bias of a block of channels.
    #[inline(always)]
    pub(super) fn taps<S: pulp::Simd>(
        &self,
        s: S,
        dims: Dims,
        start: usize,
        width: usize,
    ) -> ([Block<T, S>; MAX_D_CONV], Block<T, S>) {
        let zero = splat_block::<T, S>(s, T::ZERO);
        let mut taps = [zero; MAX_D_CONV];
        let mut column = vec![T::ZERO; width];
        for k in 0..dims.d_conv {
            for (d, x) in column.iter_mut().enumerate() {
                *x = self.weight[(start + d) * dims.d_conv + k];
            }
            taps[k] = load_block(s, &column);
        }
        (taps, self.bias.map_or(zero, |bias| load_block(s, &bias[start..start + width])))
    }

    /// The inputs before the first position, oldest first; `window[d_conv - 1]` is left for the present.
    #[inline(always)]
    pub(super) fn window<S: pulp::Simd>(
        &self,
        s: S,
        dims: Dims,
        sequence: usize,
        start: usize,
        width: usize,
    ) -> [Block<T, S>; MAX_D_CONV] {
        let mut window = [splat_block::<T, S>(s, T::ZERO); MAX_D_CONV];
        if let Some(state) = self.initial_state {
            for k in 0..dims.d_conv - 1 {
                let row = (sequence * (dims.d_conv - 1) + k) * dims.d_inner + start;
                window[k] = load_block(s, &state[row..row + width]);
            }
        }
        window
    }
}

impl<T: Element> ConvGrads<'_, T> {
    pub(super) fn validate(&self, inputs: &ConvInputs<'_, T>, dims: Dims) -> Result<()> {
        expect_size(OP, "grad_x", "rows", dims.batch * dims.seqlen, self.grad_x.n_rows())?;
        expect_size(OP, "grad_x", "columns", dims.d_inner, self.grad_x.width())?;
        expect_size(OP, "grad_weight", "elements", dims.d_inner * dims.d_conv, self.grad_weight.len())?;
        expect_presence(OP, "grad_bias", inputs.bias.is_some(), self.grad_bias.is_some())?;
        if let Some(grad) = &self.grad_bias {
            expect_size(OP, "grad_bias", "elements", dims.d_inner, grad.len())?;
        }
        if self.grad_initial_state.is_some() {
            expect_presence(OP, "initial_state", true, inputs.initial_state.is_some())?;
        }
        dims.expect_state("grad_initial_state", self.grad_initial_state.as_deref())
    }
}
