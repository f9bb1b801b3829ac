//! Device memory to the host by way of two page-locked buffers: one is filled while the other is emptied.
//!
//! A copy to ordinary memory goes through a buffer of the driver's, on one thread; a snapshot in page-locked memory would
//! take as much of it as the optimiser is large.

use std::sync::Arc;

use mom_kernels::cuda::CudaError;
use mom_kernels::cuda::cudarc::driver::{
    CudaEvent, CudaSlice, CudaStream, CudaView, DevicePtr, DriverError, PinnedHostSlice, result,
};
use rayon::prelude::*;

/// Elements of a buffer: 64 MiB.
const BUFFER: usize = 1 << 24;

/// Elements that one thread copies at a time.
const CHUNK: usize = 1 << 18;

/// The buffers, on the stream that writes the memory which is copied.
#[derive(Debug)]
pub(crate) struct Download {
    stream: Arc<CudaStream>,
    buffers: [Buffer; 2],
}

#[derive(Debug)]
struct Buffer {
    memory: PinnedHostSlice<f32>,
    /// Behind the copies into it.
    filled: CudaEvent,
}

fn failed(source: DriverError) -> CudaError {
    CudaError::Driver { what: "copying to the host", source }
}

impl Download {
    /// # Errors
    /// No page-locked memory.
    pub fn new(stream: &Arc<CudaStream>) -> Result<Self, CudaError> {
        let error = |source| CudaError::Driver { what: "allocating page-locked memory", source };
        let buffer = || {
            // SAFETY: a buffer is only read where a copy has written it. No flag: the processor reads it.
            let memory = unsafe { stream.context().alloc_pinned_with_flags(BUFFER, 0) }.map_err(error)?;
            Ok::<_, CudaError>(Buffer { memory, filled: stream.context().new_event(None).map_err(error)? })
        };
        Ok(Self { stream: stream.clone(), buffers: [buffer()?, buffer()?] })
    }

    /// Copies slices end to end to `to`, which they fill.
    ///
    /// # Errors
    /// What ran on the stream before failed.
    pub fn copy<'a>(
        &mut self,
        from: impl IntoIterator<Item = &'a CudaSlice<f32>>,
        to: &mut [f32],
    ) -> Result<(), CudaError> {
        let mut pieces = from
            .into_iter()
            .flat_map(|slice| {
                let starts = (0..slice.len()).step_by(BUFFER);
                starts.map(move |start| slice.slice(start..(start + BUFFER).min(slice.len())))
            })
            .peekable();
        let mut rest = to;
        let mut in_buffer = 0;
        for turn in 0.. {
            let n = self.fill(turn % 2, &mut pieces)?;
            let (to, behind) = std::mem::take(&mut rest).split_at_mut(in_buffer);
            if in_buffer > 0 {
                self.empty((turn + 1) % 2, to)?;
            }
            (rest, in_buffer) = (behind, n);
            if n == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Starts copies into a buffer, as many pieces as fit; the number of their elements.
    fn fill<'a>(
        &mut self,
        buffer: usize,
        pieces: &mut std::iter::Peekable<impl Iterator<Item = CudaView<'a, f32>>>,
    ) -> Result<usize, CudaError> {
        let Self { stream, buffers } = self;
        let Buffer { memory, filled } = &mut buffers[buffer];
        stream.context().bind_to_thread().map_err(failed)?;
        let memory = memory.as_mut_slice().map_err(failed)?;
        let mut n = 0;
        while let Some(piece) = pieces.next_if(|piece| n + piece.len() <= BUFFER) {
            let (source, _) = piece.device_ptr(stream);
            // SAFETY: the piece is that long and was written on this stream; the buffer is read behind `filled` alone, and
            // outlives the copy, see `drop`.
            unsafe { result::memcpy_dtoh_async(&mut memory[n..n + piece.len()], source, stream.cu_stream()) }
                .map_err(failed)?;
            n += piece.len();
        }
        filled.record(stream).map_err(failed)?;
        Ok(n)
    }

    /// Waits for the copies into a buffer and moves its first elements on.
    fn empty(&mut self, buffer: usize, to: &mut [f32]) -> Result<(), CudaError> {
        let Buffer { memory, filled } = &mut self.buffers[buffer];
        filled.synchronize().map_err(failed)?;
        let from = &memory.as_slice().map_err(failed)?[..to.len()];
        to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| to.copy_from_slice(from));
        Ok(())
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        // After an error a copy may be under way.
        let _ = self.stream.synchronize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mom_core::cuda::OnGpu;

    #[test]
    fn slices_of_any_length_arrive_end_to_end() {
        let _one = crate::ONE_ON_DEVICE.lock();
        let device = match mom_core::cuda_device(0) {
            Ok(device) => device,
            Err(error) => {
                assert!(std::env::var_os("MOM_REQUIRE_GPU").is_none(), "MOM_REQUIRE_GPU is set, but {error}");
                return;
            }
        };
        let on = OnGpu::of(&device).unwrap();
        // One that does not fit beside the first, one longer than both buffers, small ones between and behind.
        let lens = [5, BUFFER - 3, 1, 2 * BUFFER + 7, 1, 4096];
        let want: Vec<f32> = (0..lens.iter().sum::<usize>()).map(|i| (i % 16_777_213) as f32).collect();
        let mut rest = &want[..];
        let slices = lens.map(|len| {
            let (first, behind) = rest.split_at(len);
            rest = behind;
            on.gpu.upload(first).unwrap()
        });
        let mut download = Download::new(on.gpu.stream()).unwrap();
        for _ in 0..2 {
            let mut got = vec![0.0; want.len()];
            download.copy(&slices, &mut got).unwrap();
            assert!(got == want);
        }
    }
}
