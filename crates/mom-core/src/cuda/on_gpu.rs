//! The kernels of a device.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{self, ThreadId};

use candle_core::cuda_backend::cudarc::cublas::CudaBlas;
use candle_core::cuda_backend::{CudaDType, DeviceId};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, Device, Shape, Storage, Tensor, WithDType};
use mom_kernels::cuda::cudarc::driver::{CudaSlice, DeviceRepr, DriverError};
use mom_kernels::cuda::{CudaError, DeviceElement, Gpu, half};

use crate::{Error, Result};

/// Element types of activations on the GPU.
pub trait GpuFloat: DeviceElement + CudaDType + WithDType {}
impl GpuFloat for half::bf16 {}
impl GpuFloat for half::f16 {}
impl GpuFloat for f32 {}

/// Calls a generic function for the element type of a tensor on a GPU.
#[macro_export]
#[doc(hidden)]
macro_rules! __dispatch_gpu {
    ($op:expr, $arg:expr, $tensor:expr, $t:ident => $call:expr) => {
        match $tensor.dtype() {
            $crate::candle_core::DType::BF16 => {
                type $t = $crate::cuda::half::bf16;
                $call
            }
            $crate::candle_core::DType::F16 => {
                type $t = $crate::cuda::half::f16;
                $call
            }
            $crate::candle_core::DType::F32 => {
                type $t = f32;
                $call
            }
            got => Err($crate::Error::DType { op: $op, arg: $arg, expected: "bf16, f16 or f32", got }.into()),
        }
    };
}
#[doc(inline)]
pub use crate::__dispatch_gpu as dispatch;

/// Page-locked memory that uploads go through, in bytes: the noise and patches of a large batch fit into half of it.
const STAGING: usize = 64 << 20;

pub(super) fn driver_error(what: &'static str) -> impl FnOnce(DriverError) -> CudaError {
    move |source| CudaError::Driver { what, source }
}

/// A candle device and the kernels on its stream.
#[derive(Debug, Clone)]
pub struct OnGpu {
    /// candle's side.
    pub device: CudaDevice,
    /// The kernels' side.
    pub gpu: Arc<Gpu>,
}

/// What one [`Gpu`] launches on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct StreamOf {
    ordinal: usize,
    stream: usize,
    /// Where the stream is another one for each thread, the thread.
    thread: Option<ThreadId>,
}

impl StreamOf {
    /// The driver's name of the stream that each thread has of its own: that of `Device::new_cuda`'s.
    const PER_THREAD: usize = 2;

    fn of(device: &CudaDevice) -> Self {
        let stream = device.cuda_stream();
        let address = stream.cu_stream() as usize;
        let thread = (address == Self::PER_THREAD).then(|| thread::current().id());
        Self { ordinal: stream.context().ordinal(), stream: address, thread }
    }
}

/// The kernels of a candle device, for as long as the device is somebody's.
#[derive(Debug)]
struct Entry {
    /// Part of the device and of its clones, which tensors hold: gone with the last of them.
    device: Weak<CudaBlas>,
    stream: StreamOf,
    /// Holds the stream, so that its address does not come again meanwhile.
    gpu: Arc<Gpu>,
}

static ENTRIES: Mutex<Option<HashMap<DeviceId, Entry>>> = Mutex::new(None);

impl OnGpu {
    /// The GPU of a device: the same one for all of its tensors, and for all devices of one stream. What it holds for itself
    /// (12 MiB for products, 64 MiB of page-locked memory, the kernels) goes at the next new device after the last tensor or
    /// clone of this one has gone.
    ///
    /// # Errors
    /// Not a GPU, or one that the kernels do not run on. A device whose stream is another one on each thread
    /// (`Device::new_cuda` makes such, [`crate::cuda_device`] does not), on a second thread: what one thread computes, the
    /// other would read too early.
    pub fn of(device: &Device) -> Result<Self> {
        let device = device.as_cuda_device()?.clone();
        let stream = StreamOf::of(&device);
        let mut entries = ENTRIES.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = entries.get_or_insert_default();
        if let Some(entry) = entries.get(&device.id()) {
            if entry.stream != stream {
                let expected = "the thread that used this device first, since the device has a stream for each thread: \
                                mom_core::cuda_device gives one that threads share";
                let (expected, got) = (expected.to_owned(), "another thread".to_owned());
                return Err(Error::Device { op: "gpu", arg: "device", expected, got });
            }
            return Ok(Self { device, gpu: entry.gpu.clone() });
        }
        entries.retain(|_, entry| entry.device.strong_count() > 0);
        let gpu = match entries.values().find(|entry| entry.stream == stream) {
            Some(entry) => entry.gpu.clone(),
            None => {
                let gpu = Arc::new(Gpu::with_stream(device.cuda_stream())?);
                gpu.load_library()?;
                gpu.stage_uploads(STAGING)?;
                gpu
            }
        };
        let entry = Entry { device: Arc::downgrade(&device.cublas_handle()), stream, gpu: gpu.clone() };
        entries.insert(device.id(), entry);
        Ok(Self { device, gpu })
    }

    /// Memory whose contents mean nothing until a kernel has written them all.
    ///
    /// # Safety
    /// Nothing reads an element before it was written: the whole of it goes to an operation that overwrites it, or that
    /// takes it as a workspace.
    ///
    /// # Errors
    /// Out of memory.
    pub unsafe fn uninit<T: DeviceRepr + Copy>(&self, len: usize) -> Result<CudaSlice<T>> {
        self.room(len)
    }

    /// As [`Self::uninit`], for this crate alone, where each caller hands it to a kernel's output or workspace before it does
    /// anything else.
    pub(crate) fn room<T: DeviceRepr + Copy>(&self, len: usize) -> Result<CudaSlice<T>> {
        if len == 0 {
            // The driver has no memory of no bytes.
            return Ok(self.gpu.upload(&[])?);
        }
        // SAFETY: each caller hands the whole of it to an operation that overwrites it before anything reads it.
        Ok(unsafe { self.device.alloc::<T>(len) }?)
    }

    /// An untracked tensor without elements: what an operation over no rows gives. It is off the tape, which would ask the
    /// driver for gradients of no bytes.
    pub(crate) fn no_rows<T: CudaDType + DeviceRepr + Copy>(&self, shape: impl Into<Shape>) -> Result<Tensor> {
        Ok(self.tensor(self.room::<T>(0)?, shape))
    }

    /// Device memory as storage for [`crate::autograd::record_storage`].
    pub fn storage<T: CudaDType>(&self, slice: CudaSlice<T>) -> Storage {
        Storage::Cuda(CudaStorage::wrap_cuda_slice(slice, self.device.clone()))
    }

    /// Device memory as an untracked tensor.
    pub fn tensor<T: CudaDType>(&self, slice: CudaSlice<T>, shape: impl Into<Shape>) -> Tensor {
        Tensor::from_storage(self.storage(slice), shape, BackpropOp::none(), false)
    }
}
