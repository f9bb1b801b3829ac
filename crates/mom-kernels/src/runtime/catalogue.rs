//! Modules and kernels by name.

use super::module::{Kernel, Module};
use super::table::{KERNELS, MODULES};

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

impl Kernel {
    pub fn named(name: &str) -> Option<&'static Self> {
        KERNELS.binary_search_by(|kernel| kernel.name.cmp(name)).ok().map(|at| &KERNELS[at])
    }

    /// The module that it is in.
    pub fn module(&self) -> &'static Module {
        &MODULES[self.module]
    }
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
