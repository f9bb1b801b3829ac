//! Host memory to the device by way of two page-locked buffers: one is filled while the device reads the other.
//!
//! The driver copies from ordinary memory through a buffer of its own, and the calling thread waits for the stream to come
//! to it.

use std::sync::Arc;

use cudarc::driver::{
    CudaEvent, CudaSlice, CudaStream, DevicePtrMut, DeviceRepr, DriverError, PinnedHostSlice, result,
};

use super::error::{CudaError, Result};
use crate::error::Error;

/// Pieces begin at multiples of this, so that elements of any type are aligned.
const ALIGN: usize = 64;

/// The buffers of one stream.
#[derive(Debug)]
pub(super) struct Staging {
    stream: Arc<CudaStream>,
    buffers: [Buffer; 2],
    /// Which of them is being filled, and how far.
    at: usize,
    used: usize,
}

#[derive(Debug)]
struct Buffer {
    memory: PinnedHostSlice<u8>,
    /// Behind the copies out of it.
    read: CudaEvent,
}

fn failed(source: DriverError) -> CudaError {
    CudaError::Driver { what: "copying to the device", source }
}

impl Staging {
    /// Buffers of `bytes` together.
    pub fn new(stream: &Arc<CudaStream>, bytes: usize) -> Result<Self> {
        let half = bytes / 2 / ALIGN * ALIGN;
        if half == 0 {
            return Err(Error::Limit {
                op: "stage_uploads",
                arg: "bytes",
                min: 2 * ALIGN,
                max: usize::MAX,
                got: bytes,
            }
            .into());
        }
        let buffer = || {
            let error = CudaError::driver("allocating page-locked memory");
            // SAFETY: what a copy reads of it was written before. Memory that is combined on writing: only the device reads.
            let memory = unsafe { stream.context().alloc_pinned::<u8>(half) }.map_err(error)?;
            let read = stream.context().new_event(None).map_err(CudaError::driver("making an event"))?;
            Ok::<_, CudaError>(Buffer { memory, read })
        };
        Ok(Self { stream: stream.clone(), buffers: [buffer()?, buffer()?], at: 0, used: 0 })
    }

    /// Puts a copy on the stream; `to` is of that stream and as long as `from`, which may be overwritten on return.
    pub fn copy<T: DeviceRepr + Copy>(&mut self, from: &[T], to: &mut CudaSlice<T>) -> Result<()> {
        debug_assert_eq!(from.len(), to.len());
        let stream = self.stream.clone();
        stream.context().bind_to_thread().map_err(failed)?;
        let (mut to, _access) = to.device_ptr_mut(&stream);
        // SAFETY: the bytes of a slice, borrowed as long; padding is copied and not looked at, which `MaybeUninit` allows.
        let mut rest =
            unsafe { std::slice::from_raw_parts(from.as_ptr().cast::<std::mem::MaybeUninit<u8>>(), size_of_val(from)) };
        while !rest.is_empty() {
            if self.used == self.buffers[self.at].memory.len() {
                self.turn()?;
            }
            let Buffer { memory, .. } = &mut self.buffers[self.at];
            let room = memory.len() - self.used;
            let (piece, behind) = rest.split_at(room.min(rest.len()));
            let base = memory.as_mut_ptr().map_err(failed)?;
            // SAFETY: `turn` has waited for what was read of this half before; the piece ends inside of the buffer. The
            // device's memory begins at `to` and has as many bytes as are left. The buffer is freed behind the copy, see
            // `drop`.
            unsafe {
                let place = base.add(self.used);
                std::ptr::copy_nonoverlapping(piece.as_ptr().cast(), place, piece.len());
                let bytes = std::slice::from_raw_parts(place, piece.len());
                result::memcpy_htod_async(to, bytes, stream.cu_stream()).map_err(failed)?;
            }
            self.used += piece.len().next_multiple_of(ALIGN);
            to += piece.len() as u64;
            rest = behind;
        }
        Ok(())
    }

    /// Goes on with the other buffer, once the device has read what was in it.
    fn turn(&mut self) -> Result<()> {
        self.buffers[self.at].read.record(&self.stream).map_err(CudaError::driver("recording an event"))?;
        let next = 1 - self.at;
        self.buffers[next].read.synchronize().map_err(CudaError::driver("waiting for the stream"))?;
        (self.at, self.used) = (next, 0);
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // A copy may be under way.
        let _ = self.stream.synchronize();
    }
}
