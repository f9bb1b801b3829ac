//! Element types of activations.

use cudarc::driver::{DeviceRepr, ValidAsZeroBits};

/// Element types of activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// bfloat16.
    Bf16,
    /// IEEE half precision; its kernels are part of a build with the feature `f16`.
    F16,
    /// IEEE single precision.
    F32,
}

impl Dtype {
    /// As kernels are named.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }

    /// Whether an element takes two bytes.
    pub(crate) fn is_half(self) -> bool {
        self != Self::F32
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for half::bf16 {}
    impl Sealed for half::f16 {}
    impl Sealed for f32 {}
}

/// An element type of activations: `half::bf16`, `half::f16` (launches need the feature `f16`) or `f32`.
pub trait DeviceElement: sealed::Sealed + DeviceRepr + ValidAsZeroBits + Copy + Send + Sync + 'static {
    /// Its name.
    const DTYPE: Dtype;
}

/// Types that gradients of `W` may have: its own, or f32.
pub trait GradientOf<W>: DeviceElement {}
impl<W: DeviceElement> GradientOf<W> for W {}
impl GradientOf<half::bf16> for f32 {}
impl GradientOf<half::f16> for f32 {}

impl DeviceElement for half::bf16 {
    const DTYPE: Dtype = Dtype::Bf16;
}
impl DeviceElement for half::f16 {
    const DTYPE: Dtype = Dtype::F16;
}
impl DeviceElement for f32 {
    const DTYPE: Dtype = Dtype::F32;
}
