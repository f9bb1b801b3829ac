//! Tensors as views.

use std::marker::PhantomData;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::CudaDType;
use candle_core::{Device, Storage, StorageRef, Tensor, WithDType};
use mom_kernels::cuda::cudarc::driver::CudaView;
use mom_kernels::cuda::{DeviceRef, DeviceRows, Gpu};

use super::on_gpu::OnGpu;
use crate::error::{other_place, place};
use crate::{Error, Result};

/// A contiguous tensor on a GPU, readable by kernels for as long as this lives.
pub struct OnDevice<'a, T> {
    guard: StorageRef<'a>,
    start: usize,
    len: usize,
    element: PhantomData<T>,
}

impl<'a, T: CudaDType + WithDType> OnDevice<'a, T> {
    /// Reads `tensor`, which must be contiguous and on the device of `on`.
    ///
    /// # Errors
    /// Another element type than T, another device, gaps between the elements.
    pub fn of(on: &OnGpu, op: &'static str, arg: &'static str, tensor: &'a Tensor) -> Result<Self> {
        if tensor.dtype() != T::DTYPE {
            return Err(Error::DType { op, arg, expected: T::DTYPE.as_str(), got: tensor.dtype() });
        }
        let (guard, layout) = tensor.storage_and_layout();
        if !matches!(&*guard, Storage::Cuda(storage) if storage.device().id() == on.device.id()) {
            let wanted = Device::Cuda(on.device.clone());
            let (expected, got) = (place(&wanted), other_place(tensor.device(), &wanted));
            return Err(Error::Device { op, arg, expected, got });
        }
        let Some((start, end)) = layout.contiguous_offsets() else {
            return Err(Error::Candle(candle_core::Error::RequiresContiguous { op }));
        };
        Ok(Self { guard, start, len: end - start, element: PhantomData })
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements as cudarc has them.
    ///
    /// # Errors
    /// None after [`Self::of`].
    pub(super) fn slice(&self) -> Result<CudaView<'_, T>> {
        let Storage::Cuda(storage) = &*self.guard else {
            let (expected, got) = ("a GPU".to_owned(), "the CPU".to_owned());
            return Err(Error::Device { op: "device", arg: "tensor", expected, got });
        };
        Ok(storage.as_cuda_slice::<T>()?.slice(self.start..self.start + self.len))
    }

    /// The elements.
    ///
    /// # Errors
    /// None after [`Self::of`].
    pub fn view<'b>(&'b self, gpu: &'b Gpu) -> Result<DeviceRef<'b, T>> {
        self.narrow(gpu, 0, self.len)
    }

    /// The elements `start..start + len`.
    ///
    /// # Errors
    /// There are fewer.
    pub fn narrow<'b>(&'b self, gpu: &'b Gpu, start: usize, len: usize) -> Result<DeviceRef<'b, T>> {
        let end = start.saturating_add(len);
        if end > self.len {
            return Err(mom_kernels::Error::Limit { op: "device", arg: "end", min: 0, max: self.len, got: end }.into());
        }
        Ok(gpu.read_view(self.slice()?.slice(start..end)))
    }

    /// The elements as rows.
    ///
    /// # Errors
    /// A length that is no multiple of the width.
    pub fn rows<'b>(&'b self, gpu: &'b Gpu, width: usize) -> Result<DeviceRows<'b, T>> {
        Ok(DeviceRows::new("rows", self.view(gpu)?, width)?)
    }
}
