//! Forward pass.

use super::abi::RawForward;
use super::args::{CHANNELS, ConvInputs, GROUP, LANES, STRETCH, STRETCHES};
use super::select::{self, Assume};
use crate::ops::causal_conv1d::params::{MAX_D_CONV, OP};
use crate::runtime::{DeviceElement, DeviceMut, DeviceRowsMut, Gpu, Grid, Result, optional_mut};
use crate::shape::expect_matrix;

/// Convolves; equation in [`crate::causal_conv1d`], shapes in [`ConvInputs`].
///
/// * `out`: `(n_rows, d_inner)`.
/// * `last_state`: `(batch, d_conv - 1, d_inner)`, the inputs that the next position's window holds, oldest first (zero
///   where they lie before a document's start).
///
/// A single step of decoding is a call with seqlen 1 from one state into another.
///
/// # Errors
/// Sizes that disagree, no position, d_conv above [`super::MAX_D_CONV`], a refused launch. Nothing is written then.
pub fn forward<T: DeviceElement>(
    gpu: &Gpu,
    inputs: &ConvInputs<'_, T>,
    out: DeviceRowsMut<'_, T>,
    last_state: Option<DeviceMut<'_, f32>>,
) -> Result<()> {
    let dims = inputs.check()?;
    expect_matrix(OP, "out", dims.channels(), &out)?;
    dims.expect_state("last_state", last_state.as_ref())?;
    let aligned = dims.d_inner.is_multiple_of(CHANNELS) && inputs.x.is_aligned(CHANNELS) && out.is_aligned(CHANNELS);
    let groups = dims.seqlen.is_multiple_of(GROUP) && inputs.layout.is_aligned(GROUP);
    let stateless = inputs.initial_state.is_none() && last_state.is_none();
    let stateless = dims.d_conv == MAX_D_CONV && groups && stateless;
    let assume = match (aligned, stateless) {
        (true, true) => Assume::Stateless,
        (true, false) => Assume::Aligned,
        (false, _) => Assume::Nothing,
    };
    let kernel = select::forward(T::DTYPE, assume);
    let stretch = match assume {
        Assume::Stateless => select::stretch(gpu.card(), &kernel, &dims),
        Assume::Aligned | Assume::Nothing => STRETCH,
    };
    let params = RawForward {
        inputs: inputs.raw(gpu, dims)?,
        out: out.address(gpu)?,
        last_state: optional_mut(gpu, &last_state)?,
        out_stride: out.stride_bytes(),
        stretch: stretch as u32,
    };
    let grid = Grid { blocks: (dims.grid(stretch)?, 1, 1), threads: (LANES, STRETCHES, 1) };
    // SAFETY: the checks have bound every matrix and state to the sizes in `params`, from which the kernel takes its
    // borders; the views are alive and the outputs borrowed exclusively. A thread owns channels and a stretch of time.
    unsafe { gpu.launch(&kernel, grid, &params) }
}
