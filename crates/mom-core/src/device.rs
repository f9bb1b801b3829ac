//! Where tensors live.

use candle_core::Device;

use crate::Result;

/// GPU `ordinal`, as this crate's modules want it: a stream of its own, and memory that stays with the process once freed.
///
/// Every call gives the same device: tensors of several callers meet on one stream, and what a device holds for itself
/// (96 MiB for products) is held once, until the process ends.
///
/// # Errors
/// A build without the `cuda` feature, a driver older than CUDA 13.0, no such GPU, or one that the kernels do not run on
/// (compute capability below 8.0, which has no bf16 either).
pub fn cuda_device(ordinal: usize) -> Result<Device> {
    #[cfg(feature = "cuda")]
    return crate::cuda::device(ordinal);
    #[cfg(not(feature = "cuda"))]
    Err(crate::Error::Device {
        op: "cuda_device",
        arg: "device",
        expected: "a build with the feature \"cuda\"",
        got: format!("cuda:{ordinal}"),
    })
}
