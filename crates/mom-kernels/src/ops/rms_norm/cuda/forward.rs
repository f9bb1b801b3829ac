//! Forward pass.

use super::abi::RawForward;
use super::args::Residual;
use super::select::{Held, VECTOR, WARPS};
use crate::ops::rms_norm::params::{OP, validate_forward};
use crate::runtime::{DeviceElement, DeviceRef, DeviceRows, DeviceRowsMut, Gpu, Grid, Result, blocks};
use crate::shape::expect_matrix;

/// Normalises rows.
///
/// * `x`, `y`: `(n_rows, d_model)`; `weight`: `(d_model)`; `eps` is added to the mean square.
///
/// # Errors
/// Sizes that disagree, a refused launch.
pub fn forward<T: DeviceElement>(
    gpu: &Gpu,
    x: DeviceRows<'_, T>,
    residual: Option<Residual<'_, T>>,
    weight: DeviceRef<'_, f32>,
    eps: f32,
    y: DeviceRowsMut<'_, T>,
) -> Result<()> {
    let shape @ (n_rows, width) = validate_forward(&x, &weight, &y)?;
    if let Some(Residual { residual, sum }) = &residual {
        expect_matrix(OP, "residual", shape, residual)?;
        expect_matrix(OP, "sum", shape, sum)?;
    }
    let parts_aligned =
        residual.as_ref().is_none_or(|parts| parts.residual.is_aligned(VECTOR) && parts.sum.is_aligned(VECTOR));
    let aligned = width.is_multiple_of(VECTOR)
        && weight.is_aligned(4)
        && x.is_aligned(VECTOR)
        && y.is_aligned(VECTOR)
        && parts_aligned;
    let held = Held::of(width, aligned);
    let params = RawForward {
        x: x.address(gpu)?,
        residual: residual.as_ref().map_or(Ok(0), |parts| parts.residual.address(gpu))?,
        weight: weight.address(gpu)?,
        y: y.address(gpu)?,
        sum: residual.as_ref().map_or(Ok(0), |parts| parts.sum.address(gpu))?,
        x_stride: x.stride_bytes(),
        residual_stride: residual.as_ref().map_or(0, |parts| parts.residual.stride_bytes()),
        y_stride: y.stride_bytes(),
        sum_stride: residual.as_ref().map_or(0, |parts| parts.sum.stride_bytes()),
        n_rows: blocks(OP, "n_rows", n_rows, 1)?,
        width: width as u32,
        eps,
        team: held.map_or(1, |held| held.team),
    };
    let (kernel, n_blocks) = match held {
        Some(held) => (held.kernel::<T>("forward"), held.blocks::<T>(gpu, n_rows, [4, 3])),
        None => (format!("rms_norm_forward_{}", T::DTYPE.name()), blocks(OP, "n_rows", n_rows, WARPS as usize)?),
    };
    // SAFETY: the checks have bound every matrix to n_rows and width; a warp or a team of them owns a row, outputs are
    // borrowed exclusively. Where rows are held, every vector of a row is aligned and none goes beyond it.
    unsafe { gpu.launch(&kernel, Grid::line(n_blocks, WARPS * 32), &params) }
}
