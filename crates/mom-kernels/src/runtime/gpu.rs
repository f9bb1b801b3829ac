//! A stream of a card with the kernels loaded into it.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cudarc::driver::{CudaContext, CudaStream};

use super::card::Card;
use super::cublaslt::Library;
use super::driver::expect_driver;
use super::error::{CudaError, Result};
use super::loaded::{Function, Loaded};
use super::module::{Kernel, Module};
use super::stream::Stream;

/// A stream of a device with the kernels. Cheap to clone into an `Arc`; `Send` and `Sync`.
///
/// What concerns the stream alone (views, copies, profiles) are methods of [`Stream`], which it derefs to.
#[derive(Debug)]
pub struct Gpu {
    stream: Stream,
    card: Card,
    /// Multiprocessors that are left to others.
    left_free: AtomicU32,
    loaded: Mutex<Kernels>,
    library: OnceLock<Library>,
}

/// Modules and kernels that were loaded, by their name.
#[derive(Debug, Clone, Default)]
struct Kernels {
    modules: HashMap<&'static str, Arc<Loaded>>,
    functions: HashMap<&'static str, Function>,
}

/// Multiprocessors that a [`Gpu`] leaves to others.
#[derive(Debug)]
pub struct LeftFree {
    gpu: Arc<Gpu>,
    n_multiprocessors: u32,
}

impl Drop for LeftFree {
    fn drop(&mut self) {
        self.gpu.left_free.fetch_sub(self.n_multiprocessors, Ordering::Relaxed);
    }
}

impl Deref for Gpu {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        &self.stream
    }
}

impl Gpu {
    /// The default stream of device `ordinal`.
    ///
    /// # Errors
    /// No driver, or one older than CUDA 12.4 (550); no such device, a device older than compute capability 8.0.
    pub fn new(ordinal: usize) -> Result<Self> {
        expect_driver()?;
        let context = CudaContext::new(ordinal).map_err(|source| CudaError::NoDevice { ordinal, source })?;
        Self::with_stream(context.default_stream())
    }

    /// A stream that exists already, for example that of another library.
    ///
    /// # Errors
    /// A driver older than CUDA 12.4, a device older than compute capability 8.0.
    pub fn with_stream(stream: Arc<CudaStream>) -> Result<Self> {
        expect_driver()?;
        let card = Card::of(stream.context())?;
        Ok(Self {
            stream: Stream::new(stream),
            card,
            left_free: AtomicU32::new(0),
            loaded: Mutex::default(),
            library: OnceLock::new(),
        })
    }

    /// The same with the kernels alone that run on every card, where there are others for this one: to compare or test.
    pub fn portable(self) -> Self {
        Self { card: Card { portable: true, ..self.card }, ..self }
    }

    /// The same with the kernels that a card of this compute capability would take (8.0, 8.6, 8.7, 8.9, 9.0, 10.0, 10.3 or
    /// 12.0): to test on one card what others run. A kernel that is for one compute capability alone is not taken unless
    /// this card has it.
    ///
    /// # Errors
    /// Another compute capability.
    pub fn pretending(self, capability: (i32, i32)) -> Result<Self> {
        let Some(card) = Card::known(capability, self.card.n_multiprocessors) else {
            return Err(CudaError::UnknownCapability { capability });
        };
        let portable = self.card.portable || capability != self.card.capability;
        Ok(Self { card: Card { portable, ..card }, ..self })
    }

    /// The same device with a stream of its own, and the kernels that are loaded by now: what is captured there is not
    /// met by what other threads launch.
    ///
    /// # Errors
    /// The driver has no further stream.
    pub fn beside(&self) -> Result<Self> {
        let stream = self.stream().context().new_stream().map_err(CudaError::driver("making a stream"))?;
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let left_free = AtomicU32::new(self.left_free.load(Ordering::Relaxed));
        Ok(Self { loaded: Mutex::new(loaded), card: self.card, left_free, ..Self::with_stream(stream)? })
    }

    /// Leaves so many multiprocessors to what other streams launch for as long as the result lives, such as sums over several devices:
    /// kernels whose blocks stay, one on each multiprocessor, take the others. With blocks for all of them, those that found theirs
    /// taken would begin when the first ones are through, and the kernel would take twice its time. At least one stays theirs. The
    /// last bits of sums that such a kernel makes by blocks depend on it: of the gradient of a norm's weight.
    pub fn leave_free(self: &Arc<Self>, n_multiprocessors: u32) -> LeftFree {
        self.left_free.fetch_add(n_multiprocessors, Ordering::Relaxed);
        LeftFree { gpu: self.clone(), n_multiprocessors }
    }

    /// Multiprocessors of the device, less those that are [left free](Self::leave_free).
    pub fn n_multiprocessors(&self) -> u32 {
        self.card.n_multiprocessors.saturating_sub(self.left_free.load(Ordering::Relaxed)).max(1)
    }

    /// Compute capability of the device, or of the one that it is [`Self::pretending`] to be.
    pub fn compute_capability(&self) -> (i32, i32) {
        self.card.capability
    }

    /// What kernels are chosen by.
    pub(crate) fn card(&self) -> &Card {
        &self.card
    }

    /// Loads modules now, rather than at their first use: a graph capture must not begin before. Modules that are not for
    /// this device, or not part of this build, are passed over.
    ///
    /// # Errors
    /// The driver refuses a module.
    pub fn preload<'m>(&self, modules: impl IntoIterator<Item = &'m Module>) -> Result<()> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        for module in modules {
            let Some(at) = Module::ALL.iter().position(|of| of == module) else { continue };
            if module.image().is_some() && module.runs_on(self.card.capability) {
                loaded.module(&Module::ALL[at], &self.stream)?;
            }
        }
        Ok(())
    }

    /// Loads cuBLASLt for [`matmul`](crate::cuda::library::matmul) and for the products that
    /// [`grouped_gemm`](crate::cuda::grouped_gemm) leaves to it, with 12 MiB of device memory. Does nothing the second time.
    ///
    /// # Errors
    /// No such library on this machine, or it does not start; out of memory.
    pub fn load_library(&self) -> Result<&Library> {
        if let Some(library) = self.library.get() {
            return Ok(library);
        }
        let library = Library::new(&self.stream)?;
        Ok(self.library.get_or_init(|| library))
    }

    /// cuBLASLt, where it was loaded.
    pub fn library(&self) -> Option<&Library> {
        self.library.get()
    }

    /// A kernel, loaded at its first use.
    pub(super) fn function(&self, name: &str) -> Result<Function> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = loaded.functions.get(name) {
            return Ok(function.clone());
        }
        let kernel = Kernel::named(name).ok_or_else(|| CudaError::NoKernel { kernel: name.to_owned() })?;
        let function = loaded.module(kernel.module(), &self.stream)?.function(kernel)?;
        loaded.functions.insert(kernel.name, function.clone());
        Ok(function)
    }
}

impl Kernels {
    fn module(&mut self, module: &'static Module, stream: &Stream) -> Result<&Arc<Loaded>> {
        if !self.modules.contains_key(module.name()) {
            self.modules.insert(module.name(), Arc::new(Loaded::new(module, stream.stream().context())?));
        }
        Ok(&self.modules[module.name()])
    }
}
