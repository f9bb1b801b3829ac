//! Weights of a projection, and how an operation on the CPU reads them.

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use mom_kernels::grouped_gemm::GroupedWeights;

use crate::error::{expect_device, expect_shape, require};
use crate::host::{Float, Host, contiguous, tensor};
use crate::init::{Draw, Init};
use crate::{Error, Result};

const OP: &str = "grouped_linear";

/// Weights of a projection: one for each modality, or a single one that all share.
#[derive(Debug, Clone)]
pub struct GroupedLinear {
    in_features: usize,
    out_features: usize,
    weights: Vec<Tensor>,
    biases: Vec<Tensor>,
}

impl GroupedLinear {
    /// `weights`: `(out_features, in_features)` each; `biases`: `(out_features)` each, as many, or none at all.
    ///
    /// # Errors
    /// No weight; shapes that disagree; weights of several element types; tensors on several devices.
    pub fn new(in_features: usize, out_features: usize, weights: Vec<Tensor>, biases: Vec<Tensor>) -> Result<Self> {
        let groups = weights.len();
        require(groups > 0, "weights", "at least one tensor", groups)?;
        let biases_fit = biases.is_empty() || biases.len() == groups;
        require(biases_fit, "biases", &format!("0 or {groups} tensors"), biases.len())?;
        for weight in &weights {
            expect_shape(OP, "weight", &[out_features, in_features], weight)?;
            expect_device(OP, "weight", &weights[0], weight)?;
            if weight.dtype() != weights[0].dtype() {
                let expected = weights[0].dtype().as_str();
                return Err(Error::DType { op: OP, arg: "weight", expected, got: weight.dtype() });
            }
        }
        for bias in &biases {
            expect_shape(OP, "bias", &[out_features], bias)?;
            expect_device(OP, "bias", &weights[0], bias)?;
        }
        let contiguous_all = |tensors: Vec<Tensor>| tensors.iter().map(contiguous).collect::<Result<Vec<_>>>();
        Ok(Self { in_features, out_features, weights: contiguous_all(weights)?, biases: contiguous_all(biases)? })
    }

    /// The weights of `vb` under the names of the published state dict: `BASE.weight` where all modalities share them,
    /// `local_experts_BASE.M.weight` where each has its own, and the same with `bias`. Those that a builder over a `VarMap`
    /// does not have yet are drawn from `init`, each modality's apart ([`Init::with_experts_alike`]: all as the first); a shared
    /// one starts as modality 0's.
    ///
    /// * `own`: the number of modalities, where each has weights of its own.
    /// * `draws`: of the weights, and of the biases where there are any.
    ///
    /// # Errors
    /// A parameter that is missing, of another shape, or not finite.
    pub fn load(
        init: &Init,
        vb: &VarBuilder,
        base: &str,
        (in_features, out_features): (usize, usize),
        own: Option<usize>,
        (of_weights, of_biases): (Draw, Option<Draw>),
    ) -> Result<Self> {
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        for modality in 0..own.unwrap_or(1) {
            let prefix = if own.is_some() { format!("local_experts_{base}.{modality}") } else { base.to_owned() };
            let names = |part: &str| (format!("{prefix}.{part}"), format!("{base}.{}.{part}", init.draw_of(modality)));
            let (name, key) = names("weight");
            weights.push(init.parameter(vb, &[out_features, in_features], &name, &key, of_weights)?);
            if let Some(draw) = of_biases {
                let (name, key) = names("bias");
                biases.push(init.precise(vb, &[out_features], &name, &key, draw)?);
            }
        }
        Self::new(in_features, out_features, weights, biases)
    }

    /// Features of an input row.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// Features of an output row.
    pub fn out_features(&self) -> usize {
        self.out_features
    }

    /// Element type of the weights.
    pub fn dtype(&self) -> DType {
        // `new` takes no empty list.
        self.weights[0].dtype()
    }

    /// `(out_features, in_features)` each.
    pub fn weights(&self) -> &[Tensor] {
        &self.weights
    }

    /// `(out_features)` each; empty without biases.
    pub fn biases(&self) -> &[Tensor] {
        &self.biases
    }

    /// Weights, then biases: the order of [`Self::split_gradients`] too.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.weights.iter().chain(&self.biases)
    }

    /// All weights and biases as slices.
    pub(crate) fn hosts<T: Float>(&self) -> Result<LinearHosts<'_, T>> {
        Ok(LinearHosts {
            linear: self,
            weights: self.weights.iter().map(|weight| Host::of(OP, "weight", weight)).collect::<Result<_>>()?,
            biases: self.biases.iter().map(|bias| Host::of(OP, "bias", bias)).collect::<Result<_>>()?,
        })
    }

    /// Gradients as tensors of the parameters' shapes, weights then biases.
    pub(crate) fn split_gradients<T: Float>(
        &self,
        weights: Vec<Vec<T>>,
        biases: Vec<Vec<T>>,
    ) -> Result<Vec<Option<Tensor>>> {
        let shape = (self.out_features, self.in_features);
        let weights = weights.into_iter().map(|grad| Ok(Some(tensor(grad, shape)?)));
        let biases = biases.into_iter().map(|grad| Ok(Some(tensor(grad, self.out_features)?)));
        weights.chain(biases).collect()
    }
}

/// A [`GroupedLinear`] read as slices.
pub(crate) struct LinearHosts<'a, T> {
    linear: &'a GroupedLinear,
    weights: Vec<Host<'a, T>>,
    biases: Vec<Host<'a, T>>,
}

impl<T: Float> LinearHosts<'_, T> {
    pub fn grouped(&self) -> Result<GroupedWeights<'_, T>> {
        fn slices<'b, T: Float>(hosts: &'b [Host<'_, T>]) -> Result<Vec<&'b [T]>> {
            hosts.iter().map(Host::slice).collect()
        }
        let biases = if self.biases.is_empty() { None } else { Some(slices(&self.biases)?) };
        let (n_in, n_out) = (self.linear.in_features, self.linear.out_features);
        Ok(GroupedWeights::new(n_in, n_out, slices(&self.weights)?, biases)?)
    }
}
