//! Modules of kernels: fat binaries inside of the crate, and what each kernel in them needs.

use std::ffi::CString;
use std::sync::Arc;

use cudarc::driver::sys::{CUfunction, CUfunction_attribute as Attribute, CUmodule};
use cudarc::driver::{CudaContext, result};

use super::error::{CudaError, Result};
use super::table::{KERNELS, MODULES};

/// Bytes that begin where the driver reads them as words.
#[repr(C, align(16))]
pub(super) struct Aligned<T: ?Sized>(pub T);

/// The fat binary of a module, where it is part of this build.
macro_rules! image {
    (any, $name:literal) => {{
        static BYTES: &$crate::cuda::runtime::module::Aligned<[u8]> =
            &$crate::cuda::runtime::module::Aligned(*include_bytes!(concat!("../../../kernels/", $name, ".fatbin")));
        Some(&BYTES.0)
    }};
    (f16, $name:literal) => {{
        #[cfg(feature = "f16")]
        let image = image!(any, $name);
        #[cfg(not(feature = "f16"))]
        let image = None;
        image
    }};
}
pub(super) use image;

/// A module: the kernels of one operation for one element type, or those for all. Machine code for cards of compute
/// capability 8.x, 9.0, 10.0 and 12.0, and PTX that the driver compiles for others.
#[derive(Debug, PartialEq, Eq)]
pub struct Module {
    pub(super) name: &'static str,
    pub(super) image: Option<&'static [u8]>,
    pub(super) sm90: bool,
}

impl Module {
    /// Every module, by name; those of f16 too, which are empty without the feature `f16`.
    pub const ALL: &'static [Self] = MODULES;

    /// Modules of an operation: `causal_conv1d`, say, has one for each element type and one for all.
    pub fn of(operation: &str) -> impl Iterator<Item = &'static Self> {
        Self::ALL.iter().filter(move |module| {
            let rest = module.name.strip_prefix(operation);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        })
    }

    /// Its name, which is that of its file.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The fat binary: `None` for f16 without the feature `f16`.
    pub fn image(&self) -> Option<&'static [u8]> {
        self.image
    }

    /// Whether its kernels are for compute capability 9.0 alone.
    pub fn is_sm90(&self) -> bool {
        self.sm90
    }

    /// Whether a card of this compute capability takes it.
    pub fn runs_on(&self, capability: (i32, i32)) -> bool {
        !self.sm90 || capability == (9, 0)
    }
}

/// A kernel, as its PTX declares it and its assembler reports it.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub name: &'static str,
    /// Place of its module in [`Module::ALL`].
    pub module: usize,
    /// Most threads of a block.
    pub threads: u32,
    /// Bytes of shared memory that a launch gives it.
    pub dynamic_shared: u32,
    /// Bytes of shared memory that it has beside them.
    pub static_shared: u32,
    /// Registers of a thread, on the card where it takes most.
    pub registers: u32,
}

impl Kernel {
    pub fn named(name: &str) -> Option<&'static Self> {
        KERNELS.binary_search_by(|kernel| kernel.name.cmp(name)).ok().map(|at| &KERNELS[at])
    }

    /// The module that it is in.
    pub fn module(&self) -> &'static Module {
        &MODULES[self.module]
    }
}

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

/// Highest CUDA version that the driver takes, 1000 major + 10 minor; 0 where it does not tell.
pub(super) fn driver_version() -> i32 {
    let mut version = 0;
    // SAFETY: the driver writes one int.
    unsafe { cudarc::driver::sys::cuDriverGetVersion(&mut version) };
    version
}

#[cfg(test)]
mod tests {
    use super::super::card::Card;
    use super::*;

    #[test]
    fn the_table_is_sorted_and_every_kernel_runs_on_some_card() {
        assert!(KERNELS.is_sorted_by(|a, b| a.name < b.name) && MODULES.is_sorted_by(|a, b| a.name < b.name));
        let cards: Vec<_> = Card::capabilities().filter_map(|of| Card::known(of, 100)).collect();
        for kernel in KERNELS {
            assert!(cards.iter().any(|card| card.fits(kernel)), "{} fits no card", kernel.name);
            assert!(kernel.threads > 0 && kernel.registers > 0, "{kernel:?}");
            assert!(std::ptr::eq(kernel, Kernel::named(kernel.name).unwrap()));
        }
    }

    #[test]
    fn a_fat_binary_of_every_module_is_there() {
        /// First word of a fat binary.
        const MAGIC: [u8; 4] = [0x50, 0xed, 0x55, 0xba];
        for module in MODULES {
            let is_f16 = module.name.ends_with("_f16");
            assert_eq!(module.image.is_some(), cfg!(feature = "f16") || !is_f16, "{}", module.name);
            if let Some(image) = module.image {
                assert!(image.starts_with(&MAGIC) && image.as_ptr().addr().is_multiple_of(16), "{}", module.name);
            }
        }
        let names: Vec<_> = Module::of("rms_norm").map(Module::name).collect();
        assert_eq!(names, ["rms_norm", "rms_norm_bf16", "rms_norm_f16", "rms_norm_f32"]);
    }
}
