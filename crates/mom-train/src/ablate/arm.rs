//! What stands in one row of the comparison.

use std::fmt;

use mom_models::{PatcherKind, Variant};

use super::report::{NULL, UNET};

/// A variant, or the null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arm {
    /// A variant of the model.
    Variant(Variant),
    /// A variant whose pictures come in and out through a U-Net, in Transfusion: `mom-unet`. It costs more for each patch.
    Unet(Variant),
    /// Dense from other initial weights, on the same documents in the same order with the same noise: what it differs from dense by
    /// is chance.
    Null,
}

impl Arm {
    /// The model that is trained.
    pub fn variant(self) -> Variant {
        match self {
            Self::Variant(variant) | Self::Unet(variant) => variant,
            Self::Null => Variant::Dense,
        }
    }

    /// How its patches come in and out.
    pub(super) fn patcher(self) -> PatcherKind {
        match self {
            Self::Unet(_) => PatcherKind::Unet,
            Self::Variant(_) | Self::Null => PatcherKind::Linear,
        }
    }

    /// The seed of the initial weights, where it is another than the run's.
    pub(super) fn init_seed(self, seed: u64) -> Option<u64> {
        // The bits of "null": far from all seeds that somebody counts up, and below 2^63 where the seed is.
        (self == Self::Null).then_some(seed ^ 0x6e75_6c6c)
    }

    /// The arm that its learning rate is chosen for.
    pub(super) fn rated_as(self) -> Self {
        match self {
            Self::Null => Self::Variant(self.variant()),
            of_its_own => of_its_own,
        }
    }
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variant(variant) => variant.fmt(f),
            Self::Unet(variant) => write!(f, "{variant}{UNET}"),
            Self::Null => f.write_str(NULL),
        }
    }
}

/// A variant's name, with `-unet` behind it or without, or `null`.
impl std::str::FromStr for Arm {
    type Err = crate::Error;

    fn from_str(name: &str) -> crate::Result<Self> {
        Ok(match (name, name.strip_suffix(UNET)) {
            (NULL, _) => Self::Null,
            (_, Some(variant)) => Self::Unet(variant.parse()?),
            (variant, None) => Self::Variant(variant.parse()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for name in ["dense", "mom", "in+x", "null", "dense-unet", "mom-unet", "in+x-unet", "mot-unet"] {
            let arm: Arm = name.parse().unwrap();
            assert_eq!(arm.to_string(), name);
            assert_eq!(arm.patcher() == PatcherKind::Unet, name.ends_with("-unet"));
        }
        assert_eq!(
            "dense-unet".parse::<Arm>().unwrap().rated_as(),
            Arm::Unet(Variant::Dense),
            "it has a rate of its own"
        );
        assert!("null-unet".parse::<Arm>().is_err() && "-unet".parse::<Arm>().is_err());
    }
}
