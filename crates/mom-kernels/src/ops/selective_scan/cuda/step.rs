//! One step of decoding: the state is updated in place.

use super::abi::RawStep;
use super::args::ScanInputs;
use super::select::Chunks;
use crate::error::{Error, expect_presence, expect_size};
use crate::ops::selective_scan::params::OP;
use crate::runtime::{DeviceElement, DeviceMut, DeviceRowsMut, Gpu, Grid, Result, blocks};

/// Advances every sequence by one position.
///
/// * `inputs`: seqlen 1, no initial state (it is `state`).
/// * `state`: `(batch, d_inner, d_state)`, in and out. At a document start it is taken as zero.
/// * `out`: `(batch, d_inner)` rows.
///
/// # Errors
/// As [`super::forward`], and a seqlen other than 1.
pub fn step<T: DeviceElement>(
    gpu: &Gpu,
    inputs: &ScanInputs<'_, T>,
    state: DeviceMut<'_, f32>,
    out: DeviceRowsMut<'_, T>,
) -> Result<()> {
    let dims = inputs.check()?;
    if dims.seqlen != 1 {
        return Err(Error::Limit { op: OP, arg: "seqlen", min: 1, max: 1, got: dims.seqlen }.into());
    }
    expect_presence(OP, "initial_state", false, inputs.initial_state.is_some())?;
    expect_size(OP, "state", "elements", dims.batch * dims.d_inner * dims.d_state, state.len())?;
    out.expect(OP, "out", dims.batch, dims.d_inner)?;
    let params = RawStep {
        inputs: inputs.raw(gpu, dims, Chunks::forward(dims))?,
        state: state.address(gpu)?,
        out: out.address(gpu)?,
        out_stride: u64::from(out.stride_bytes()),
    };
    let grid = Grid::line(blocks(OP, "batch * d_inner", dims.batch * dims.d_inner, 128)?, 128);
    let kernel = format!("selective_scan_step_{}", T::DTYPE.name());
    // SAFETY: sizes are those that `check` and the checks above have bound to the memory; a thread owns a channel.
    unsafe { gpu.launch(&kernel, grid, &params) }
}
