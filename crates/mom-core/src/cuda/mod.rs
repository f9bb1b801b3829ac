//! Tensors on a GPU as what mom-kernels reads and writes.
//!
//! Every function here works on the stream of the tensors' device: what candle does and what our kernels do follow each
//! other without synchronisation.

mod graph;
mod grouped_linear;
mod mixer;
mod rms_norm;
mod rows;
mod step;

use std::collections::{BTreeMap, HashMap};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::cuda_backend::{CudaDType, DeviceId};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, Device, Shape, Storage, StorageRef, Tensor, WithDType};
use mom_kernels::ModalityPlan;
use mom_kernels::cuda::cudarc::driver::{CudaSlice, DeviceRepr, DriverError, sys};
use mom_kernels::cuda::{CudaError, DeviceElement, DevicePlan, DeviceRef, DeviceRows, Gpu};

use crate::{Error, Result};

pub use graph::{Captured, capture};
pub use mom_kernels::cuda::half;
pub use step::{StepHead, StepMemory};

pub(crate) use grouped_linear::grouped_linear;
pub(crate) use mixer::{Link, chain, initial_state, mixer, mixer_from};
pub(crate) use rms_norm::rms_norm;
pub(crate) use rows::move_rows;

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
            candle_core::DType::BF16 => {
                type $t = $crate::cuda::half::bf16;
                $call
            }
            candle_core::DType::F16 => {
                type $t = $crate::cuda::half::f16;
                $call
            }
            candle_core::DType::F32 => {
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

/// Oldest CUDA version of a driver that compiles the kernels' PTX.
const DRIVER: (i32, i32) = (13, 0);

pub(crate) fn device(ordinal: usize) -> Result<Device> {
    static DEVICES: Mutex<BTreeMap<usize, Device>> = Mutex::new(BTreeMap::new());
    let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(device) = devices.get(&ordinal) {
        return Ok(device.clone());
    }
    let mut version = 0;
    // SAFETY: the driver writes one int. Where it cannot tell, what follows says why.
    unsafe { sys::cuDriverGetVersion(&mut version) };
    expect_driver(version)?;
    let device = Device::new_cuda_with_stream(ordinal)?;
    let cuda = device.as_cuda_device()?;
    // SAFETY: events order accesses between streams; every access to this device's tensors is on its own stream, and
    // nothing here hands them to another. Without them a step can be captured as a graph.
    unsafe { cuda.disable_event_tracking() };
    keep_freed_memory(ordinal)?;
    OnGpu::of(&device)?;
    devices.insert(ordinal, device.clone());
    Ok(device)
}

/// Fails for a driver, by its version of CUDA as 1000 major + 10 minor, that does not compile the kernels.
fn expect_driver(version: i32) -> Result<()> {
    let got = (version / 1000, version % 1000 / 10);
    if version == 0 || got >= DRIVER { Ok(()) } else { Err(Error::Driver { needed: DRIVER, got }) }
}

/// Name of a GPU, as its driver has it.
///
/// # Errors
/// As [`crate::cuda_device`].
pub fn name(ordinal: usize) -> Result<String> {
    let device = device(ordinal)?;
    let stream = device.as_cuda_device()?.cuda_stream();
    Ok(stream.context().name().map_err(driver_error("reading the device's name"))?)
}

/// Memory that is freed stays in the driver's pool: by default it goes back at each synchronisation, and taking it again
/// costs more than a kernel.
fn keep_freed_memory(ordinal: usize) -> Result<()> {
    let mut threshold = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: this attribute is a u64.
    unsafe { sys::cuMemPoolSetAttribute(pool(ordinal)?, attribute, (&raw mut threshold).cast()) }
        .result()
        .map_err(driver_error("setting the memory pool's threshold"))?;
    Ok(())
}

/// The pool that a device's memory comes from.
fn pool(ordinal: usize) -> Result<sys::CUmemoryPool> {
    let mut pool = std::ptr::null_mut();
    // SAFETY: the driver writes one handle, or says that there is no such device.
    unsafe { sys::cuDeviceGetDefaultMemPool(&mut pool, ordinal as i32) }
        .result()
        .map_err(driver_error("asking for the memory pool"))?;
    Ok(pool)
}

fn driver_error(what: &'static str) -> impl FnOnce(DriverError) -> CudaError {
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

impl OnGpu {
    /// The GPU of a device; the same one for all of its tensors.
    ///
    /// # Errors
    /// Not a GPU, or one that the kernels do not run on.
    pub fn of(device: &Device) -> Result<Self> {
        static GPUS: OnceLock<Mutex<HashMap<DeviceId, Arc<Gpu>>>> = OnceLock::new();
        let device = device.as_cuda_device()?.clone();
        let mut gpus = GPUS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gpu) = gpus.get(&device.id()) {
            return Ok(Self { device, gpu: gpu.clone() });
        }
        let gpu = Arc::new(Gpu::with_stream(device.cuda_stream())?);
        gpu.load_library()?;
        gpu.stage_uploads(STAGING)?;
        gpus.insert(device.id(), gpu.clone());
        Ok(Self { device, gpu })
    }

    /// Memory whose contents mean nothing until a kernel has written them all.
    pub fn uninit<T: DeviceRepr>(&self, len: usize) -> Result<CudaSlice<T>> {
        // SAFETY: each caller hands the whole of it to an operation that overwrites it before anything reads it.
        Ok(unsafe { self.device.alloc::<T>(len.max(1)) }?)
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

/// A contiguous tensor on a GPU, readable by kernels for as long as this lives.
pub struct OnDevice<'a, T> {
    guard: StorageRef<'a>,
    start: usize,
    len: usize,
    element: PhantomData<T>,
}

impl<'a, T: CudaDType + WithDType> OnDevice<'a, T> {
    /// Reads `tensor`, which must be contiguous.
    ///
    /// # Errors
    /// Another element type than T, another kind of device, gaps between the elements.
    pub fn of(op: &'static str, arg: &'static str, tensor: &'a Tensor) -> Result<Self> {
        if tensor.dtype() != T::DTYPE {
            return Err(Error::DType { op, arg, expected: T::DTYPE.as_str(), got: tensor.dtype() });
        }
        let (guard, layout) = tensor.storage_and_layout();
        if !matches!(&*guard, Storage::Cuda(_)) {
            let got = format!("{:?}", tensor.device());
            return Err(Error::Device { op, arg, expected: "the GPU of the others", got });
        }
        let Some((start, end)) = layout.contiguous_offsets() else {
            return Err(Error::Candle(candle_core::Error::RequiresContiguous { op }));
        };
        Ok(Self { guard, start, len: end - start, element: PhantomData })
    }

    /// The elements.
    ///
    /// # Errors
    /// None after [`Self::of`].
    pub fn view<'b>(&'b self, gpu: &'b Gpu) -> Result<DeviceRef<'b, T>> {
        self.narrow(gpu, 0, self.len)
    }

    /// The elements `start..start + len`.
    ///
    /// # Errors
    /// There are fewer.
    pub fn narrow<'b>(&'b self, gpu: &'b Gpu, start: usize, len: usize) -> Result<DeviceRef<'b, T>> {
        let Storage::Cuda(storage) = &*self.guard else {
            return Err(Error::Device { op: "device", arg: "tensor", expected: "a GPU", got: "the host".to_owned() });
        };
        if start + len > self.len {
            let (max, got) = (self.len, start + len);
            return Err(mom_kernels::Error::Limit { op: "device", arg: "end", min: 0, max, got }.into());
        }
        let first = self.start + start;
        Ok(gpu.read_view(storage.as_cuda_slice::<T>()?.slice(first..first + len)))
    }

    /// The elements as rows.
    ///
    /// # Errors
    /// A length that is no multiple of the width.
    pub fn rows<'b>(&'b self, gpu: &'b Gpu, width: usize) -> Result<DeviceRows<'b, T>> {
        Ok(DeviceRows::new("rows", self.view(gpu)?, width).map_err(CudaError::from)?)
    }
}

/// A plan and the device that it is on.
#[derive(Debug)]
pub(crate) struct PlanOnDevice {
    plan: DevicePlan,
    device: DeviceId,
    gpu: Arc<Gpu>,
}

impl PlanOnDevice {
    pub fn upload(on: &OnGpu, plan: &ModalityPlan) -> Result<Self> {
        Ok(Self { plan: DevicePlan::upload(&on.gpu, plan)?, device: on.device.id(), gpu: on.gpu.clone() })
    }

    pub fn for_any_counts(self) -> Self {
        Self { plan: self.plan.for_any_counts(), ..self }
    }

    pub fn copy_from(&mut self, other: &Self) -> Result<()> {
        if self.device != other.device {
            let (expected, got) = ("the GPU of the other plan", format!("{:?}", self.device));
            return Err(Error::Device { op: "plan", arg: "device", expected, got });
        }
        Ok(self.plan.copy_from(&self.gpu, &other.plan)?)
    }

    pub fn on(&self, on: &OnGpu) -> Result<&DevicePlan> {
        if self.device == on.device.id() {
            return Ok(&self.plan);
        }
        let (expected, got) = ("the GPU that the plan was used on before", format!("{:?}", on.device.id()));
        Err(Error::Device { op: "plan", arg: "device", expected, got })
    }
}

/// Device memory of this process that the pool has handed out, and that captured graphs hold: now, and at most since
/// [`reset_peak_memory`] (the highest of either, which need not have been at one time). In bytes.
///
/// # Errors
/// No such GPU.
pub fn memory(ordinal: usize) -> Result<(u64, u64)> {
    use sys::CUgraphMem_attribute::{CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT, CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH};
    use sys::CUmemPool_attribute::{CU_MEMPOOL_ATTR_USED_MEM_CURRENT, CU_MEMPOOL_ATTR_USED_MEM_HIGH};
    let read = |of_pool, of_graphs| {
        let (mut pooled, mut reserved) = (0u64, 0u64);
        // SAFETY: these attributes are u64.
        unsafe { sys::cuMemPoolGetAttribute(pool(ordinal)?, of_pool, (&raw mut pooled).cast()) }
            .result()
            .map_err(driver_error("reading the memory pool"))?;
        // SAFETY: as above.
        unsafe { sys::cuDeviceGetGraphMemAttribute(ordinal as i32, of_graphs, (&raw mut reserved).cast()) }
            .result()
            .map_err(driver_error("reading the memory of graphs"))?;
        Ok::<_, Error>(pooled + reserved)
    };
    Ok((
        read(CU_MEMPOOL_ATTR_USED_MEM_CURRENT, CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT)?,
        read(CU_MEMPOOL_ATTR_USED_MEM_HIGH, CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH)?,
    ))
}

/// Starts a new measurement of [`memory`]'s peak.
///
/// # Errors
/// No such GPU.
pub fn reset_peak_memory(ordinal: usize) -> Result<()> {
    let mut zero = 0u64;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
    // SAFETY: this attribute is a u64, which may be set to zero alone.
    unsafe { sys::cuMemPoolSetAttribute(pool(ordinal)?, attribute, (&raw mut zero).cast()) }
        .result()
        .map_err(driver_error("resetting the memory pool's peak"))?;
    let attribute = sys::CUgraphMem_attribute::CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH;
    // SAFETY: as above.
    unsafe { sys::cuDeviceSetGraphMemAttribute(ordinal as i32, attribute, (&raw mut zero).cast()) }
        .result()
        .map_err(driver_error("resetting the peak of graphs"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_is_too_old_is_told_what_is_needed() {
        let message = expect_driver(12_080).unwrap_err().to_string();
        assert!(message.contains("CUDA 12.8") && message.contains("13.0"), "{message}");
        for fits in [0, 13_000, 13_010, 14_000] {
            expect_driver(fits).unwrap();
        }
    }
}
