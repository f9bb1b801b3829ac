//! Tensors on the host as slices, by element type: what a function for [`crate::autograd::record`] is written with.
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use mom_core::host::{Float, Host, dispatch};
//!
//! fn largest<T: Float>(x: &Tensor) -> mom_core::Result<f64> {
//!     let host = Host::<T>::of("largest", "x", x)?;
//!     Ok(host.slice()?.iter().map(|v| mom_kernels::Element::to_f64(*v)).fold(f64::MIN, f64::max))
//! }
//!
//! let x = Tensor::new(&[1.0f32, 3.0, 2.0], &Device::Cpu)?;
//! let got = dispatch!("largest", "x", x, T => largest::<T>(&x))?;
//! assert_eq!(got, 3.0);
//! # Ok::<(), mom_core::Error>(())
//! ```

use std::marker::PhantomData;

use candle_core::{DType, Device, Storage, Tensor, WithDType};
use mom_kernels::Element;

use crate::error::place;
use crate::{Error, Result};

/// Element types of the CPU operations.
pub trait Float: Element + WithDType {}
impl Float for f32 {}
impl Float for f64 {}

/// Calls a generic function for the element type of a tensor: `dispatch!(op, arg, tensor, T => function::<T>(..))`.
///
/// Any other type than `f32` and `f64` is [`Error::DType`], converted into the error type of the call.
#[macro_export]
#[doc(hidden)]
macro_rules! __dispatch_float {
    ($op:expr, $arg:expr, $tensor:expr, $t:ident => $call:expr) => {
        match $tensor.dtype() {
            $crate::candle_core::DType::F32 => {
                type $t = f32;
                $call
            }
            $crate::candle_core::DType::F64 => {
                type $t = f64;
                $call
            }
            got => Err($crate::Error::DType { op: $op, arg: $arg, expected: "f32 or f64", got }.into()),
        }
    };
}
#[doc(inline)]
pub use crate::__dispatch_float as dispatch;

/// A contiguous tensor on the host, readable as a slice for as long as this lives.
pub struct Host<'a, T> {
    guard: candle_core::StorageRef<'a>,
    start: usize,
    len: usize,
    element: PhantomData<T>,
}

impl<'a, T: Float> Host<'a, T> {
    /// Reads `tensor`, which must be contiguous.
    ///
    /// # Errors
    /// Another element type than T, another device, gaps between the elements.
    pub fn of(op: &'static str, arg: &'static str, tensor: &'a Tensor) -> Result<Self> {
        if tensor.dtype() != T::DTYPE {
            let expected = if T::DTYPE == DType::F32 { "f32" } else { "f64" };
            return Err(Error::DType { op, arg, expected, got: tensor.dtype() });
        }
        let (guard, layout) = tensor.storage_and_layout();
        if !matches!(&*guard, Storage::Cpu(_)) {
            return Err(Error::Device { op, arg, expected: "the CPU".to_owned(), got: place(tensor.device()) });
        }
        let Some((start, end)) = layout.contiguous_offsets() else {
            return Err(Error::Candle(candle_core::Error::RequiresContiguous { op }));
        };
        Ok(Self { guard, start, len: end - start, element: PhantomData })
    }

    /// The elements, row-major.
    ///
    /// # Errors
    /// None after [`Self::of`].
    pub fn slice(&self) -> Result<&[T]> {
        match &*self.guard {
            Storage::Cpu(storage) => Ok(&T::cpu_storage_as_slice(storage)?[self.start..self.start + self.len]),
            _ => Err(Error::Device {
                op: "host",
                arg: "tensor",
                expected: "the CPU".to_owned(),
                got: "a device".to_owned(),
            }),
        }
    }
}

/// The tensor itself if it is contiguous, else a copy that candle's tape knows of.
pub(crate) fn contiguous(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.contiguous()?)
}

/// An untracked tensor on the host.
///
/// # Errors
/// Values that do not fill the shape.
pub fn tensor<T: Float>(values: Vec<T>, shape: impl Into<candle_core::Shape>) -> Result<Tensor> {
    Ok(Tensor::from_vec(values, shape.into(), &Device::Cpu)?)
}
