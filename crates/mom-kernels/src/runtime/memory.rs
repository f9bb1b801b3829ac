//! Device memory: made, filled, copied and read on a stream.

use std::sync::{Mutex, PoisonError};

use cudarc::driver::{CudaSlice, DeviceRepr, ValidAsZeroBits};

use super::element::DeviceElement;
use super::error::{CudaError, Result};
use super::rows::{DeviceRows, DeviceRowsMut};
use super::staging::Staging;
use super::stream::Stream;
use super::view::DeviceMut;

impl Stream {
    /// Device memory of `len` elements, all zero.
    ///
    /// # Errors
    /// Out of memory.
    pub fn zeros<T: DeviceRepr + ValidAsZeroBits>(&self, len: usize) -> Result<CudaSlice<T>> {
        if len == 0 {
            return self.empty();
        }
        self.stream().alloc_zeros(len).map_err(CudaError::driver("allocating device memory"))
    }

    /// Device memory of `len` elements that hold anything.
    ///
    /// # Safety
    /// What is launched writes an element before it reads it.
    pub(crate) unsafe fn uninit<T: DeviceRepr>(&self, len: usize) -> Result<CudaSlice<T>> {
        if len == 0 {
            return self.empty();
        }
        // SAFETY: by this function's own contract.
        unsafe { self.stream().alloc(len) }.map_err(CudaError::driver("allocating device memory"))
    }

    /// Sets every byte to zero, behind what is on the stream.
    pub(crate) fn zero<T: DeviceElement>(&self, memory: &mut DeviceMut<'_, T>) -> Result<()> {
        if memory.is_empty() {
            return Ok(());
        }
        let (address, bytes) = (memory.address(self)?, memory.len() * size_of::<T>());
        self.bind()?;
        // SAFETY: that many bytes are at the address and borrowed exclusively; zeros are a value of every element type.
        unsafe { cudarc::driver::result::memset_d8_async(address, 0, bytes, self.stream().cu_stream()) }
            .map_err(CudaError::driver("zeroing device memory"))
    }

    /// Copies host memory to the device, behind what is on the stream. Large copies wait for the stream unless
    /// [`Self::stage_uploads`] was called.
    ///
    /// # Errors
    /// Out of memory; what ran on the stream before failed.
    pub fn upload<T: DeviceRepr + Copy>(&self, from: &[T]) -> Result<CudaSlice<T>> {
        if from.is_empty() {
            return self.empty();
        }
        let error = CudaError::driver("copying to the device");
        let Some(staging) = self.staging.get() else {
            return self.stream().clone_htod(from).map_err(error);
        };
        // SAFETY: `Staging::copy` fills all of it, in the order of the stream that it was allocated on.
        let mut to = unsafe { self.stream().alloc::<T>(from.len()) }.map_err(error)?;
        staging.lock().unwrap_or_else(PoisonError::into_inner).copy(from, &mut to)?;
        Ok(to)
    }

    /// Sends uploads through two buffers of page-locked memory from now on, `bytes` together: the host fills one while the
    /// device reads the other, so that it waits for the stream only where more than that is on its way. Does nothing the
    /// second time.
    ///
    /// # Errors
    /// No page-locked memory; fewer than 128 bytes.
    pub fn stage_uploads(&self, bytes: usize) -> Result<()> {
        if self.staging.get().is_none() {
            let staging = Staging::new(self.stream(), bytes)?;
            self.staging.get_or_init(|| Mutex::new(staging));
        }
        Ok(())
    }

    /// A slice without elements. The driver refuses empty allocations, so that one element lies behind it.
    fn empty<T: DeviceRepr>(&self) -> Result<CudaSlice<T>> {
        // SAFETY: nothing reads the element.
        let one = unsafe { self.stream().alloc::<T>(1) }.map_err(CudaError::driver("allocating device memory"))?;
        // SAFETY: the pointer is that of an allocation of this stream's, given up just now; 0 elements fit it, and the
        // new slice frees it as the old one would have.
        Ok(unsafe { self.stream().upgrade_device_ptr(one.leak(), 0) })
    }

    /// Copies device memory to the host, once the stream has come so far.
    ///
    /// # Errors
    /// What ran on the stream before failed.
    pub fn download<T: DeviceRepr>(&self, from: &CudaSlice<T>) -> Result<Vec<T>> {
        self.stream().clone_dtoh(from).map_err(CudaError::driver("copying to the host"))
    }

    /// Copies rows of the same width; the callers have checked that there are as many.
    pub(crate) fn copy_rows<T>(&self, from: &DeviceRows<'_, T>, to: &mut DeviceRowsMut<'_, T>) -> Result<()> {
        use cudarc::driver::result::memcpy_dtod_async;
        use cudarc::driver::sys::{CUDA_MEMCPY2D, CUmemorytype, cuMemcpy2DAsync_v2};
        to.expect("copy_rows", "to", from.n_rows(), from.width())?;
        let error = CudaError::driver("copying rows on the device");
        let stream = self.stream().cu_stream();
        let pitch = |stride: usize| stride * size_of::<T>();
        let (source, target) = (from.address(self)?, to.address(self)?);
        self.bind()?;
        if from.stride() == from.width() && to.stride() == to.width() {
            let bytes = from.n_rows() * pitch(from.width());
            return self.timed("copy_rows", || {
                // SAFETY: both are dense and have the rows that are copied, `to` is borrowed exclusively, and the views
                // keep their memory until the copy is on the stream.
                unsafe { memcpy_dtod_async(target, source, bytes, stream) }.map_err(error)
            });
        }
        let copy = CUDA_MEMCPY2D {
            srcMemoryType: CUmemorytype::CU_MEMORYTYPE_DEVICE,
            srcDevice: source,
            srcPitch: pitch(from.stride()),
            dstMemoryType: CUmemorytype::CU_MEMORYTYPE_DEVICE,
            dstDevice: target,
            dstPitch: pitch(to.stride()),
            WidthInBytes: pitch(from.width()),
            Height: from.n_rows(),
            srcXInBytes: 0,
            srcY: 0,
            srcHost: std::ptr::null(),
            srcArray: std::ptr::null_mut(),
            dstXInBytes: 0,
            dstY: 0,
            dstHost: std::ptr::null_mut(),
            dstArray: std::ptr::null_mut(),
        };
        self.timed("copy_rows", || {
            // SAFETY: both matrices have the rows and the width that are copied, `to` is borrowed exclusively, and the views
            // keep their memory until the copy is on the stream.
            unsafe { cuMemcpy2DAsync_v2(&copy, stream) }.result().map_err(error)
        })
    }
}
