//! Configuration of the mixer: sizes, and which projections are per modality.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::require;
use crate::{Error, Result};

/// One of the four projections of the mixer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Projection {
    /// `in_proj`: d_model -> 2 d_inner.
    In,
    /// `x_proj`: d_inner -> dt_rank + 2 d_state.
    X,
    /// `dt_proj`: dt_rank -> d_inner.
    Dt,
    /// `out_proj`: d_inner -> d_model.
    Out,
}

impl Projection {
    /// All four, in the order in which a token meets them.
    pub const ALL: [Self; 4] = [Self::In, Self::X, Self::Dt, Self::Out];

    /// Short name: `in`, `x`, `dt`, `out`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::X => "x",
            Self::Dt => "dt",
            Self::Out => "out",
        }
    }
}

/// Which projections have weights of their own for each modality ("decoupled" in the paper).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Untied {
    /// `in_proj`.
    pub in_proj: bool,
    /// `x_proj`.
    pub x_proj: bool,
    /// `dt_proj`.
    pub dt_proj: bool,
    /// `out_proj`.
    pub out_proj: bool,
}

impl Untied {
    /// Everything shared: dense Mamba.
    pub const NONE: Self = Self { in_proj: false, x_proj: false, dt_proj: false, out_proj: false };
    /// All four per modality: Mixture-of-Mamba.
    pub const ALL: Self = Self { in_proj: true, x_proj: true, dt_proj: true, out_proj: true };

    /// All 16 choices, from [`Self::NONE`] to [`Self::ALL`].
    pub fn every() -> impl Iterator<Item = Self> {
        (0..16u8).map(|bits| Self {
            in_proj: bits & 1 != 0,
            x_proj: bits & 2 != 0,
            dt_proj: bits & 4 != 0,
            out_proj: bits & 8 != 0,
        })
    }

    /// Whether a projection is per modality.
    pub const fn contains(self, projection: Projection) -> bool {
        match projection {
            Projection::In => self.in_proj,
            Projection::X => self.x_proj,
            Projection::Dt => self.dt_proj,
            Projection::Out => self.out_proj,
        }
    }
}

/// `in+x+dt+out`, or any of these, or `none`.
impl fmt::Display for Untied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = Projection::ALL.into_iter().filter(|&p| self.contains(p)).map(Projection::name).collect();
        f.write_str(if names.is_empty() { "none".to_owned() } else { names.join("+") }.as_str())
    }
}

/// Reads what [`Display`](fmt::Display) writes; the parts may stand in any order.
impl FromStr for Untied {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut untied = Self::NONE;
        if text == "none" {
            return Ok(untied);
        }
        for part in text.split('+') {
            let flag = match part {
                "in" => &mut untied.in_proj,
                "x" => &mut untied.x_proj,
                "dt" => &mut untied.dt_proj,
                "out" => &mut untied.out_proj,
                _ => {
                    return require(false, "untied", "some of in, x, dt, out joined by +, or none", text)
                        .map(|()| untied);
                }
            };
            if std::mem::replace(flag, true) {
                return require(false, "untied", "free of repetitions", text).map(|()| untied);
            }
        }
        Ok(untied)
    }
}

/// What a shared dt_proj does with its bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SharedDtBias {
    /// It is added, as in Mamba.
    #[default]
    Applied,
    /// It is dropped: the defect of the published code, kept as a switch to show what it does. delta then starts near
    /// softplus(0) = 0.69 instead of between 1e-3 and 1e-1.
    Dropped,
}

/// Sizes and choices of a mixer. Field names are Mamba's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixerConfig {
    /// Features of input and output.
    pub d_model: usize,
    /// Number of modalities K; 1 is dense Mamba.
    #[serde(default = "defaults::n_modalities")]
    pub n_modalities: usize,
    /// Which projections are per modality.
    #[serde(default)]
    pub untied: Untied,
    /// d_inner = expand * d_model.
    #[serde(default = "defaults::expand")]
    pub expand: usize,
    /// States of a channel.
    #[serde(default = "defaults::d_state")]
    pub d_state: usize,
    /// Width of the causal convolution.
    #[serde(default = "defaults::d_conv")]
    pub d_conv: usize,
    /// Features between x_proj and dt_proj; ceil(d_model / 16) if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dt_rank: Option<usize>,
    /// Whether in_proj and out_proj have a bias.
    #[serde(default)]
    pub bias: bool,
    /// Whether the convolution has a bias.
    #[serde(default = "defaults::conv_bias")]
    pub conv_bias: bool,
    /// What a shared dt_proj does with its bias.
    #[serde(default)]
    pub shared_dt_bias: SharedDtBias,
}

