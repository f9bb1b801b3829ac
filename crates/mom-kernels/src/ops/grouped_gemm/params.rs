//! Arguments of the grouped products, once for CPU and GPU, and the checks that they pass before anything is computed.
//!
//! `Weight` and `Biases` are views of the memory in question: [`grouped_gemm`](crate::grouped_gemm) names them for the host,
//! `cuda::grouped_gemm` for the device, where the biases of all modalities are one matrix of f32.

use crate::error::{Result, expect_limit, expect_presence, expect_size};
use crate::ops::plan::MAX_MODALITIES;
use crate::shape::{Elements, Groups, Matrix, expect_elements, expect_matrix};

pub(crate) const OP: &str = "grouped_gemm";

/// The weights of a grouped linear layer.
#[derive(Debug, Clone)]
pub struct GroupedWeights<Weight, Biases> {
    in_features: usize,
    out_features: usize,
    weights: Vec<Weight>,
    biases: Option<Biases>,
}

/// Gradients of the weights, all overwritten: one for each weight and bias, in their order.
#[derive(Debug)]
#[non_exhaustive]
pub struct GroupedGrads<Weight, Biases> {
    /// `(out_features, in_features)` each; on a GPU of the activations' type, or f32.
    pub grad_weights: Vec<Weight>,
    /// `(out_features)` for each weight; exactly where there are biases.
    pub grad_biases: Option<Biases>,
}

/// Whether a product overwrites its target or adds to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Into {
    /// target = product
    Overwrite,
    /// target += product
    Add,
}

impl<Weight, Biases> GroupedWeights<Weight, Biases> {
    /// Features of an input row.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// Features of an output row.
    pub fn out_features(&self) -> usize {
        self.out_features
    }

    /// Number of weights: the number of modalities, or 1 where all share one.
    pub fn n_groups(&self) -> usize {
        self.weights.len()
    }

    /// Whether there are biases.
    pub fn has_biases(&self) -> bool {
        self.biases.is_some()
    }

    /// The same weights without their biases.
    pub fn without_biases(&self) -> Self
    where
        Weight: Clone,
    {
        let Self { in_features, out_features, .. } = *self;
        Self { in_features, out_features, weights: self.weights.clone(), biases: None }
    }

    pub(crate) fn weights(&self) -> &[Weight] {
        &self.weights
    }

    pub(crate) fn all_biases(&self) -> Option<&Biases> {
        self.biases.as_ref()
    }
}

impl<Weight, Biases> GroupedGrads<Weight, Biases> {
    /// One for each weight.
    pub fn new(grad_weights: Vec<Weight>) -> Self {
        Self { grad_weights, grad_biases: None }
    }

    /// And those of the biases.
    #[must_use]
    pub fn with_grad_biases(self, grad_biases: impl std::convert::Into<Option<Biases>>) -> Self {
        Self { grad_biases: grad_biases.into(), ..self }
    }
}

/// The biases of all modalities: apart from each other, or one matrix.
pub(crate) trait BiasRows {
    /// Checks that there are `n_groups` of `width` elements; `args` are the names of all and of one.
    fn expect(&self, args: (&'static str, &'static str), n_groups: usize, width: usize) -> Result<()>;
}

impl<Bias: Elements> BiasRows for Vec<Bias> {
    fn expect(&self, (all, one): (&'static str, &'static str), n_groups: usize, width: usize) -> Result<()> {
        expect_size(OP, all, "groups", n_groups, self.len())?;
        self.iter().try_for_each(|bias| expect_elements(OP, one, width, bias))
    }
}

impl<Weight, Biases> GroupedWeights<Weight, Biases> {
    /// Weights whose sizes agree, of up to `max_features` features.
    pub(crate) fn validated(
        in_features: usize,
        out_features: usize,
        weights: Vec<Weight>,
        biases: Option<Biases>,
        max_features: usize,
    ) -> Result<Self>
    where
        Weight: Elements,
        Biases: BiasRows,
    {
        expect_limit(OP, "weights", MAX_MODALITIES, weights.len())?;
        expect_limit(OP, "in_features", max_features, in_features)?;
        expect_limit(OP, "out_features", max_features, out_features)?;
        for weight in &weights {
            expect_elements(OP, "weight", in_features * out_features, weight)?;
        }
        if let Some(biases) = &biases {
            biases.expect(("biases", "bias"), weights.len(), out_features)?;
        }
        Ok(Self { in_features, out_features, weights, biases })
    }

    /// The offsets that fit the weights: the modalities', or `single`, one group over all rows.
    pub(crate) fn groups<Offsets: Groups + Clone>(
        &self,
        offsets: &Offsets,
        single: impl FnOnce(usize) -> Offsets,
    ) -> Result<Offsets> {
        if self.n_groups() == 1 {
            return Ok(single(offsets.n_rows()));
        }
        expect_size(OP, "weights", "groups", offsets.n_groups(), self.n_groups())?;
        Ok(offsets.clone())
    }

    pub(crate) fn validate_forward(&self, n_rows: usize, x: &impl Matrix, y: &impl Matrix) -> Result<()> {
        expect_matrix(OP, "x", (n_rows, self.in_features), x)?;
        expect_matrix(OP, "y", (n_rows, self.out_features), y)
    }

    pub(crate) fn validate_backward_input(
        &self,
        n_rows: usize,
        grad_y: &impl Matrix,
        grad_x: &impl Matrix,
    ) -> Result<()> {
        expect_matrix(OP, "grad_y", (n_rows, self.out_features), grad_y)?;
        expect_matrix(OP, "grad_x", (n_rows, self.in_features), grad_x)
    }

    pub(crate) fn validate_backward_weights(
        &self,
        n_rows: usize,
        x: &impl Matrix,
        grad_y: &impl Matrix,
        grads: &GroupedGrads<impl Elements, impl BiasRows>,
    ) -> Result<()> {
        expect_matrix(OP, "x", (n_rows, self.in_features), x)?;
        expect_matrix(OP, "grad_y", (n_rows, self.out_features), grad_y)?;
        self.validate_grads(grads)
    }

    /// Gradients that are as the weights.
    pub(crate) fn validate_grads(&self, grads: &GroupedGrads<impl Elements, impl BiasRows>) -> Result<()> {
        expect_size(OP, "grad_weights", "groups", self.n_groups(), grads.grad_weights.len())?;
        expect_presence(OP, "grad_biases", self.has_biases(), grads.grad_biases.is_some())?;
        for grad in &grads.grad_weights {
            expect_elements(OP, "grad_weight", self.in_features * self.out_features, grad)?;
        }
        match &grads.grad_biases {
            Some(grads) => grads.expect(("grad_biases", "grad_bias"), self.n_groups(), self.out_features),
            None => Ok(()),
        }
    }
}
