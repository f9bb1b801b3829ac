//! Modules of kernels: fat binaries inside of the crate, and what each kernel in them needs.

/// Bytes that begin where the driver reads them as words.
#[repr(C, align(16))]
pub(super) struct Aligned<T: ?Sized>(pub T);

/// The fat binary of a module, where it is part of this build.
macro_rules! image {
    (any, $name:literal) => {{
        static BYTES: &$crate::runtime::module::Aligned<[u8]> =
            &$crate::runtime::module::Aligned(*include_bytes!(concat!("../../kernels/", $name, ".fatbin")));
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
