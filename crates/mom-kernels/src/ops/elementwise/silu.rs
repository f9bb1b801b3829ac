//! SiLU and its gradient.

use super::abi::RawSilu;
use super::{OP, grid};
use crate::error::expect_size;
use crate::runtime::{DeviceElement, DeviceMut, DeviceRef, Gpu, Result};

/// `out = x / (1 + e^-x)`.
///
/// # Errors
/// Sizes that disagree, a refused launch.
pub fn silu<T: DeviceElement>(gpu: &Gpu, x: &DeviceRef<'_, T>, out: &mut DeviceMut<'_, T>) -> Result<()> {
    launch("silu", gpu, x, None, out)
}

/// `grad_x = grad s (1 + x (1 - s))` with s = sigmoid(x).
///
/// # Errors
/// Sizes that disagree, a refused launch.
pub fn silu_backward<T: DeviceElement>(
    gpu: &Gpu,
    x: &DeviceRef<'_, T>,
    grad: &DeviceRef<'_, T>,
    grad_x: &mut DeviceMut<'_, T>,
) -> Result<()> {
    launch("silu_backward", gpu, x, Some(grad), grad_x)
}

fn launch<T: DeviceElement>(
    kernel: &str,
    gpu: &Gpu,
    x: &DeviceRef<'_, T>,
    grad: Option<&DeviceRef<'_, T>>,
    out: &mut DeviceMut<'_, T>,
) -> Result<()> {
    let n = out.len();
    expect_size(OP, "x", "elements", n, x.len())?;
    if let Some(grad) = grad {
        expect_size(OP, "grad", "elements", n, grad.len())?;
    }
    let grad = grad.map_or(Ok(0), |grad| grad.address(gpu))?;
    let raw = RawSilu { x: x.address(gpu)?, grad, out: out.address(gpu)?, n: n as u64 };
    // SAFETY: all arrays have n elements of type T; out is borrowed exclusively.
    unsafe { gpu.launch(&format!("elementwise_{kernel}_{}", T::DTYPE.name()), grid(n)?, &raw) }
}
