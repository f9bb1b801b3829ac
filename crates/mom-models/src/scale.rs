//! Sizes of the backbone, by name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

/// A size of the backbone. A layer is two blocks, so that it has about the weights of a transformer's layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scale {
    /// Name, as the paper has it for its own sizes.
    pub name: &'static str,
    /// Features of the residual stream.
    pub d_model: usize,
    /// Layers of two blocks each.
    pub n_layers: usize,
    /// Settings that the paper trains it in; empty for the sizes that are this project's own.
    pub paper: &'static str,
}

const fn scale(name: &'static str, d_model: usize, n_layers: usize, paper: &'static str) -> Scale {
    Scale { name, d_model, n_layers, paper }
}

/// The size of the default ablation on a CPU.
pub const TINY: Scale = scale("tiny", 64, 2, "");

const DISCRETE: &str = "Chameleon, three modalities";

/// All sizes: four for a CPU, then the paper's (arXiv 2501.16295, section 4).
pub const SCALES: [Scale; 12] = [
    scale("nano", 16, 1, ""),
    TINY,
    scale("mini", 96, 3, ""),
    scale("small", 128, 4, ""),
    scale("37M", 256, 4, DISCRETE),
    scale("94M", 512, 8, DISCRETE),
    scale("163M", 768, 16, "Transfusion"),
    scale("443M", 1024, 24, DISCRETE),
    scale("760M", 1536, 24, "Transfusion"),
    scale("880M", 1536, 24, DISCRETE),
    scale("1.4B", 2048, 24, "Transfusion"),
    scale("1.5B", 2048, 24, DISCRETE),
];

impl Scale {
    /// Residual blocks.
    pub const fn n_blocks(self) -> usize {
        2 * self.n_layers
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl FromStr for Scale {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        SCALES.into_iter().find(|scale| scale.name.eq_ignore_ascii_case(name)).ok_or_else(|| Error::Config {
            field: "scale",
            expected: format!("one of {}", SCALES.map(|scale| scale.name).join(", ")),
            got: name.to_owned(),
        })
    }
}

impl Serialize for Scale {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name)
    }
}

impl<'de> Deserialize<'de> for Scale {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}
