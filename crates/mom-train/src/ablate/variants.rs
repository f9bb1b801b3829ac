//! Which variants are compared.

use std::str::FromStr;

use mom_models::Variant;

use super::Arm;
use super::report::NULL;
use crate::error::require;
use crate::{Error, Result};

/// Which variants are compared.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Variants {
    /// Dense and Mixture-of-Mamba.
    #[default]
    Default,
    /// These, in every setting: none of them is the null, which comes by itself.
    List(Vec<Arm>),
}

impl Variants {
    pub(super) fn list(&self) -> Vec<Arm> {
        match self {
            Self::List(list) => list.clone(),
            Self::Default => [Variant::Dense, Variant::Mom].map(Arm::Variant).to_vec(),
        }
    }
}

/// Names joined by commas, `dense,mom,in+out,published,mom-unet`; `all16` stands for every choice of projections, `baselines` for what
/// else there is to pick.
impl FromStr for Variants {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut list = Vec::new();
        for name in text.split(',') {
            match name {
                "all16" => list.extend(Variant::all16().map(Arm::Variant)),
                "baselines" => list.extend(Variant::BASELINES.map(Arm::Variant)),
                NULL => require(false, "variants", "no null, which comes by itself beside dense", NULL)?,
                name => list.push(name.parse()?),
            }
        }
        let mut seen = std::collections::HashSet::new();
        list.retain(|arm: &Arm| seen.insert(arm.to_string()));
        Ok(Self::List(list))
    }
}
