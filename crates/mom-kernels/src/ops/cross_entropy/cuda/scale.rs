//! A gradient times that of what it belongs to.

use super::abi::RawScaling;
use crate::error::expect_size;
use crate::ops::cross_entropy::params::OP;
use crate::runtime::{DeviceElement, DeviceMut, DeviceRef, Dtype, Gpu, Grid, Result, blocks};

/// As in kernels/cross_entropy: threads of a block, and elements of a thread.
const SCALE_THREADS: u32 = 256;
const SCALE_ELEMENTS: usize = 8;

/// The kernel from one type to another.
fn kernel(from: Dtype, to: Dtype) -> String {
    format!("cross_entropy_scale_{}_{}", from.name(), to.name())
}

/// `to = from factor`, rounded to `to`'s type: a gradient that was computed along with a loss times that of the loss, which
/// is on the device.
///
/// * `factor`: `(1)`.
///
/// # Errors
/// Sizes that disagree, a refused launch.
pub fn scale<T: DeviceElement>(
    gpu: &Gpu,
    from: &DeviceRef<'_, f32>,
    factor: &DeviceRef<'_, f32>,
    to: &mut DeviceMut<'_, T>,
) -> Result<()> {
    expect_size(OP, "to", "elements", from.len(), to.len())?;
    scale_at::<T>(gpu, from.address(gpu)?, Dtype::F32, factor, to)
}

/// [`scale`] in place.
///
/// # Errors
/// As [`scale`].
pub fn scale_in_place<T: DeviceElement>(
    gpu: &Gpu,
    gradient: &mut DeviceMut<'_, T>,
    factor: &DeviceRef<'_, f32>,
) -> Result<()> {
    scale_at::<T>(gpu, gradient.address(gpu)?, T::DTYPE, factor, gradient)
}

/// `from`: as many elements as `to` of type `dtype`, the same memory or apart from it.
fn scale_at<T: DeviceElement>(
    gpu: &Gpu,
    from: u64,
    dtype: Dtype,
    factor: &DeviceRef<'_, f32>,
    to: &mut DeviceMut<'_, T>,
) -> Result<()> {
    expect_size(OP, "factor", "elements", 1, factor.len())?;
    let params = RawScaling { from, to: to.address(gpu)?, factor: factor.address(gpu)?, n: to.len() as u64 };
    let kernel = kernel(dtype, T::DTYPE);
    let grid = Grid::line(blocks(OP, "n", to.len(), SCALE_THREADS as usize * SCALE_ELEMENTS)?, SCALE_THREADS);
    // SAFETY: a thread reads its elements before it writes them, and both have n.
    unsafe { gpu.launch(&kernel, grid, &params) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Card;

    #[test]
    fn every_card_has_every_kernel() {
        for card in Card::capabilities().filter_map(|of| Card::known(of, 100)) {
            for to in [Dtype::Bf16, Dtype::F16, Dtype::F32] {
                assert!(card.has(&kernel(to, to)) && card.has(&kernel(Dtype::F32, to)));
            }
        }
    }
}
