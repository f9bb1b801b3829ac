//! A linear layer with weights of its own for each modality, over rows in modality order.

use candle_core::Tensor;
use mom_kernels::grouped_gemm::{self, GroupedGrads, GroupedWeights, Into as Write};
use mom_kernels::{Rows, RowsMut};

use crate::autograd::{Backward, record};
use crate::error::expect_shape;
use crate::host::{Float, Host, contiguous, dispatch, tensor};
use crate::{Plan, Result};

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
    /// No weight, or shapes that disagree.
    pub fn new(in_features: usize, out_features: usize, weights: Vec<Tensor>, biases: Vec<Tensor>) -> Result<Self> {
        let groups = weights.len();
        crate::error::require(groups > 0, "weights", "at least one tensor", groups)?;
        let biases_fit = biases.is_empty() || biases.len() == groups;
        crate::error::require(biases_fit, "biases", &format!("0 or {groups} tensors"), biases.len())?;
        for weight in &weights {
            expect_shape(OP, "weight", &[out_features, in_features], weight)?;
        }
        for bias in &biases {
            expect_shape(OP, "bias", &[out_features], bias)?;
        }
        let contiguous_all = |tensors: Vec<Tensor>| tensors.iter().map(contiguous).collect::<Result<Vec<_>>>();
        Ok(Self { in_features, out_features, weights: contiguous_all(weights)?, biases: contiguous_all(biases)? })
    }

    /// Features of an input row.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// Features of an output row.
    pub fn out_features(&self) -> usize {
        self.out_features
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

/// `y_r = x_r W_m^T + b_m` for the rows of each modality m.
///
/// `x`: `(n_rows, in_features)`, rows in modality order. Returns `(n_rows, out_features)`. **Saved for backward:** x.
///
/// # Errors
/// Shapes that disagree, an unsupported or differing element type, another device than the CPU.
pub fn grouped_linear(x: &Tensor, linear: &GroupedLinear, plan: &Plan) -> Result<Tensor> {
    let x = contiguous(x)?;
    expect_shape(OP, "x", &[plan.n_rows(), linear.in_features], &x)?;
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return crate::cuda::grouped_linear(x, linear, plan);
    }
    let node = Node { x: x.clone(), linear: linear.clone(), plan: plan.clone() };
    dispatch!(OP, "x", x, T => {
        let y = node.forward::<T>()?;
        let inputs = std::iter::once(&x).chain(linear.tensors()).cloned().collect();
        Ok(record(inputs, y, (plan.n_rows(), linear.out_features), node)?)
    })
}

struct Node {
    x: Tensor,
    linear: GroupedLinear,
    plan: Plan,
}

impl Node {
    fn forward<T: Float>(&self) -> Result<Vec<T>> {
        let (x, hosts) = (Host::<T>::of(OP, "x", &self.x)?, self.linear.hosts::<T>()?);
        let (n_in, n_out) = (self.linear.in_features, self.linear.out_features);
        let mut y = vec![T::ZERO; self.plan.n_rows() * n_out];
        grouped_gemm::forward(
            self.plan.modality_offsets(),
            Rows::new("x", x.slice()?, n_in)?,
            &hosts.grouped()?,
            RowsMut::new("y", &mut y, n_out)?,
        )?;
        Ok(y)
    }

    fn gradients<T: Float>(&self, grad: &Tensor, needed: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let (x, grad) = (Host::<T>::of(OP, "x", &self.x)?, Host::<T>::of(OP, "grad_output", grad)?);
        let hosts = self.linear.hosts::<T>()?;
        let (n_in, n_out) = (self.linear.in_features, self.linear.out_features);
        let (x, grad) = (Rows::new("x", x.slice()?, n_in)?, Rows::new("grad_output", grad.slice()?, n_out)?);
        let (offsets, weights) = (self.plan.modality_offsets(), hosts.grouped()?);
        let mut gradients = vec![None];
        if needed[0] {
            let mut grad_x = vec![T::ZERO; self.plan.n_rows() * n_in];
            let to = RowsMut::new("grad_x", &mut grad_x, n_in)?;
            grouped_gemm::backward_input(offsets, grad, &weights, to, Write::Overwrite)?;
            gradients[0] = Some(tensor(grad_x, (self.plan.n_rows(), n_in))?);
        }
        let mut grad_weights = vec![vec![T::ZERO; n_out * n_in]; self.linear.weights.len()];
        let mut grad_biases = vec![vec![T::ZERO; n_out]; self.linear.biases.len()];
        let to = GroupedGrads {
            grad_weights: grad_weights.iter_mut().map(Vec::as_mut_slice).collect(),
            grad_biases: weights.biases().map(|_| grad_biases.iter_mut().map(Vec::as_mut_slice).collect()),
        };
        grouped_gemm::backward_weights(offsets, x, grad, &weights, to)?;
        gradients.extend(self.linear.split_gradients(grad_weights, grad_biases)?);
        Ok(gradients)
    }
}

impl Backward for Node {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(&self, grad: &Tensor, needed: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        Ok(dispatch!(OP, "grad_output", grad, T => self.gradients::<T>(grad, needed))?)
    }
}
