//! Copies of many stretches of device memory in a launch: what PyTorch's users know as a multi-tensor apply.
//!
//! Needs the feature `cuda`.
//!
//! A copy of the driver's costs the host a few microseconds, however short it is; the parameters of a model are some hundreds of short
//! stretches.
//!
//! ```
//! use mom_kernels::cuda::{Gpu, cudarc::driver::DevicePtr, multi_copy::{Transfer, multi_copy}};
//!
//! # fn main() -> mom_kernels::cuda::Result<()> {
//! let Ok(gpu) = Gpu::new(0) else { return Ok(()) }; // no GPU here
//! let (from, to) = (gpu.upload(&[3.0f32, 4.0])?, gpu.upload(&[1.0f32, 2.0, 5.0])?);
//! let at = |slice, element: u64| DevicePtr::<f32>::device_ptr(slice, gpu.stream()).0 + 4 * element;
//! // SAFETY: the first one is of the second element of `from`; the other sets the last one of `to`; both lie on this GPU.
//! unsafe { multi_copy(&gpu, &[Transfer::new(at(&from, 1), at(&to, 0), 4), Transfer::zeros(at(&to, 2), 4)])? };
//! assert_eq!(gpu.download(&to)?, [4.0, 2.0, 0.0]);
//! # Ok(())
//! # }
//! ```

use std::mem::offset_of;

use cudarc::driver::DeviceRepr;

use crate::runtime::{Gpu, Grid, Result, blocks};

const OP: &str = "multi_copy";

/// As in kernels/multi_copy: copies of a launch, threads and bytes of a block.
const MAX_COPIES: usize = 120;
const THREADS: u32 = 256;
const CHUNK: usize = 32_768;

/// A copy between addresses of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transfer {
    /// Address to read; none: zeros.
    pub from: Option<u64>,
    /// Address to write.
    pub to: u64,
    /// Bytes.
    pub len: usize,
}

impl Transfer {
    /// A copy of so many bytes. Quickest where both addresses are multiples of 16.
    pub fn new(from: u64, to: u64, len: usize) -> Self {
        Self { from: Some(from), to, len }
    }

    /// So many bytes of zeros.
    pub fn zeros(to: u64, len: usize) -> Self {
        Self { from: None, to, len }
    }
}

/// Copies, in no order.
///
/// # Safety
/// What is read and what is written are memory of this device that stays until the stream is through, nothing else writes to it until
/// then, and what is written is no other copy's.
///
/// # Errors
/// A refused launch.
pub unsafe fn multi_copy(gpu: &Gpu, copies: &[Transfer]) -> Result<()> {
    for copies in copies.chunks(MAX_COPIES) {
        let mut params = Raw { copies: [RawCopy::NONE; MAX_COPIES], n_copies: copies.len() as u32, unused: 0 };
        let mut n_blocks = 0;
        for (raw, &Transfer { from, to, len }) in params.copies.iter_mut().zip(copies) {
            *raw = RawCopy { from: from.unwrap_or(0), to, len: len as u64, first_block: n_blocks, unused: 0 };
            n_blocks += blocks(OP, "copy", len, CHUNK)?;
        }
        // SAFETY: a block reads and writes 32 KiB of a copy, bounded by its length; the caller answers for the addresses.
        unsafe { gpu.launch(OP, Grid::line(n_blocks, THREADS), &params)? };
    }
    Ok(())
}

// What the kernel takes: kernels/multi_copy/params.h, field by field.

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RawCopy {
    from: u64,
    to: u64,
    len: u64,
    first_block: u32,
    unused: u32,
}
const _: () = assert!(size_of::<RawCopy>() == 32 && offset_of!(RawCopy, first_block) == 24);

impl RawCopy {
    const NONE: Self = Self { from: 0, to: 0, len: 0, first_block: 0, unused: 0 };
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Raw {
    copies: [RawCopy; MAX_COPIES],
    n_copies: u32,
    unused: u32,
}
const _: () = assert!(size_of::<Raw>() == 32 * 120 + 8 && offset_of!(Raw, n_copies) == 3840);

// SAFETY: a plain struct of numbers in C layout; the addresses in it are device addresses.
unsafe impl DeviceRepr for Raw {}
