//! The only place that launches a kernel.

use cudarc::driver::DeviceRepr;
use cudarc::driver::sys::{
    CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue, CUlaunchConfig, cuLaunchKernelEx,
};

use super::error::{CudaError, Result};
use super::gpu::Gpu;

/// Shape of a launch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    pub blocks: (u32, u32, u32),
    pub threads: (u32, u32, u32),
}

impl Grid {
    /// A line of blocks.
    pub fn line(blocks: u32, threads: u32) -> Self {
        Self { blocks: (blocks, 1, 1), threads: (threads, 1, 1) }
    }
}

impl Gpu {
    /// Launches a kernel that takes one struct. Nothing happens for an empty grid.
    ///
    /// # Safety
    /// `params` is the struct that the kernel takes; its pointers cover what the kernel reads and writes for this grid,
    /// are live until the launch is on the stream, and what is written is borrowed exclusively.
    pub(crate) unsafe fn launch<P: DeviceRepr>(&self, kernel: &str, grid: Grid, params: &P) -> Result<()> {
        // SAFETY: by this function's own contract.
        unsafe { self.launch_with(kernel, grid, params, &mut []) }
    }

    /// [`Self::launch`] of a kernel of compute capability 9.0 that follows another of this stream: its blocks start once all
    /// blocks of that one have asked for it (`griddepcontrol.launch_dependents`) or ended, and wait for its end themselves.
    ///
    /// # Safety
    /// As [`Self::launch`]; every block of the kernel waits (`griddepcontrol.wait`), and touches nothing before that the one
    /// in front writes, or reads and this one writes.
    pub(crate) unsafe fn launch_early<P: DeviceRepr>(&self, kernel: &str, grid: Grid, params: &P) -> Result<()> {
        let early = CUlaunchAttribute {
            id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        // SAFETY: by this function's own contract.
        unsafe { self.launch_with(kernel, grid, params, &mut [early]) }
    }

    /// # Safety
    /// As [`Self::launch`], and what the attributes ask for.
    unsafe fn launch_with<P: DeviceRepr>(
        &self,
        kernel: &str,
        grid: Grid,
        params: &P,
        attributes: &mut [CUlaunchAttribute],
    ) -> Result<()> {
        let ((x, y, z), (threads_x, threads_y, threads_z)) = (grid.blocks, grid.threads);
        if x == 0 || y == 0 || z == 0 {
            return Ok(());
        }
        let function = self.function(kernel)?;
        let config = CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: threads_x,
            blockDimY: threads_y,
            blockDimZ: threads_z,
            sharedMemBytes: function.shared_bytes,
            hStream: self.stream().cu_stream(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as u32,
        };
        let mut arguments = [(&raw const *params).cast_mut().cast()];
        self.bind()?;
        self.timed(kernel, || {
            // SAFETY: by the caller's contract; the driver copies the arguments, and the attributes are alive.
            unsafe { cuLaunchKernelEx(&config, function.function, arguments.as_mut_ptr(), std::ptr::null_mut()) }
                .result()
                .map_err(|source| CudaError::Launch { kernel: kernel.to_owned(), grid: grid.blocks, source })
        })
    }
}

/// The number of blocks for `n` elements.
///
/// # Errors
/// More than a grid holds.
pub(crate) fn blocks(op: &'static str, arg: &'static str, n: usize, per_block: usize) -> Result<u32> {
    const MAX: usize = i32::MAX as usize;
    match n.div_ceil(per_block) {
        blocks if blocks <= MAX => Ok(blocks as u32),
        _ => Err(crate::Error::Limit { op, arg, min: 0, max: MAX * per_block, got: n }.into()),
    }
}
