//! One stream of one device, and the kernels loaded into it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cudarc::driver::sys::{CUdevice_attribute, CUfunction_attribute};
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DeviceRepr, ValidAsZeroBits};
use cudarc::nvrtc::Ptx;

use super::error::{CudaError, Result};
use super::library::Library;
use super::memory::{DeviceElement, DeviceMut, expect_own_views};
use super::profile::{Profiling, Timed};
use super::ptx::Module;
use super::staging::Staging;

/// Oldest compute capability that the kernels run on.
const CAPABILITY: (i32, i32) = (8, 0);

/// A stream of a device with the kernels. Cheap to clone into an `Arc`; `Send` and `Sync`.
#[derive(Debug)]
pub struct Gpu {
    stream: Arc<CudaStream>,
    n_multiprocessors: u32,
    portable: bool,
    modules: Mutex<HashMap<Module, Arc<CudaModule>>>,
    functions: Mutex<HashMap<String, (CudaFunction, u32)>>,
    pub(super) profiling: Profiling,
    pub(super) profile: Mutex<Vec<Timed>>,
    library: OnceLock<Library>,
    staging: OnceLock<Mutex<Staging>>,
}

impl Gpu {
    /// The default stream of device `ordinal`.
    ///
    /// # Errors
    /// No driver, no such device, a device older than compute capability 8.0.
    pub fn new(ordinal: usize) -> Result<Self> {
        driver_present()?;
        let context = CudaContext::new(ordinal).map_err(|source| CudaError::NoDevice { ordinal, source })?;
        Self::with_stream(context.default_stream())
    }

    /// A stream that exists already, for example that of another library.
    ///
    /// # Errors
    /// A device older than compute capability 8.0.
    pub fn with_stream(stream: Arc<CudaStream>) -> Result<Self> {
        let context = stream.context();
        let got = context.compute_capability().map_err(CudaError::driver("reading the compute capability"))?;
        expect_capability(got, || context.name().map_err(CudaError::driver("reading the device's name")))?;
        let attribute = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let n = context.attribute(attribute).map_err(CudaError::driver("counting multiprocessors"))?;
        Ok(Self {
            stream,
            n_multiprocessors: n.max(1) as u32,
            portable: false,
            modules: Mutex::default(),
            functions: Mutex::default(),
            profiling: Profiling::default(),
            profile: Mutex::default(),
            library: OnceLock::new(),
            staging: OnceLock::new(),
        })
    }

    /// The same with the kernels alone that run on every card, where there are others for this one: to compare or test.
    pub fn portable(self) -> Self {
        Self { portable: true, ..self }
    }

