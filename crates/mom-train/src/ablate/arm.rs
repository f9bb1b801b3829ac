//! What stands in one row of the comparison.

use std::fmt;

use mom_models::Variant;

use super::report::NULL;

/// A variant, or the null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arm {
    /// A variant of the model.
    Variant(Variant),
    /// Dense from other initial weights, on the same documents in the same order with the same noise: what it differs from dense by
    /// is chance.
    Null,
}

impl Arm {
    /// The model that is trained.
    pub fn variant(self) -> Variant {
        match self {
            Self::Variant(variant) => variant,
            Self::Null => Variant::Dense,
        }
    }

    /// The seed of the initial weights, where it is another than the run's.
    pub(super) fn init_seed(self, seed: u64) -> Option<u64> {
        // The bits of "null": far from all seeds that somebody counts up, and below 2^63 where the seed is.
        (self == Self::Null).then_some(seed ^ 0x6e75_6c6c)
    }

    /// The arm that its learning rate is chosen for.
    pub(super) fn rated_as(self) -> Self {
        Self::Variant(self.variant())
    }
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variant(variant) => variant.fmt(f),
            Self::Null => f.write_str(NULL),
        }
    }
}

/// A variant's name, or `null`.
impl std::str::FromStr for Arm {
    type Err = crate::Error;

    fn from_str(name: &str) -> crate::Result<Self> {
        Ok(if name == NULL { Self::Null } else { Self::Variant(name.parse()?) })
    }
}
