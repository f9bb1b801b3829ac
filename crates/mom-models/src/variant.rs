//! What is compared: dense Mamba, Mixture-of-Mamba, its parts, and the published code's defect.

use std::fmt;
use std::str::FromStr;

use mom_core::{SharedDtBias, Untied};
use serde::{Deserialize, Serialize};

use crate::Error;

/// Which projections are per modality.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Variant {
    /// One weight for all modalities: Mamba.
    Dense,
    /// All four projections per modality: the paper's model.
    Mom,
    /// Some of them.
    Parts(Untied),
    /// in, x and out per modality, and a shared dt_proj whose bias is dropped: the defect of the published code. `in+x+out`
    /// is the same model without it.
    Published,
}

impl Variant {
    /// Every choice of projections, from dense to all four.
    pub fn all16() -> impl Iterator<Item = Self> {
        Untied::every().map(Self::of)
    }

    /// The variant of a choice of projections.
    pub fn of(untied: Untied) -> Self {
        match untied {
            Untied::NONE => Self::Dense,
            Untied::ALL => Self::Mom,
            parts => Self::Parts(parts),
        }
    }

    /// Which projections are per modality.
    pub fn untied(self) -> Untied {
        match self {
            Self::Dense => Untied::NONE,
            Self::Mom => Untied::ALL,
            Self::Parts(untied) => untied,
            Self::Published => Untied { dt_proj: false, ..Untied::ALL },
        }
    }

    /// What a shared dt_proj does with its bias.
    pub fn shared_dt_bias(self) -> SharedDtBias {
        match self {
            Self::Published => SharedDtBias::Dropped,
            Self::Dense | Self::Mom | Self::Parts(_) => SharedDtBias::Applied,
        }
    }
}

/// `dense`, `mom`, `published`, or the parts: `in+x`.
impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dense => f.write_str("dense"),
            Self::Mom => f.write_str("mom"),
            Self::Parts(untied) => untied.fmt(f),
            Self::Published => f.write_str("published"),
        }
    }
}

impl FromStr for Variant {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "dense" => Ok(Self::Dense),
            "mom" => Ok(Self::Mom),
            "published" => Ok(Self::Published),
            parts => parts.parse().map(Self::of).map_err(|_| Error::Config {
                field: "variant",
                expected: "dense, mom, published, or some of in, x, dt, out joined by +".to_owned(),
                got: name.to_owned(),
            }),
        }
    }
}

impl Serialize for Variant {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Variant {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_canonical_ones_are_used() {
        let names: Vec<String> = Variant::all16().map(|v| v.to_string()).collect();
        assert_eq!(names.len(), 16);
        assert!(names.contains(&"dense".to_owned()) && names.contains(&"mom".to_owned()));
        for variant in Variant::all16().chain([Variant::Published]) {
            assert_eq!(variant.to_string().parse::<Variant>().unwrap(), variant);
        }
        assert_eq!("in+x+dt+out".parse::<Variant>().unwrap(), Variant::Mom);
        assert!("moe".parse::<Variant>().unwrap_err().to_string().contains("got moe"));
    }
}
