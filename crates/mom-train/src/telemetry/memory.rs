//! Heap in use, and its highest value.
//!
//! A program that wants the figures makes [`Counting`] its global allocator; without it they are zero.
//!
//! ```
//! #[global_allocator]
//! static HEAP: mom_train::memory::Counting = mom_train::memory::Counting;
//!
//! mom_train::memory::reset_peak();
//! drop(vec![0u8; 1 << 20]);
//! assert!(mom_train::memory::peak_bytes() >= 1 << 20);
//! ```

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::{DeviceKind, Result};

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, counted.
#[derive(Debug, Clone, Copy)]
pub struct Counting;

/// Highest number of bytes that were in use at once since the last [`reset_peak`].
pub fn peak_bytes() -> u64 {
    PEAK.load(Relaxed) as u64
}

/// Starts a new measurement from what is in use now.
pub fn reset_peak() {
    PEAK.store(IN_USE.load(Relaxed), Relaxed);
}

/// Starts a new measurement of wherever a run computes.
pub(crate) fn reset(device: DeviceKind) -> Result<()> {
    match device {
        DeviceKind::Cpu => reset_peak(),
        #[cfg(feature = "cuda")]
        DeviceKind::Cuda => mom_core::cuda::reset_peak_memory(0)?,
        #[cfg(not(feature = "cuda"))]
        DeviceKind::Cuda => {}
    }
    Ok(())
}

/// Highest number of bytes since then: of the heap, or of the device's memory.
pub(crate) fn peak(device: DeviceKind) -> Result<u64> {
    match device {
        DeviceKind::Cpu => Ok(peak_bytes()),
        #[cfg(feature = "cuda")]
        DeviceKind::Cuda => Ok(mom_core::cuda::memory(0)?.1),
        #[cfg(not(feature = "cuda"))]
        DeviceKind::Cuda => Ok(0),
    }
}

fn grow(bytes: usize) {
    let now = IN_USE.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(now, Relaxed);
}

fn shrink(bytes: usize) {
    IN_USE.fetch_sub(bytes, Relaxed);
}

// SAFETY: every call goes to the system's allocator unchanged; counting neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those of System.
        let pointer = unsafe { System.alloc(layout) };
        if !pointer.is_null() {
            grow(layout.size());
        }
        pointer
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        let pointer = unsafe { System.alloc_zeroed(layout) };
        if !pointer.is_null() {
            grow(layout.size());
        }
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) };
        shrink(layout.size());
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        let moved = unsafe { System.realloc(pointer, layout, size) };
        if !moved.is_null() {
            grow(size);
            shrink(layout.size());
        }
        moved
    }
}
