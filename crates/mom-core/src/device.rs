//! Where tensors live.

use candle_core::{DType, Device, Shape, Tensor, WithDType};

use crate::Result;
use crate::error::{expect_device, expect_shape};

/// Element types of arrays that go from the host to tensors, see [`to_device`].
#[cfg(feature = "cuda")]
pub trait HostValue:
    WithDType + candle_core::cuda_backend::CudaDType + mom_kernels::cuda::cudarc::driver::DeviceRepr
{
}
/// Element types of arrays that go from the host to tensors, see [`to_device`].
#[cfg(not(feature = "cuda"))]
pub trait HostValue: WithDType {}
impl HostValue for f32 {}
impl HostValue for u32 {}

/// A tensor of values of the host. On a GPU of [`cuda_device`]'s it does not wait for the device, unless more than 64 MiB
/// are under way: the values go through page-locked memory, behind what is on the device's stream.
///
/// # Errors
/// Values that do not fill the shape; out of memory; what ran on the device before failed.
pub fn to_device<T: HostValue>(values: &[T], shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
    let shape = shape.into();
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        if shape.elem_count() != values.len() {
            return Err(candle_core::Error::ShapeMismatch { buffer_size: values.len(), shape }.into());
        }
        let on = crate::cuda::OnGpu::of(device)?;
        return Ok(on.tensor(on.gpu.upload(values)?, shape));
    }
    Ok(Tensor::from_slice(values, shape, device)?)
}

/// The tensor's values in another element type, off any tape; the tensor itself, detached, where it has that type.
///
/// # Errors
/// Out of memory; on a GPU a type other than bf16, f16 and f32.
pub fn convert(tensor: &Tensor, dtype: DType) -> Result<Tensor> {
    let tensor = tensor.detach();
    if tensor.dtype() == dtype {
        return Ok(tensor);
    }
    #[cfg(feature = "cuda")]
    if tensor.device().is_cuda() && tensor.elem_count() > 0 {
        return crate::cuda::convert(&tensor.contiguous()?, dtype);
    }
    Ok(tensor.to_dtype(dtype)?)
}

/// `sum + x` of gradients, off any tape, in f32 where x has 16 bits: those would lose what many gradients add.
///
/// # Errors
/// Tensors of several shapes or devices, out of memory.
pub fn accumulate(sum: &Tensor, x: &Tensor) -> Result<Tensor> {
    let wide = match x.dtype() {
        DType::BF16 | DType::F16 => DType::F32,
        dtype => dtype,
    };
    let sum = convert(sum, wide)?;
    expect_shape("accumulate", "x", sum.dims(), x)?;
    expect_device("accumulate", "x", &sum, x)?;
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() && x.elem_count() > 0 {
        return crate::cuda::accumulate(&sum.contiguous()?, &x.detach().contiguous()?);
    }
    Ok((sum + convert(x, wide)?)?)
}

/// GPU `ordinal`, as this crate's modules want it: a stream of its own, and memory that stays with the process once freed.
///
/// Every call gives the same device: tensors of several callers meet on one stream (while one of them captures a graph, as a
/// trainer does with small steps, no other thread may use it), and what a device holds for itself
/// (12 MiB for products, and 64 MiB of page-locked memory of the host for uploads) is held once, until the process ends.
///
/// # Errors
/// A build without the `cuda` feature, a driver older than CUDA 12.4 (candle's own kernels, at their first use, want that of
/// the CUDA that they were built with), no such GPU, or one that the kernels do not run on (compute capability below 8.0,
/// which has no bf16 either).
pub fn cuda_device(ordinal: usize) -> Result<Device> {
    #[cfg(feature = "cuda")]
    return crate::cuda::device(ordinal);
    #[cfg(not(feature = "cuda"))]
    Err(crate::Error::Device {
        op: "cuda_device",
        arg: "device",
        expected: "a build with the feature \"cuda\"".to_owned(),
        got: format!("cuda:{ordinal}"),
    })
}
