//! Sizes of the backbone: by name, or one's own.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

/// A size of the backbone. A layer is two blocks, so that it has about the weights of a transformer's layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scale {
    /// Name, as the paper has it for its own sizes; empty for a size that has none, see [`Self::own`].
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

/// The size of the default ablation: a run of some thousand steps takes seconds on a CPU.
pub const NANO: Scale = scale("nano", 16, 1, "");

/// A size for a CPU and a few minutes.
pub const TINY: Scale = scale("tiny", 64, 2, "");

const DISCRETE: &str = "Chameleon, three modalities";

/// All sizes: four for a CPU, then the paper's (arXiv 2501.16295, section 4).
pub const SCALES: [Scale; 12] = [
    NANO,
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
    /// A size without a name. Displayed, written and read as `d320-l6`: d_model 320, 6 layers (12 blocks).
    pub const fn own(d_model: usize, n_layers: usize) -> Self {
        scale("", d_model, n_layers, "")
    }

    /// Whether it is below the smallest of the paper's: data and vocabulary then default to small ones, too.
    pub const fn is_small(self) -> bool {
        self.d_model < 256
    }

    /// Residual blocks.
    pub const fn n_blocks(self) -> usize {
        2 * self.n_layers
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name {
            "" => write!(f, "d{}-l{}", self.d_model, self.n_layers),
            name => f.pad(name),
        }
    }
}

impl FromStr for Scale {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let named = SCALES.into_iter().find(|scale| scale.name.eq_ignore_ascii_case(name));
        named.or_else(|| own(name)).ok_or_else(|| Error::Config {
            field: "scale",
            expected: format!("one of {}, or such as d320-l6", SCALES.map(|scale| scale.name).join(", ")),
            got: name.to_owned(),
        })
    }
}

fn own(name: &str) -> Option<Scale> {
    let (d_model, n_layers) = name.strip_prefix('d')?.split_once("-l")?;
    let number = |digits: &str| digits.parse().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()));
    Some(Scale::own(number(d_model)?, number(n_layers)?))
}

impl Serialize for Scale {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Scale {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_is_read_as_it_is_written() {
        for scale in SCALES.into_iter().chain([Scale::own(320, 6), Scale::own(1, 1)]) {
            assert_eq!(scale.to_string().parse::<Scale>().unwrap(), scale);
            let json = serde_json::to_string(&scale).unwrap();
            assert_eq!(serde_json::from_str::<Scale>(&json).unwrap(), scale);
        }
        for wrong in ["d320", "d-l6", "d320-l", "d+3-l6", "320-6", "D320-l6", "d99999999999999999999-l1"] {
            let message = wrong.parse::<Scale>().unwrap_err().to_string();
            assert!(message.contains("or such as d320-l6, got"), "{message}");
        }
    }
}
