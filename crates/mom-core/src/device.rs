//! Where tensors live.

use candle_core::{Device, Shape, Tensor, WithDType};

use crate::Result;

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
