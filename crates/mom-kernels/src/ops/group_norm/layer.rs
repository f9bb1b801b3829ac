//! Layer norm.

use std::mem::offset_of;

use cudarc::driver::DeviceRepr;

use super::{THREADS, VECTOR_BYTES};
use crate::error::{Error, expect_size};
use crate::runtime::{DeviceElement, DeviceRef, DeviceRows, DeviceRowsMut, Gpu, Grid, Result, blocks};

const OP: &str = "layer_norm";

/// Whether the kernels take rows of so many elements: vectors of 16 bytes, at most 256 of them.
pub fn takes_rows<T: DeviceElement>(width: usize) -> bool {
    super::takes::<T>(width)
}

/// `y = (x - mean) / sqrt(variance + eps) * weight + bias`, mean and variance of each row (Ba, Kiros and Hinton 2016,
/// arXiv 1607.06450).
///
/// * `x`, `y`: `(n_rows, width)`, dense, rows of 16 bytes.
/// * `weight`, `bias`: `(width)`.
///
/// # Errors
/// Sizes that disagree, rows that the kernels do not [take](takes_rows), rows off 16 bytes, a refused launch.
pub fn layer_norm<T: DeviceElement>(
    gpu: &Gpu,
    x: &DeviceRows<'_, T>,
    weight: &DeviceRef<'_, f32>,
    bias: &DeviceRef<'_, f32>,
    eps: f32,
    y: DeviceRowsMut<'_, T>,
) -> Result<()> {
    let (n_rows, width, vector) = (x.n_rows(), x.width(), VECTOR_BYTES / size_of::<T>());
    y.expect(OP, "y", n_rows, width)?;
    if !takes_rows::<T>(width) {
        return Err(Error::Limit { op: OP, arg: "width", min: vector, max: vector * THREADS, got: width }.into());
    }
    for (arg, stride, aligned) in [("x", x.stride(), x.is_aligned(vector)), ("y", y.stride(), y.is_aligned(vector))] {
        expect_size(OP, arg, "elements from a row to the next", width, stride)?;
        expect_size(OP, arg, "rows off 16 bytes", 0, usize::from(!aligned))?;
    }
    expect_size(OP, "weight", "elements", width, weight.len())?;
    expect_size(OP, "bias", "elements", width, bias.len())?;
    let params = RawLayer {
        x: x.address(gpu)?,
        y: y.address(gpu)?,
        weight: weight.address(gpu)?,
        bias: bias.address(gpu)?,
        n_rows: n_rows as u64,
        width: width as u32,
        eps,
    };
    let grid = Grid::line(blocks(OP, "rows", n_rows, THREADS / 32)?, THREADS as u32);
    // SAFETY: a warp reads a row of x below n_rows and writes that of y, which is borrowed exclusively; the parameters are as wide.
    unsafe { gpu.launch(&format!("layer_norm_{}", T::DTYPE.name()), grid, &params) }
}

// What the kernels take: kernels/group_norm/params.h, field by field.

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RawLayer {
    x: u64,
    y: u64,
    weight: u64,
    bias: u64,
    n_rows: u64,
    width: u32,
    eps: f32,
}
const _: () = assert!(size_of::<RawLayer>() == 48 && offset_of!(RawLayer, n_rows) == 32);
// SAFETY: a plain struct of numbers in C layout; the addresses in it are device addresses.
unsafe impl DeviceRepr for RawLayer {}
