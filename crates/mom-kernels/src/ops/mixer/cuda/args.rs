//! The arguments as views of device memory. The weights' shapes stand in [`params`].

use crate::ops::grouped_gemm::cuda::GroupedGrads;
use crate::ops::mixer::params::{self, OP};
use crate::runtime::{DeviceMut, DeviceRef, DeviceRows, DeviceRowsMut, Result};

/// Weights of a mixer: projections of the activations' type, the rest f32.
pub type MixerWeights<'a, T> = params::MixerWeights<DeviceRef<'a, T>, DeviceRef<'a, f32>, DeviceRef<'a, f32>>;

/// Where the forward pass leaves what [`backward`](super::backward) needs, which consumes it: lengths are those of
/// [`MixerSizes`](super::MixerSizes), and each begins on 16 bytes.
#[derive(Debug)]
#[non_exhaustive]
pub struct MixerSaved<'a, T> {
    /// `(n_rows, 2 d_inner)`: in_proj's output.
    pub xz: DeviceMut<'a, T>,
    /// `(n_rows, dt_rank + 2 d_state)`: x_proj's output.
    pub x_dbl: DeviceMut<'a, T>,
    /// States of the scan.
    pub states: DeviceMut<'a, f32>,
    /// `(batch, d_conv - 1, d_inner)`: the inputs of conv before the chunk, where ranks have chunks of sequences and d_conv is above 1;
    /// else absent.
    pub window: Option<DeviceMut<'a, f32>>,
}

/// What the forward pass writes.
#[derive(Debug)]
#[non_exhaustive]
pub struct MixerOutputs<'a, T> {
    /// `(n_rows, d_model)`: the mixer's output.
    pub out: DeviceRowsMut<'a, T>,
    /// `(n_rows, d_model)`: added to the output, where there is one.
    pub residual: Option<DeviceRows<'a, T>>,
    /// What [`backward`](super::backward) needs, if asked for.
    pub saved: Option<MixerSaved<'a, T>>,
    /// Where sequences go on from and are left, while decoding; zero before the first position without it.
    pub states: Option<MixerStates<'a>>,
}

/// Conv's window and the scan's state, f32: read before the first position of every sequence and written behind the last,
/// beside what was there, so that a caller who branches has both.
#[derive(Debug)]
#[non_exhaustive]
pub struct MixerStates<'a> {
    /// `(batch, d_conv - 1, d_inner)`: inputs of conv, oldest first.
    pub conv: DeviceRef<'a, f32>,
    /// `(batch, d_inner, d_state)`.
    pub scan: DeviceRef<'a, f32>,
    /// As `conv`, overwritten.
    pub next_conv: DeviceMut<'a, f32>,
    /// As `scan`, overwritten.
    pub next_scan: DeviceMut<'a, f32>,
}

/// Gradients of everything that a mixer reads, all overwritten.
#[derive(Debug)]
#[non_exhaustive]
pub struct MixerGrads<'a, T> {
    /// `(n_rows, d_model)`: of the input. Dense rows on 16 bytes: until it is written, at the end, it is workspace too.
    pub x: DeviceRowsMut<'a, T>,
    /// Of in_proj.
    pub in_proj: GroupedGrads<'a, T>,
    /// `(d_inner, d_conv)`.
    pub conv_weight: DeviceMut<'a, f32>,
    /// `(d_inner)`; exactly where there is a bias.
    pub conv_bias: Option<DeviceMut<'a, f32>>,
    /// Of x_proj.
    pub x_proj: GroupedGrads<'a, T>,
    /// Of dt_proj, biases too.
    pub dt_proj: GroupedGrads<'a, T>,
    /// `(d_inner, d_state)`.
    pub a_log: DeviceMut<'a, f32>,
    /// `(d_inner)`.
    pub d_skip: DeviceMut<'a, f32>,
    /// Of out_proj.
    pub out_proj: GroupedGrads<'a, T>,
}

/// What the backward pass reads of the forward pass and of what followed.
#[derive(Debug)]
#[non_exhaustive]
pub struct MixerBackward<'a, T> {
    /// `(n_rows, d_model)`: as it was in the forward pass.
    pub x: DeviceRows<'a, T>,
    /// What the forward pass wrote. It is overwritten: in_proj's output by its gradient.
    pub saved: MixerSaved<'a, T>,
    /// `(n_rows, d_model)`: gradient of the output.
    pub grad_out: DeviceRows<'a, T>,
}

/// Weights of a block.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Block<'a, T> {
    /// `(d_model)`: the norm's.
    pub norm: DeviceRef<'a, f32>,
    /// Added to the mean square in the norm.
    pub norm_eps: f32,
    /// The mixer.
    pub mixer: MixerWeights<'a, T>,
}

