//! Ids that are on the device, where no function can refuse them: kernels count those that name nothing.

use cudarc::driver::CudaSlice;

use super::error::Result;
use super::gpu::Gpu;
use crate::error::Error;

/// An id that names nothing on purpose.
pub(crate) const NONE: u32 = u32::MAX;

/// Waits for the stream and reads such a count.
pub(crate) fn check(gpu: &Gpu, op: &'static str, arg: &'static str, count: &CudaSlice<u32>) -> Result<()> {
    match gpu.download(count)?.first() {
        None | Some(0) => Ok(()),
        Some(&count) => Err(Error::OutOfRange { op, arg, count: count as usize }.into()),
    }
}
