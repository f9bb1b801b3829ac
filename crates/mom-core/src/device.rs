//! Where tensors live.

use candle_core::Device;

use crate::Result;

/// GPU `ordinal`, as this crate's modules want it: a stream of its own, and memory that stays with the process once freed.
///
/// # Errors
/// A build without the `cuda` feature, no such GPU, or one that the kernels do not run on.
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
