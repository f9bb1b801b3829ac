//! Which variants are compared.

use std::str::FromStr;

use mom_models::Variant;

use crate::{Error, Result};

/// Which variants are compared.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Variants {
    /// Dense and Mixture-of-Mamba.
    #[default]
    Default,
    /// These, in every setting.
    List(Vec<Variant>),
}

impl Variants {
    pub(super) fn list(&self) -> Vec<Variant> {
        match self {
            Self::List(list) => list.clone(),
            Self::Default => vec![Variant::Dense, Variant::Mom],
        }
    }
}

/// Names joined by commas, `dense,mom,in+out,published`; `all16` stands for every choice of projections, `baselines` for what
/// else there is to pick.
impl FromStr for Variants {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut list = Vec::new();
        for name in text.split(',') {
            match name {
                "all16" => list.extend(Variant::all16()),
                "baselines" => list.extend(Variant::BASELINES),
                name => list.push(name.parse()?),
            }
        }
        let mut seen = std::collections::HashSet::new();
        list.retain(|variant| seen.insert(*variant));
        Ok(Self::List(list))
    }
}
