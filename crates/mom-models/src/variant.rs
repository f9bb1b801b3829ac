//! What is compared: dense Mamba, Mixture-of-Mamba, its parts, the published code's defect, and what else there is to pick.

use std::fmt;
use std::str::FromStr;

use mom_core::{SharedDtBias, Untied};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::blocks::routed::Route;
use crate::blocks::transformer::Tying;

/// An arm of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Variant {
    /// One weight for all modalities: Mamba.
    Dense,
    /// All four projections per modality: the paper's model.
    Mom,
    /// The same, whose experts start with the same values: at its start it is the dense model of that seed.
    MomAlike,
    /// Some of them.
    Parts(Untied),
    /// in, x and out per modality, and a shared dt_proj whose bias is dropped: the defect of the published code. `in+x+out`
    /// is the same model without it.
    Published,
    /// Attention and feed-forward layers, shared by all modalities.
    Transformer,
    /// Mixture-of-Transformers (arXiv 2411.04996): everything but the attention itself per modality.
    Mot,
    /// Mixture-of-Mamba's experts, chosen for each token by a learned router (MoE-Mamba, arXiv 2401.04081).
    Router,
    /// The same experts, chosen by a hash of the position: the null of routing.
    RandomRouter,
    /// Dense with as many weights as Mixture-of-Mamba has in all: as many times the channels as there are modalities. The one
    /// arm that costs more for each token.
    WideDense,
}

/// What a backbone is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// Mamba's blocks.
    Mamba,
    /// Mamba's blocks, whose experts are chosen for each token.
    Routed(Route),
    /// A transformer's blocks, half as many.
    Transformer(Tying),
}

/// Arms by name that are no choice of projections.
const NAMED: [(&str, Variant); 9] = [
    ("dense", Variant::Dense),
    ("mom", Variant::Mom),
    ("mom-alike", Variant::MomAlike),
    ("published", Variant::Published),
    ("transformer", Variant::Transformer),
    ("mot", Variant::Mot),
    ("router", Variant::Router),
    ("random-router", Variant::RandomRouter),
    ("wide-dense", Variant::WideDense),
];

impl Variant {
    /// The arms that are neither dense nor a choice of projections of Mixture-of-Mamba.
    pub const BASELINES: [Self; 5] = [Self::Transformer, Self::Mot, Self::Router, Self::RandomRouter, Self::WideDense];

    /// What the backbone is made of.
    pub fn architecture(self) -> Architecture {
        match self {
            Self::Transformer => Architecture::Transformer(Tying::Shared),
            Self::Mot => Architecture::Transformer(Tying::PerModality),
            Self::Router => Architecture::Routed(Route::Learned),
            Self::RandomRouter => Architecture::Routed(Route::Hashed),
            Self::Dense | Self::Mom | Self::MomAlike | Self::Parts(_) | Self::Published | Self::WideDense => {
                Architecture::Mamba
            }
        }
    }

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

    /// Which projections have several weights: one for each modality, or for each expert. None in a transformer, which has
    /// others.
    pub fn untied(self) -> Untied {
        match self {
            Self::Dense | Self::WideDense | Self::Transformer | Self::Mot => Untied::NONE,
            Self::Mom | Self::MomAlike | Self::Router | Self::RandomRouter => Untied::ALL,
            Self::Parts(untied) => untied,
            Self::Published => Untied { dt_proj: false, ..Untied::ALL },
        }
    }

    /// Whether the experts start with the same values.
    pub fn starts_alike(self) -> bool {
        self == Self::MomAlike
    }

    /// What a shared dt_proj does with its bias.
    pub fn shared_dt_bias(self) -> SharedDtBias {
        match self {
            Self::Published => SharedDtBias::Dropped,
            _ => SharedDtBias::Applied,
        }
    }
}

/// Its name, or the parts: `in+x`.
impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, NAMED.iter().find(|(_, variant)| variant == self)) {
            (_, Some((name, _))) => f.write_str(name),
            (variant, None) => variant.untied().fmt(f),
        }
    }
}

impl FromStr for Variant {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        if let Some((_, variant)) = NAMED.iter().find(|(known, _)| *known == name) {
            return Ok(*variant);
        }
        name.parse().map(Self::of).map_err(|_| Error::Config {
            field: "variant",
            expected: format!("{}, or some of in, x, dt, out joined by +", NAMED.map(|(name, _)| name).join(", ")),
            got: name.to_owned(),
        })
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
        for variant in Variant::all16().chain([Variant::Published, Variant::MomAlike]).chain(Variant::BASELINES) {
            assert_eq!(variant.to_string().parse::<Variant>().unwrap(), variant);
        }
        assert_eq!("in+x+dt+out".parse::<Variant>().unwrap(), Variant::Mom);
        assert!("moe".parse::<Variant>().unwrap_err().to_string().contains("got moe"));
    }
}