    /// The same device with a stream of its own, and the kernels that are loaded by now: what is captured there is not
    /// met by what other threads launch.
    ///
    /// # Errors
    /// The driver has no further stream.
    pub fn beside(&self) -> Result<Self> {
        let stream = self.stream.context().new_stream().map_err(CudaError::driver("making a stream"))?;
        let modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Self {
            modules: Mutex::new(modules),
            functions: Mutex::new(functions),
            portable: self.portable,
            ..Self::with_stream(stream)?
        })
    }

    /// Whether a module may be used.
    pub(super) fn takes(&self, module: Module) -> Result<bool> {
        Ok(!self.portable && module.runs_on(self.compute_capability()?))
    }

    /// The stream.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Index of the device.
    pub fn ordinal(&self) -> usize {
        self.stream.context().ordinal()
    }

    /// Multiprocessors of the device.
    pub fn n_multiprocessors(&self) -> u32 {
        self.n_multiprocessors
    }

    /// Compute capability of the device.
    ///
    /// # Errors
    /// The driver's.
    pub fn compute_capability(&self) -> Result<(i32, i32)> {
        self.stream.context().compute_capability().map_err(CudaError::driver("reading the compute capability"))
    }

    /// Shared memory that a block may have, in bytes.
    pub(super) fn max_shared_bytes(&self) -> Result<usize> {
        let attribute = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        let bytes = self.stream.context().attribute(attribute);
        Ok(bytes.map_err(CudaError::driver("reading the size of shared memory"))?.max(0) as usize)
    }

    /// Loads modules now, rather than at their first use: compiling PTX takes the driver a second or so for each, once on
    /// a machine, and a graph capture must not begin before. Modules that are not for this device are passed over.
    ///
    /// # Errors
    /// The driver refuses a module.
    pub fn preload(&self, modules: &[Module]) -> Result<()> {
        let capability = self.compute_capability()?;
        modules.iter().filter(|module| module.runs_on(capability)).try_for_each(|&module| self.module(module).map(drop))
    }

    /// Loads cuBLASLt for [`super::library::matmul`] and for the products that [`super::grouped_gemm`] leaves to it, with
    /// 12 MiB of device memory. Does nothing the second time.
    ///
    /// # Errors
    /// No such library on this machine, or it does not start; out of memory.
    pub fn load_library(&self) -> Result<&Library> {
        if let Some(library) = self.library.get() {
            return Ok(library);
        }
        let library = Library::new(self)?;
        Ok(self.library.get_or_init(|| library))
    }

    /// cuBLASLt, where it was loaded.
    pub fn library(&self) -> Option<&Library> {
        self.library.get()
    }

    /// Makes the device current on this thread, for calls that go past cudarc.
    pub(super) fn bind(&self) -> Result<()> {
        self.stream.context().bind_to_thread().map_err(CudaError::driver("making the device current"))
    }

    /// Device memory of `len` elements, all zero.
    ///
    /// # Errors
    /// Out of memory.
    pub fn zeros<T: DeviceRepr + ValidAsZeroBits>(&self, len: usize) -> Result<CudaSlice<T>> {
        if len == 0 {
            return self.empty();
        }
        self.stream.alloc_zeros(len).map_err(CudaError::driver("allocating device memory"))
    }

    /// Sets every byte to zero, behind what is on the stream.
    pub(super) fn zero<T: DeviceElement>(&self, memory: &mut DeviceMut<'_, T>) -> Result<()> {
        if memory.is_empty() {
            return Ok(());
        }
        let (address, bytes) = (memory.address(self), memory.len() * size_of::<T>());
        expect_own_views()?;
        // SAFETY: that many bytes are at the address and borrowed exclusively; zeros are a value of every element type.
        unsafe { cudarc::driver::result::memset_d8_async(address, 0, bytes, self.stream.cu_stream()) }
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
            return self.stream.clone_htod(from).map_err(error);
        };
        // SAFETY: `Staging::copy` fills all of it, in the order of the stream that it was allocated on.
        let mut to = unsafe { self.stream.alloc::<T>(from.len()) }.map_err(error)?;
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
            let staging = Staging::new(&self.stream, bytes)?;
            self.staging.get_or_init(|| Mutex::new(staging));
        }
        Ok(())
    }

    /// A slice without elements. The driver refuses empty allocations, so that one element lies behind it.
    fn empty<T: DeviceRepr>(&self) -> Result<CudaSlice<T>> {
        // SAFETY: nothing reads the element.
        let one = unsafe { self.stream.alloc::<T>(1) }.map_err(CudaError::driver("allocating device memory"))?;
        // SAFETY: the pointer is that of an allocation of this stream's, given up just now; 0 elements fit it, and the
        // new slice frees it as the old one would have.
        Ok(unsafe { self.stream.upgrade_device_ptr(one.leak(), 0) })
    }

    /// Copies device memory to the host, once the stream has come so far.
    ///
    /// # Errors
    /// What ran on the stream before failed.
    pub fn download<T: DeviceRepr>(&self, from: &CudaSlice<T>) -> Result<Vec<T>> {
        self.stream.clone_dtoh(from).map_err(CudaError::driver("copying to the host"))
    }

    fn module(&self, module: Module) -> Result<Arc<CudaModule>> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = modules.get(&module) {
            return Ok(loaded.clone());
        }
        let loaded = self.stream.context().load_module(Ptx::from_src(module.ptx())).map_err(|source| {
            let driver = driver_version();
            let (ptx_isa, target) = (module.directive(".version"), module.directive(".target"));
            CudaError::Module { module: module.name(), ptx_isa, target, driver, source }
        })?;
        modules.insert(module, loaded.clone());
        Ok(loaded)
    }

    /// A kernel and its dynamic shared memory in bytes.
    pub(super) fn function(&self, module: Module, kernel: &str) -> Result<(CudaFunction, u32)> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(kernel) {
            return Ok(function.clone());
        }
        let loaded = self.module(module)?;
        let error = |source| CudaError::Kernel { kernel: kernel.to_owned(), source };
        let function = loaded.load_function(kernel).map_err(error)?;
        let shared_bytes = module.shared_bytes(kernel);
        if shared_bytes > 0 {
            let limit = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(limit, shared_bytes as i32).map_err(error)?;
            let carveout = CUfunction_attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
            function.set_attribute(carveout, 100).map_err(error)?;
        }
        functions.insert(kernel.to_owned(), (function.clone(), shared_bytes));
        Ok((function, shared_bytes))
    }
}

/// Fails for a device that the kernels are not written for; below 8.0 a card has no bf16 either.
fn expect_capability(got: (i32, i32), name: impl FnOnce() -> Result<String>) -> Result<()> {
    if got >= CAPABILITY { Ok(()) } else { Err(CudaError::Capability { name: name()?, needed: CAPABILITY, got }) }
}

fn driver_version() -> i32 {
    let mut version = 0;
    // SAFETY: the driver writes one int.
    unsafe { cudarc::driver::sys::cuDriverGetVersion(&mut version) };
    version
}

/// cudarc panics where it cannot load the driver; this is asked first.
fn driver_present() -> Result<()> {
    let (names, tried): (&[&str], _) = if cfg!(windows) {
        (&["nvcuda.dll"], "nvcuda.dll")
    } else {
        (&["libcuda.so.1", "libcuda.so"], "libcuda.so.1, libcuda.so")
    };
    // SAFETY: the driver's initialisers are meant to run in any process.
    let found = names.iter().any(|name| unsafe { libloading::Library::new(*name) }.is_ok());
    if found { Ok(()) } else { Err(CudaError::NoDriver { tried }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_without_bf16_is_told_what_is_needed() {
        let message = expect_capability((7, 5), || Ok("Tesla T4".to_owned())).unwrap_err().to_string();
        assert!(message.contains("Tesla T4") && message.contains("7.5") && message.contains("8.0"), "{message}");
        for fits in [(8, 0), (8, 9), (9, 0), (12, 0)] {
            expect_capability(fits, || unreachable!()).unwrap();
        }
    }
}
