//! The GPUs of this machine, and their memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use candle_core::Device;
use mom_kernels::cuda::cudarc::driver::sys;
use mom_kernels::cuda::expect_driver;

use super::on_gpu::{OnGpu, driver_error};
use crate::{Error, Result};

pub(crate) fn device(ordinal: usize) -> Result<Device> {
    static DEVICES: Mutex<BTreeMap<usize, Device>> = Mutex::new(BTreeMap::new());
    let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(device) = devices.get(&ordinal) {
        return Ok(device.clone());
    }
    expect_driver()?;
    let device = Device::new_cuda_with_stream(ordinal)?;
    let cuda = device.as_cuda_device()?;
    // SAFETY: events order accesses between streams; every access to this device's tensors is on its own stream, or on one whose
    // user orders the two (of this workspace: mom-train's ranks, `optim/sharded/device/side`). Without them a step can be captured
    // as a graph.
    unsafe { cuda.disable_event_tracking() };
    keep_freed_memory(ordinal)?;
    OnGpu::of(&device)?;
    devices.insert(ordinal, device.clone());
    Ok(device)
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
