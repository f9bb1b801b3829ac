//! A mixer of the shape that the bars are stated for, with its weights.

use mom_kernels::grouped_gemm::GroupedWeights;
use mom_kernels::mixer::MixerWeights;
use mom_kernels::{Error, ModalityPlan, Rows};

use crate::shape::{D_CONV, D_INNER, D_MODEL, D_STATE, DT_RANK, N_MODALITIES, N_ROWS, X_DBL};
use crate::values;

/// A projection with its own weights for each modality.
pub struct Projection {
    n_in: usize,
    n_out: usize,
    weights: Vec<Vec<f32>>,
    biases: Option<Vec<Vec<f32>>>,
}

impl Projection {
    /// Weights as they start: uniform within n_in^-1/2.
    pub fn new(n_in: usize, n_out: usize) -> Self {
        let spread = (n_in as f32).sqrt().recip();
        let weights = (0..N_MODALITIES).map(|m| values(m as u64, n_in * n_out, 0.0, spread)).collect();
        Self { n_in, n_out, weights, biases: None }
    }

    /// As the kernels take them.
    ///
    /// # Errors
    /// None: the sizes agree.
    pub fn weights(&self) -> Result<GroupedWeights<'_, f32>, Error> {
        let weights = self.weights.iter().map(Vec::as_slice).collect();
        let biases = self.biases.as_ref().map(|biases| biases.iter().map(Vec::as_slice).collect());
        GroupedWeights::new(self.n_in, self.n_out, weights, biases)
    }
}

/// All that a mixer reads.
pub struct Mixer {
    /// Where the rows are.
    pub plan: ModalityPlan,
    x: Vec<f32>,
    in_proj: Projection,
    x_proj: Projection,
    dt_proj: Projection,
    out_proj: Projection,
    conv_weight: Vec<f32>,
    conv_bias: Vec<f32>,
    a_log: Vec<f32>,
    d_skip: Vec<f32>,
}

impl Mixer {
    /// Weights as they start.
    pub fn new(plan: ModalityPlan) -> Self {
        let mut dt_proj = Projection::new(DT_RANK, D_INNER);
        dt_proj.biases = Some((0..N_MODALITIES).map(|m| values(9 + m as u64, D_INNER, -4.5, 2.0)).collect());
        Self {
            plan,
            x: values(1, N_ROWS * D_MODEL, 0.0, 1.7),
            in_proj: Projection::new(D_MODEL, 2 * D_INNER),
            x_proj: Projection::new(D_INNER, X_DBL),
            dt_proj,
            out_proj: Projection::new(D_INNER, D_MODEL),
            conv_weight: values(2, D_INNER * D_CONV, 0.0, 0.5),
            conv_bias: values(3, D_INNER, 0.0, 0.5),
            a_log: (0..D_INNER * D_STATE).map(|i| ((i % D_STATE + 1) as f32).ln()).collect(),
            d_skip: vec![1.0; D_INNER],
        }
    }

    /// The input.
    ///
    /// # Errors
    /// None: the sizes agree.
    pub fn x(&self) -> Result<Rows<'_, f32>, Error> {
        Rows::new("x", &self.x, D_MODEL)
    }

    /// As the kernels take them.
    ///
    /// # Errors
    /// None: the sizes agree.
    pub fn weights(&self) -> Result<MixerWeights<'_, f32>, Error> {
        Ok(MixerWeights::new(
            self.in_proj.weights()?,
            &self.conv_weight,
            self.x_proj.weights()?,
            self.dt_proj.weights()?,
            &self.a_log,
            &self.d_skip,
            self.out_proj.weights()?,
        )
        .with_conv_bias(&self.conv_bias[..]))
    }
}
