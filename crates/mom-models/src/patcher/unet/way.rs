//! Who computes the U-Net's two operations.

use candle_core::{DType, Tensor};

use crate::Result;

/// Who computes an operation of the U-Net.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The project's code on the CPU.
    Slices,
    /// Windows, products and norms of `layers` on a GPU.
    #[cfg(feature = "cuda")]
    Kernels,
    /// candle's operations.
    Operations,
}

impl Way {
    /// For the device and element type of `x`; `by_kernels`: whether they take its sizes.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "there are no kernels"))]
    pub fn of(x: &Tensor, by_kernels: bool) -> Self {
        if x.device().is_cpu() {
            return Self::Slices;
        }
        #[cfg(feature = "cuda")]
        if by_kernels && matches!(x.dtype(), DType::BF16 | DType::F32) {
            return Self::Kernels;
        }
        Self::Operations
    }
}

/// f32 for 16 bits, which hold no long sum.
pub(super) fn wide(x: &Tensor) -> Result<Tensor> {
    Ok(match x.dtype() {
        DType::BF16 | DType::F16 => x.to_dtype(DType::F32)?,
        _ => x.clone(),
    })
}
