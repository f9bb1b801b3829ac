//! The variables of a model, in the order of their names.

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};

use crate::Result;

/// Variables by name, sorted: every walk over them has the same order, unlike one over candle's `VarMap`.
#[derive(Debug, Clone)]
pub struct Parameters(Vec<(String, Var)>);

impl Parameters {
    /// Everything that `build` asks of a variable builder, and what it builds.
    ///
    /// # Errors
    /// Those of `build`.
    pub fn collect<M>(dtype: DType, device: &Device, build: impl FnOnce(VarBuilder) -> Result<M>) -> Result<(M, Self)> {
        let map = VarMap::new();
        let model = build(VarBuilder::from_varmap(&map, dtype, device))?;
        let data = map.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut variables: Vec<_> = data.iter().map(|(name, variable)| (name.clone(), variable.clone())).collect();
        variables.sort_by(|a, b| a.0.cmp(&b.0));
        drop(data);
        Ok((model, Self(variables)))
    }

    /// Names and variables, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Var)> {
        self.0.iter().map(|(name, variable)| (name.as_str(), variable))
    }

    /// A variable by its name.
    pub fn get(&self, name: &str) -> Option<&Var> {
        self.0.binary_search_by(|(have, _)| have.as_str().cmp(name)).ok().map(|at| &self.0[at].1)
    }

    /// Names and values, by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.iter().map(|(name, variable)| (name, variable.as_tensor()))
    }

    /// Number of variables.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of elements of all variables.
    pub fn n_elements(&self) -> usize {
        self.0.iter().map(|(_, variable)| variable.elem_count()).sum()
    }
}
