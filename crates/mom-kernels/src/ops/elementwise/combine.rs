//! Sums of two arrays, and conversions between element types.

use super::abi::RawCombine;
use super::{OP, grid};
use crate::error::expect_size;
use crate::runtime::{DeviceElement, DeviceMut, DeviceRef, Dtype, Gpu, Result};

/// `out = alpha a + beta b`, rounded once. All have the same number of elements.
///
/// # Errors
/// Sizes that disagree, a refused launch.
pub fn combine<T: DeviceElement>(
    gpu: &Gpu,
    alpha: f32,
    a: &DeviceRef<'_, T>,
    beta: f32,
    b: &DeviceRef<'_, T>,
    out: &mut DeviceMut<'_, T>,
) -> Result<()> {
    expect_size(OP, "a", "elements", out.len(), a.len())?;
    launch("combine", T::DTYPE, gpu, alpha, Some(a.address(gpu)?), beta, b, out)
}

/// `out = factor x`.
///
/// # Errors
/// Sizes that disagree, a refused launch.
pub fn scale<T: DeviceElement>(gpu: &Gpu, factor: f32, x: &DeviceRef<'_, T>, out: &mut DeviceMut<'_, T>) -> Result<()> {
    launch("combine", T::DTYPE, gpu, 0.0, None, factor, x, out)
}

/// `out = sum + x`, in f32.
///
/// # Errors
/// Sizes that disagree, a refused launch.
pub fn accumulate<T: DeviceElement>(
    gpu: &Gpu,
    sum: &DeviceRef<'_, f32>,
    x: &DeviceRef<'_, T>,
    out: &mut DeviceMut<'_, f32>,
) -> Result<()> {
    expect_size(OP, "sum", "elements", out.len(), sum.len())?;
    launch(widening(T::DTYPE), T::DTYPE, gpu, 1.0, Some(sum.address(gpu)?), 1.0, x, out)
}

/// The same values in f32.
///
/// # Errors
/// Sizes that disagree, a refused launch.
pub fn widen<T: DeviceElement>(gpu: &Gpu, x: &DeviceRef<'_, T>, out: &mut DeviceMut<'_, f32>) -> Result<()> {
    launch(widening(T::DTYPE), T::DTYPE, gpu, 0.0, None, 1.0, x, out)
}

/// The values, each rounded to the nearest of type T.
///
/// # Errors
/// Sizes that disagree, a refused launch.
pub fn narrow<T: DeviceElement>(gpu: &Gpu, x: &DeviceRef<'_, f32>, out: &mut DeviceMut<'_, T>) -> Result<()> {
    let kernel = if T::DTYPE == Dtype::F32 { "combine" } else { "narrow" };
    launch(kernel, T::DTYPE, gpu, 0.0, None, 1.0, x, out)
}

fn widening(from: Dtype) -> &'static str {
    if from == Dtype::F32 { "combine" } else { "widen" }
}

/// `a`: the address of as many elements as `out` has, of out's type, or none.
#[allow(clippy::too_many_arguments)]
fn launch<B, Out>(
    kernel: &str,
    dtype: Dtype,
    gpu: &Gpu,
    alpha: f32,
    a: Option<u64>,
    beta: f32,
    b: &DeviceRef<'_, B>,
    out: &mut DeviceMut<'_, Out>,
) -> Result<()> {
    let n = out.len();
    expect_size(OP, "b", "elements", n, b.len())?;
    let raw = RawCombine { a: a.unwrap_or(0), b: b.address(gpu)?, out: out.address(gpu)?, n: n as u64, alpha, beta };
    // SAFETY: all arrays have n elements of the types that the kernel's name says; a thread reads its elements before it
    // writes them.
    unsafe { gpu.launch(&format!("elementwise_{kernel}_{}", dtype.name()), grid(n)?, &raw) }
}