/// Gradients of a block; [`MixerGrads::x`] is that of the block's input.
#[derive(Debug)]
#[non_exhaustive]
pub struct BlockGrads<'a, T> {
    /// `(d_model)`.
    pub norm: DeviceMut<'a, f32>,
    /// Of the mixer's weights, and of the input.
    pub mixer: MixerGrads<'a, T>,
}

impl<'a, T> MixerSaved<'a, T> {
    /// Memory for each.
    pub fn new(xz: DeviceMut<'a, T>, x_dbl: DeviceMut<'a, T>, states: DeviceMut<'a, f32>) -> Self {
        Self { xz, x_dbl, states, window: None }
    }

    /// And for the inputs of conv before a chunk.
    #[must_use]
    pub fn with_window(self, window: impl Into<Option<DeviceMut<'a, f32>>>) -> Self {
        Self { window: window.into(), ..self }
    }

    /// Fails unless each begins where kernels for vectors ask it to.
    pub(super) fn expect_vectors(&self) -> Result<()> {
        self.xz.expect_vectors(OP, "saved.xz")?;
        self.x_dbl.expect_vectors(OP, "saved.x_dbl")?;
        self.states.expect_vectors(OP, "saved.states")
    }
}

impl<'a, T> MixerOutputs<'a, T> {
    /// The output alone.
    pub fn new(out: DeviceRowsMut<'a, T>) -> Self {
        Self { out, residual: None, saved: None, states: None }
    }

    /// With something that is added to the output.
    #[must_use]
    pub fn with_residual(self, residual: impl Into<Option<DeviceRows<'a, T>>>) -> Self {
        Self { residual: residual.into(), ..self }
    }

    /// And what the backward pass needs.
    #[must_use]
    pub fn with_saved(self, saved: impl Into<Option<MixerSaved<'a, T>>>) -> Self {
        Self { saved: saved.into(), ..self }
    }

    /// From states to the next ones.
    #[must_use]
    pub fn with_states(self, states: impl Into<Option<MixerStates<'a>>>) -> Self {
        Self { states: states.into(), ..self }
    }
}

impl<'a> MixerStates<'a> {
    /// Conv's window and the scan's state, each before and behind.
    pub fn new(
        (conv, next_conv): (DeviceRef<'a, f32>, DeviceMut<'a, f32>),
        (scan, next_scan): (DeviceRef<'a, f32>, DeviceMut<'a, f32>),
    ) -> Self {
        Self { conv, scan, next_conv, next_scan }
    }
}

impl<'a, T> MixerBackward<'a, T> {
    /// The forward pass's input, what it saved, and the gradient of its output.
    pub fn new(x: DeviceRows<'a, T>, saved: MixerSaved<'a, T>, grad_out: DeviceRows<'a, T>) -> Self {
        Self { x, saved, grad_out }
    }
}

impl<'a, T> MixerGrads<'a, T> {
    /// In the order of [`MixerWeights::new`](params::MixerWeights::new), behind that of the input; conv has no bias.
    #[expect(clippy::too_many_arguments, reason = "one for each weight, in the order of the weights' own constructor")]
    pub fn new(
        x: DeviceRowsMut<'a, T>,
        in_proj: GroupedGrads<'a, T>,
        conv_weight: DeviceMut<'a, f32>,
        x_proj: GroupedGrads<'a, T>,
        dt_proj: GroupedGrads<'a, T>,
        a_log: DeviceMut<'a, f32>,
        d_skip: DeviceMut<'a, f32>,
        out_proj: GroupedGrads<'a, T>,
    ) -> Self {
        Self { x, in_proj, conv_weight, conv_bias: None, x_proj, dt_proj, a_log, d_skip, out_proj }
    }

    /// And that of conv's bias.
    #[must_use]
    pub fn with_conv_bias(self, conv_bias: impl Into<Option<DeviceMut<'a, f32>>>) -> Self {
        Self { conv_bias: conv_bias.into(), ..self }
    }
}

impl<'a, T> Block<'a, T> {
    /// A mixer behind a norm.
    pub fn new(norm: DeviceRef<'a, f32>, norm_eps: f32, mixer: MixerWeights<'a, T>) -> Self {
        Self { norm, norm_eps, mixer }
    }
}

impl<'a, T> BlockGrads<'a, T> {
    /// Of the norm's weight and of the mixer.
    pub fn new(norm: DeviceMut<'a, f32>, mixer: MixerGrads<'a, T>) -> Self {
        Self { norm, mixer }
    }
}
