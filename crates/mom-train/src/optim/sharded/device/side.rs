//! The stream that ranks exchange on, and copies on it.

use std::ffi::c_void;

use candle_core::{DType, Device, Storage, Tensor};
use mom_core::cuda::OnGpu;
use mom_kernels::cuda::cudarc::driver::{CudaEvent, DevicePtr, DriverError, result};
use mom_kernels::cuda::multi_copy::{Transfer, multi_copy};
use mom_kernels::cuda::{CudaError, Gpu, LeftFree, Module};

use super::OP;
use crate::Result;
use crate::dist::Memory;
use crate::error::config;

/// What the names of launches begin with that run beside those of the stream that computes.
pub(crate) const BESIDE: &str = "beside: ";

/// The stream that ranks exchange on: one of its own beside that which computes, so that both go on at once.
///
/// Memory is taken and given back in the order of the stream that computes: what this one uses is held until that one has waited
/// for it.
#[derive(Debug)]
pub(crate) struct Side {
    on: OnGpu,
    /// With the ranks' stream.
    gpu: Gpu,
    forked: CudaEvent,
    /// For what runs on it.
    _left_free: LeftFree,
}

/// The module of [`multi_copy`].
const COPIES: &str = "multi_copy";

fn driver(what: &'static str) -> impl FnOnce(DriverError) -> CudaError {
    move |source| CudaError::Driver { what, source }
}

impl Side {
    /// A stream of its own, for `n_multiprocessors` that what computes leaves to it, and ahead of the other one where both want the same:
    /// what it does is short, and all ranks wait for the last.
    ///
    /// # Errors
    /// The driver has no further stream.
    pub fn new(on: &OnGpu, n_multiprocessors: usize) -> Result<Self> {
        let (_, first) = result::stream::get_priority_range().map_err(driver("asking for priorities"))?;
        let context = on.gpu.stream().context();
        let gpu = Gpu::with_stream(context.new_stream_with_priority(first).map_err(driver("making a stream"))?)?;
        // Not in the middle of a step that is captured.
        gpu.preload(Module::ALL.iter().filter(|module| module.name() == COPIES))?;
        let (forked, _left_free) = (event(on)?, on.gpu.leave_free(n_multiprocessors as u32));
        Ok(Self { forked, gpu, _left_free, on: on.clone() })
    }

    /// Where it is.
    pub fn on(&self) -> &OnGpu {
        &self.on
    }

    /// What is put here from now on runs behind all that was launched so far.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn follow(&self) -> Result<()> {
        self.forked.record(self.on.gpu.stream()).map_err(driver("marking the stream"))?;
        Ok(self.gpu.stream().wait(&self.forked).map_err(driver("waiting for the stream"))?)
    }

    /// Marks where this stream is.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn mark(&self, event: &CudaEvent) -> Result<()> {
        Ok(event.record(self.gpu.stream()).map_err(driver("marking the ranks' stream"))?)
    }

    /// What is launched from now on runs behind a mark. `what` is the name of the wait in a profile.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn wait_for(&self, mark: &CudaEvent, what: &str) -> Result<(), CudaError> {
        let stream = self.on.gpu.stream();
        self.on.gpu.timed_on(stream, what, || stream.wait(mark).map_err(driver("waiting for the ranks' stream")))
    }

    /// Puts something here, and times it under this name in a profile, with [`BESIDE`] before it.
    ///
    /// # Errors
    /// Those of `run`, and what the driver reports.
    pub fn timed<R>(&self, what: &str, run: impl FnOnce() -> Result<R>) -> Result<R> {
        self.on.gpu.timed_on(self.gpu.stream(), &format!("{BESIDE}{what}"), run)
    }

    /// What is launched from now on runs behind all that was put here so far.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn join(&self) -> Result<()> {
        self.mark(&self.forked)?;
        Ok(self.wait_for(&self.forked, "waiting for other ranks")?)
    }

    /// As NCCL takes it.
    pub fn raw(&self) -> *mut c_void {
        self.gpu.stream().cu_stream().cast()
    }

    /// Copies, in no order, see [`copy`] and [`clear`].
    ///
    /// # Errors
    /// What the driver reports.
    pub fn copies(&self, copies: &[Transfer]) -> Result<()> {
        // SAFETY: memory of this GPU, apart from each other, that stays until the stream is through: the caller holds it.
        self.timed("copying", || Ok(unsafe { multi_copy(&self.gpu, copies) }?))
    }

    /// Where a contiguous tensor lies.
    ///
    /// # Errors
    /// One that is not, is on no GPU, or neither bf16 nor f32.
    pub fn memory(&self, tensor: &Tensor) -> Result<Memory> {
        let (guard, layout) = tensor.storage_and_layout();
        let (Storage::Cuda(storage), Some((start, end))) = (&*guard, layout.contiguous_offsets()) else {
            return Err(candle_core::Error::RequiresContiguous { op: OP }.into());
        };
        let stream = self.on.gpu.stream();
        let address = match tensor.dtype() {
            DType::BF16 => {
                storage.as_cuda_slice::<mom_core::cuda::half::bf16>()?.slice(start..end).device_ptr(stream).0
            }
            DType::F32 => storage.as_cuda_slice::<f32>()?.slice(start..end).device_ptr(stream).0,
            got => return Err(config("dtype", "bf16 or f32", got.as_str())),
        };
        Ok(Memory { address, len: end - start, dtype: tensor.dtype() })
    }

    /// Zeros.
    ///
    /// # Errors
    /// Out of memory.
    pub fn zeros(&self, len: usize, dtype: DType) -> Result<Tensor> {
        Ok(Tensor::zeros(len, dtype, &Device::Cuda(self.on.device.clone()))?)
    }
}

/// A copy of elements.
pub(super) fn copy(from: Memory, to: Memory) -> Transfer {
    Transfer::new(from.address, to.address, from.len * from.dtype.size_in_bytes())
}

/// Elements that become zero.
pub(super) fn clear(memory: Memory) -> Transfer {
    Transfer::zeros(memory.address, memory.len * memory.dtype.size_in_bytes())
}

/// A mark that is nowhere yet.
///
/// # Errors
/// What the driver reports.
pub(super) fn event(on: &OnGpu) -> Result<CudaEvent> {
    Ok(on.gpu.stream().context().new_event(None).map_err(driver("making an event"))?)
}
