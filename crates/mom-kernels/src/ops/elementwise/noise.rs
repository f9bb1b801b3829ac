//! The forward process of a diffusion.

use super::abi::RawAddNoise;
use super::{OP, grid};
use crate::error::expect_size;
use crate::runtime::{DeviceElement, DeviceMut, DeviceRef, Gpu, Result};

/// `out_r = factors_r0 clean_r + factors_r1 epsilon_r` of rows r, rounded to T.
///
/// * `clean`, `epsilon`, `out`: `(n_rows, width)`, row after row; `factors`: `(n_rows, 2)`.
///
/// # Errors
/// Sizes that disagree, rows of more than 2^32 - 1 elements, a refused launch.
pub fn add_noise<T: DeviceElement>(
    gpu: &Gpu,
    clean: &DeviceRef<'_, f32>,
    epsilon: &DeviceRef<'_, f32>,
    factors: &DeviceRef<'_, f32>,
    out: &mut DeviceMut<'_, T>,
) -> Result<()> {
    let n = out.len();
    expect_size(OP, "clean", "elements", n, clean.len())?;
    expect_size(OP, "epsilon", "elements", n, epsilon.len())?;
    let n_rows = factors.len() / 2;
    expect_size(OP, "factors", "elements", n_rows * 2, factors.len())?;
    let width = n.checked_div(n_rows).unwrap_or(0);
    expect_size(OP, "out", "elements", n_rows * width, n)?;
    let max = u32::MAX as usize;
    if width > max {
        return Err(crate::Error::Limit { op: OP, arg: "width", min: 0, max, got: width }.into());
    }
    let raw = RawAddNoise {
        clean: clean.address(gpu)?,
        epsilon: epsilon.address(gpu)?,
        factors: factors.address(gpu)?,
        out: out.address(gpu)?,
        n: n as u64,
        width: width as u32,
        unused: 0,
    };
    // SAFETY: clean, epsilon and out have n elements, n_rows rows of width; factors two for each row.
    unsafe { gpu.launch(&format!("elementwise_add_noise_{}", T::DTYPE.name()), grid(n)?, &raw) }
}
