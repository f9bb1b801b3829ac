//! What a card has: kernels are chosen by it.

use cudarc::driver::CudaContext;
use cudarc::driver::sys::CUdevice_attribute as Attribute;

use super::error::{CudaError, Result};
use super::module::Kernel;

/// Oldest compute capability that the kernels run on; below it a card has no bf16 either.
const OLDEST: (i32, i32) = (8, 0);

/// Shared memory that a block may have by compute capability, in bytes (CUDA C++ Programming Guide, "Technical
/// Specifications per Compute Capability").
const SHARED: [((i32, i32), usize); 8] = [
    ((8, 0), 163 << 10),
    ((8, 6), 99 << 10),
    ((8, 7), 163 << 10),
    ((8, 9), 99 << 10),
    ((9, 0), 227 << 10),
    ((10, 0), 227 << 10),
    ((10, 3), 227 << 10),
    ((12, 0), 99 << 10),
];

/// Registers of a multiprocessor, on every card that there is; a block may have all of them.
const REGISTERS: u32 = 65_536;

/// Threads that a multiprocessor holds at once on every card that there is.
const THREADS: u32 = 1536;

/// Limits of a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Card {
    pub capability: (i32, i32),
    pub n_multiprocessors: u32,
    /// Shared memory that a block may have, in bytes.
    pub max_shared_bytes: usize,
    /// Whether kernels for one compute capability alone are passed over.
    pub portable: bool,
}

impl Card {
    /// The card of a context.
    pub fn of(context: &CudaContext) -> Result<Self> {
        let read = |attribute, what| context.attribute(attribute).map_err(CudaError::driver(what));
        let capability = context.compute_capability().map_err(CudaError::driver("reading the compute capability"))?;
        expect_capability(capability, || context.name().map_err(CudaError::driver("reading the device's name")))?;
        let multiprocessors = Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let shared = Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        Ok(Self {
            capability,
            n_multiprocessors: read(multiprocessors, "counting multiprocessors")?.max(1) as u32,
            max_shared_bytes: read(shared, "reading the size of shared memory")?.max(0) as usize,
            portable: false,
        })
    }

    /// A card of a compute capability that is known, with this many multiprocessors.
    pub fn known(capability: (i32, i32), n_multiprocessors: u32) -> Option<Self> {
        let (_, max_shared_bytes) = SHARED.into_iter().find(|(of, _)| *of == capability)?;
        Some(Self { capability, n_multiprocessors, max_shared_bytes, portable: false })
    }

    /// Compute capabilities that [`Self::known`] knows.
    #[cfg(test)]
    pub fn capabilities() -> impl Iterator<Item = (i32, i32)> {
        SHARED.into_iter().map(|(capability, _)| capability)
    }

    /// Whether a kernel can be launched: the card has instructions, shared memory and registers for it.
    pub fn fits(&self, kernel: &Kernel) -> bool {
        let sm90 = !kernel.module().is_sm90() || (self.capability == (9, 0) && !self.portable);
        let shared = (kernel.dynamic_shared + kernel.static_shared) as usize;
        sm90 && shared <= self.max_shared_bytes && kernel.threads * kernel.registers <= REGISTERS
    }

    /// Blocks of a kernel that the card runs at once, as far as registers and threads decide; none of a kernel that is not
    /// there.
    pub fn resident_blocks(&self, kernel: &str) -> usize {
        let each = Kernel::named(kernel).map_or(0, |kernel| {
            let of_registers = REGISTERS / (kernel.registers.next_multiple_of(8) * kernel.threads);
            of_registers.min(THREADS / kernel.threads)
        });
        (each * self.n_multiprocessors) as usize
    }

    /// Whether there is a kernel of this name, and it can be launched.
    pub fn has(&self, kernel: &str) -> bool {
        Kernel::named(kernel).is_some_and(|kernel| self.fits(kernel))
    }
}

/// Fails for a device that the kernels are not written for.
fn expect_capability(got: (i32, i32), name: impl FnOnce() -> Result<String>) -> Result<()> {
    if got >= OLDEST { Ok(()) } else { Err(CudaError::Capability { name: name()?, needed: OLDEST, got }) }
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