mod defaults {
    pub(super) const fn n_modalities() -> usize {
        1
    }
    pub(super) const fn expand() -> usize {
        2
    }
    pub(super) const fn d_state() -> usize {
        16
    }
    pub(super) const fn d_conv() -> usize {
        4
    }
    pub(super) const fn conv_bias() -> bool {
        true
    }
}

impl MixerConfig {
    /// A dense mixer with Mamba's sizes.
    pub fn new(d_model: usize) -> Self {
        Self {
            d_model,
            n_modalities: defaults::n_modalities(),
            untied: Untied::NONE,
            expand: defaults::expand(),
            d_state: defaults::d_state(),
            d_conv: defaults::d_conv(),
            dt_rank: None,
            bias: false,
            conv_bias: defaults::conv_bias(),
            shared_dt_bias: SharedDtBias::Applied,
        }
    }

    /// Channels of conv and scan.
    pub fn d_inner(&self) -> usize {
        self.expand * self.d_model
    }

    /// Features between x_proj and dt_proj.
    pub fn dt_rank(&self) -> usize {
        self.dt_rank.unwrap_or(self.d_model.div_ceil(16))
    }

    /// `(in_features, out_features)` of a projection.
    pub fn features(&self, projection: Projection) -> (usize, usize) {
        match projection {
            Projection::In => (self.d_model, 2 * self.d_inner()),
            Projection::X => (self.d_inner(), self.dt_rank() + 2 * self.d_state),
            Projection::Dt => (self.dt_rank(), self.d_inner()),
            Projection::Out => (self.d_inner(), self.d_model),
        }
    }

    /// Whether a projection has a bias in the state dict.
    pub fn has_bias(&self, projection: Projection) -> bool {
        match projection {
            Projection::In | Projection::Out => self.bias,
            Projection::X => false,
            Projection::Dt => self.untied.dt_proj || self.shared_dt_bias == SharedDtBias::Applied,
        }
    }

    /// Weights that a token meets: one copy of each projection, conv, A and D.
    pub fn active_parameters(&self) -> usize {
        self.parameters_with(|_| 1)
    }

    /// Weights of all modalities together.
    pub fn total_parameters(&self) -> usize {
        self.parameters_with(|projection| if self.untied.contains(projection) { self.n_modalities } else { 1 })
    }

    fn parameters_with(&self, copies: impl Fn(Projection) -> usize) -> usize {
        let d_inner = self.d_inner();
        let shared = d_inner * (self.d_conv + usize::from(self.conv_bias)) + d_inner * self.d_state + d_inner;
        let projections = Projection::ALL.into_iter().map(|projection| {
            let (n_in, n_out) = self.features(projection);
            copies(projection) * n_out * (n_in + usize::from(self.has_bias(projection)))
        });
        shared + projections.sum::<usize>()
    }

    /// Checks every value.
    ///
    /// # Errors
    /// [`Error::Config`], naming the field.
    pub fn validate(&self) -> Result<()> {
        let size = |field, value: usize, max: usize| {
            require((1..=max).contains(&value), field, &format!("between 1 and {max}"), value)
        };
        size("d_model", self.d_model, 1 << 20)?;
        size("n_modalities", self.n_modalities, 256)?;
        size("expand", self.expand, 16)?;
        size("d_state", self.d_state, mom_kernels::selective_scan::MAX_D_STATE)?;
        size("d_conv", self.d_conv, mom_kernels::causal_conv1d::MAX_D_CONV)?;
        size("dt_rank", self.dt_rank(), self.d_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_sixteen_choices_have_names_that_read_back() {
        let names: Vec<_> = Untied::every().map(|untied| untied.to_string()).collect();
        assert_eq!((names.first().unwrap().as_str(), names.last().unwrap().as_str()), ("none", "in+x+dt+out"));
        for (untied, name) in Untied::every().zip(&names) {
            assert_eq!(name.parse::<Untied>().unwrap(), untied);
        }
        assert_eq!("out+in".parse::<Untied>().unwrap().to_string(), "in+out");
        for bad in ["", "in+", "gate", "in+in"] {
            assert!(bad.parse::<Untied>().unwrap_err().to_string().contains("untied"), "{bad}");
        }
    }

    #[test]
    fn a_bad_value_is_named() {
        let config = MixerConfig { d_conv: 5, ..MixerConfig::new(16) };
        assert_eq!(config.validate().unwrap_err().to_string(), "configuration: d_conv must be between 1 and 4, got 5");
    }
}
