//! Weights of a mixer, once for CPU and GPU, and the check that they fit together.
//!
//! `Weight`, `Biases` and `Slice` are views of the memory in question: [`mixer`](crate::mixer) names them for the host,
//! `cuda::mixer` for the device, where the projections have the activations' type and the rest is f32.

use crate::error::{Result, expect_limit, expect_size};
use crate::ops::causal_conv1d::params::validate_taps;
use crate::ops::grouped_gemm::params::GroupedWeights;
use crate::ops::selective_scan::params::MAX_D_STATE;
use crate::shape::{Elements, expect_elements};

pub(crate) const OP: &str = "mixer";

/// Weights of a mixer.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MixerWeights<Weight, Biases, Slice> {
    /// `d_model -> 2 d_inner`.
    pub in_proj: GroupedWeights<Weight, Biases>,
    /// `(d_inner, d_conv)`.
    pub conv_weight: Slice,
    /// `(d_inner)`.
    pub conv_bias: Option<Slice>,
    /// `d_inner -> dt_rank + 2 d_state`, without bias.
    pub x_proj: GroupedWeights<Weight, Biases>,
    /// `dt_rank -> d_inner`; its biases enter in the scan.
    pub dt_proj: GroupedWeights<Weight, Biases>,
    /// `(d_inner, d_state)`: A = -exp(A_log).
    pub a_log: Slice,
    /// `(d_inner)`: the skip D.
    pub d_skip: Slice,
    /// `d_inner -> d_model`.
    pub out_proj: GroupedWeights<Weight, Biases>,
}

/// Sizes of a mixer, once its weights are known to fit together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Features {
    pub d_model: usize,
    pub d_inner: usize,
    pub d_state: usize,
    pub d_conv: usize,
    pub dt_rank: usize,
}

impl<Weight, Biases, Slice> MixerWeights<Weight, Biases, Slice> {
    /// In the order in which they are used; the conv has no bias.
    pub fn new(
        in_proj: GroupedWeights<Weight, Biases>,
        conv_weight: Slice,
        x_proj: GroupedWeights<Weight, Biases>,
        dt_proj: GroupedWeights<Weight, Biases>,
        a_log: Slice,
        d_skip: Slice,
        out_proj: GroupedWeights<Weight, Biases>,
    ) -> Self {
        Self { in_proj, conv_weight, conv_bias: None, x_proj, dt_proj, a_log, d_skip, out_proj }
    }

    /// With a bias of the conv.
    #[must_use]
    pub fn with_conv_bias(self, conv_bias: impl Into<Option<Slice>>) -> Self {
        Self { conv_bias: conv_bias.into(), ..self }
    }

    /// The projections by their names.
    pub(crate) fn projections(&self) -> [(&'static str, &GroupedWeights<Weight, Biases>); 4] {
        [("in_proj", &self.in_proj), ("x_proj", &self.x_proj), ("dt_proj", &self.dt_proj), ("out_proj", &self.out_proj)]
    }

    /// Checks that the parts fit together.
    pub(crate) fn validate(&self) -> Result<Features>
    where
        Slice: Elements,
    {
        let d_inner = self.d_skip.n_elements();
        let d_state = self.a_log.n_elements() / d_inner.max(1);
        let (d_model, dt_rank) = (self.in_proj.in_features(), self.dt_proj.in_features());
        for (arg, expected, got) in [
            ("in_proj output", 2 * d_inner, self.in_proj.out_features()),
            ("x_proj input", d_inner, self.x_proj.in_features()),
            ("x_proj output", dt_rank + 2 * d_state, self.x_proj.out_features()),
            ("dt_proj output", d_inner, self.dt_proj.out_features()),
            ("out_proj input", d_inner, self.out_proj.in_features()),
            ("out_proj output", d_model, self.out_proj.out_features()),
        ] {
            expect_size(OP, arg, "features", expected, got)?;
        }
        expect_elements(OP, "a_log", d_inner * d_state, &self.a_log)?;
        expect_limit(OP, "d_state", MAX_D_STATE, d_state)?;
        let d_conv = validate_taps(d_inner, &self.conv_weight, self.conv_bias.as_ref())?;
        Ok(Features { d_model, d_inner, d_state, d_conv, dt_rank })
    }

    /// Checks that each projection is shared, or has a weight for each modality.
    pub(crate) fn validate_groups(&self, n_modalities: usize) -> Result<()> {
        for (arg, projection) in self.projections() {
            if projection.n_groups() != 1 {
                expect_size(OP, arg, "weights", n_modalities, projection.n_groups())?;
            }
        }
        Ok(())
    }
}
