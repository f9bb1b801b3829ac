//! Modules in a context, and their kernels ready to be launched.

use std::ffi::CString;
use std::sync::Arc;

use cudarc::driver::sys::{CUfunction, CUfunction_attribute as Attribute, CUmodule};
use cudarc::driver::{CudaContext, result};

use super::driver::driver_version;
use super::error::{CudaError, Result};
use super::module::{Kernel, Module};

/// A module in a context, until the last of its kernels is dropped.
#[derive(Debug)]
pub(super) struct Loaded {
    module: CUmodule,
    context: Arc<CudaContext>,
}

// SAFETY: modules may be used from any thread, and from several at once.
unsafe impl Send for Loaded {}
// SAFETY: as above.
unsafe impl Sync for Loaded {}

impl Loaded {
    /// Loads a module: machine code where there is some for the card, else the driver compiles its PTX, which it keeps for
    /// the next time.
    pub fn new(module: &'static Module, context: &Arc<CudaContext>) -> Result<Self> {
        let name = module.name;
        let image = module.image.ok_or(CudaError::Feature { module: name, feature: "f16" })?;
        context.bind_to_thread().map_err(CudaError::driver("making the device current"))?;
        // SAFETY: a fat binary, which says its own length, on 16 bytes.
        let loaded = unsafe { result::module::load_data(image.as_ptr().cast()) };
        let loaded = loaded.map_err(|source| CudaError::Module { module: name, driver: driver_version(), source })?;
        Ok(Self { module: loaded, context: context.clone() })
    }

    /// A kernel of it, set up for its shared memory.
    pub fn function(self: &Arc<Self>, kernel: &Kernel) -> Result<Function> {
        let error = |source| CudaError::Kernel { kernel: kernel.name.to_owned(), source };
        let name = CString::new(kernel.name).unwrap_or_default();
        // SAFETY: the module is live, and its context current or shared by all of the device.
        let function = unsafe { result::module::get_function(self.module, name) }.map_err(error)?;
        if kernel.dynamic_shared > 0 {
            let limit = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let carveout = Attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
            for (attribute, value) in [(limit, kernel.dynamic_shared as i32), (carveout, 100)] {
                // SAFETY: the function is live.
                unsafe { result::function::set_function_attribute(function, attribute, value) }.map_err(error)?;
            }
        }
        Ok(Function { function, shared_bytes: kernel.dynamic_shared, _module: self.clone() })
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        // What the driver answers helps nobody.
        let _ = self.context.bind_to_thread();
        // SAFETY: loaded by `new`, unloaded once; no kernel of it is left.
        let _ = unsafe { result::module::unload(self.module) };
    }
}

/// A kernel that can be launched.
#[derive(Debug, Clone)]
pub(super) struct Function {
    pub function: CUfunction,
    pub shared_bytes: u32,
    _module: Arc<Loaded>,
}

// SAFETY: functions may be launched from any thread, and from several at once.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}
