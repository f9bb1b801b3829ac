//! What can go wrong between a call and its launch.

use cudarc::cublaslt::result::CublasError;
use cudarc::driver::DriverError;

/// Result of an operation on the GPU.
pub type Result<T> = std::result::Result<T, CudaError>;

/// Why an operation was not launched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// The arguments do not fit; nothing was launched.
    #[error(transparent)]
    Argument(#[from] crate::Error),
    /// A view of device memory was passed to a [`Gpu`](super::Gpu) of another stream than that of the one that made it.
    #[error(
        "a view made by one Gpu (device {made_on}) was passed to another (device {passed_to}), whose stream does not \
         wait for the first one's: expected views made by the Gpu that launches"
    )]
    ForeignView {
        /// Device of the `Gpu` that made the view.
        made_on: usize,
        /// Device of the `Gpu` that was to launch.
        passed_to: usize,
    },
    /// The writable one of two views of [`in_place`](super::DeviceRowsMut::in_place) was passed to an operation that does
    /// not write in place.
    #[error(
        "rows that are read too (DeviceRowsMut::in_place) cannot be written here: expected memory that nothing reads"
    )]
    InPlaceView,
    /// This machine has no NVIDIA driver library.
    #[error("no NVIDIA driver: none of {tried} could be loaded; the CPU functions of this crate need none")]
    NoDriver {
        /// Names of the library that were tried.
        tried: &'static str,
    },
    /// The driver has no such device.
    #[error("GPU {ordinal} cannot be used: {source}")]
    NoDevice {
        /// Index of the device that was asked for.
        ordinal: usize,
        /// The driver's answer.
        source: DriverError,
    },
    /// The device is older than what the kernels are written for.
    #[error("GPU {name} has compute capability {}.{}, the kernels need {}.{}", got.0, got.1, needed.0, needed.1)]
    Capability {
        /// Name of the device.
        name: String,
        /// What the kernels need.
        needed: (i32, i32),
        /// What the device has.
        got: (i32, i32),
    },
    /// The driver is older than what the kernels are made for.
    #[error("the NVIDIA driver is of CUDA {}.{}, the kernels need {}.{} (driver {name}) or newer", got.0, got.1, needed.0, needed.1)]
    OldDriver {
        /// Oldest CUDA version that will do.
        needed: (i32, i32),
        /// The driver that has it.
        name: &'static str,
        /// CUDA version of the driver.
        got: (i32, i32),
    },
    /// [`Gpu::pretending`](super::Gpu::pretending) knows no such card.
    #[error("no card of compute capability {}.{} is known: expected 8.0, 8.6, 8.7, 8.9, 9.0, 10.0, 10.3 or 12.0", capability.0, capability.1)]
    UnknownCapability {
        /// What was asked for.
        capability: (i32, i32),
    },
    /// A module is not part of this build.
    #[error("module {module} is not part of this build: it needs the feature `{feature}` of mom-kernels")]
    Feature {
        /// Name of the module.
        module: &'static str,
        /// The feature that it is part of.
        feature: &'static str,
    },
    /// The card has less shared memory, or fewer registers, than the only kernel for these sizes.
    #[error("{op}: this card does not have what kernel {kernel} needs")]
    Card {
        /// Operation that was called.
        op: &'static str,
        /// The kernel.
        kernel: String,
    },
    /// There is no such kernel: a fault of this crate.
    #[error("there is no kernel {kernel}")]
    NoKernel {
        /// Name of the kernel.
        kernel: String,
    },
    /// The driver refused a module.
    #[error("driver (CUDA {}.{}) refused module {module}: {source}", driver / 1000, driver % 1000 / 10)]
    Module {
        /// Name of the module.
        module: &'static str,
        /// Highest CUDA version that the driver supports, 1000 major + 10 minor.
        driver: i32,
        /// The driver's answer.
        source: DriverError,
    },
    /// A kernel could not be found or set up.
    #[error("kernel {kernel} cannot be loaded: {source}")]
    Kernel {
        /// Name of the kernel.
        kernel: String,
        /// The driver's answer.
        source: DriverError,
    },
    /// The driver refused a launch.
    #[error("kernel {kernel} cannot be launched with grid {grid:?}: {source}")]
    Launch {
        /// Name of the kernel.
        kernel: String,
        /// Blocks of the grid.
        grid: (u32, u32, u32),
        /// The driver's answer.
        source: DriverError,
    },
    /// This machine has no cuBLASLt.
    #[error("no cuBLASLt: none of {tried} could be loaded; the kernels of this crate need none")]
    NoLibrary {
        /// Names of the library that were tried.
        tried: &'static str,
    },
    /// A product of cuBLASLt was asked for before it was loaded.
    #[error("cuBLASLt is not loaded: call Gpu::load_library first")]
    LibraryNotLoaded,
    /// cuBLASLt refused a call.
    #[error("{what} failed: {source}")]
    Library {
        /// What was tried.
        what: &'static str,
        /// The library's answer.
        source: CublasError,
    },
    /// An argument has an element type that the operation does not take.
    #[error("{op}: {arg} is {got}, expected {expected} or f32")]
    Dtype {
        /// Operation that was called.
        op: &'static str,
        /// Argument at fault.
        arg: &'static str,
        /// Element type that the other arguments ask for.
        expected: &'static str,
        /// Element type found.
        got: &'static str,
    },
    /// Any other call of the driver failed.
    #[error("{what} failed: {source}")]
    Driver {
        /// What was tried.
        what: &'static str,
        /// The driver's answer.
        source: DriverError,
    },
}

impl CudaError {
    pub(crate) fn driver(what: &'static str) -> impl FnOnce(DriverError) -> Self {
        move |source| Self::Driver { what, source }
    }
}
