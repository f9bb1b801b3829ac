//! The residual block: `x + mixer(norm(x))`.

use std::sync::Arc;

use candle_core::Tensor;
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

#[cfg(feature = "cuda")]
use crate::error::expect_device;
use crate::error::require;
use crate::init::Draw;
use crate::ops::add;
use crate::{Arrivals, Init, MixerConfig, MixerState, MixtureOfMamba, Part, Plan, Result, ops, to_positions, to_rows};

/// RMS norm with a weight, `norm.weight` in a checkpoint. Its gradient is ours: candle-nn's fused norm has none.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    /// A norm over `size` features; its weight starts at one.
    ///
    /// # Errors
    /// A parameter that is missing, of another shape, or not finite.
    pub fn new(size: usize, eps: f64, init: &Init, vb: VarBuilder) -> Result<Self> {
        Ok(Self { weight: init.precise(&vb, &[size], "weight", "weight", Draw::Constant(1.0))?, eps })
    }

    /// The weight, and what is added to the mean square.
    #[cfg(feature = "cuda")]
    pub(crate) fn parts(&self) -> (&Tensor, f64) {
        (&self.weight, self.eps)
    }

    /// Normalises the last dimension of `x`.
    ///
    /// # Errors
    /// As [`ops::rms_norm`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::rms_norm(x, &self.weight, self.eps)
    }
}

impl candle_core::Module for RmsNorm {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        Ok(Self::forward(self, x)?)
    }
}

/// Configuration of a residual block.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockConfig {
    /// The mixer.
    pub mixer: MixerConfig,
    /// Added to the mean square in the norm.
    #[serde(default = "default_eps")]
    pub norm_eps: f64,
}

const fn default_eps() -> f64 {
    1e-5
}

impl BlockConfig {
    /// A block around a mixer.
    pub fn new(mixer: MixerConfig) -> Self {
        Self { mixer, norm_eps: default_eps() }
    }

    /// Checks every value.
    ///
    /// # Errors
    /// [`crate::Error::Config`], naming the field.
    pub fn validate(&self) -> Result<()> {
        require(self.norm_eps > 0.0 && self.norm_eps < 1.0, "norm_eps", "between 0 and 1", self.norm_eps)?;
        self.mixer.validate()
    }

    /// Weights that a token meets.
    pub fn active_parameters(&self) -> usize {
        self.mixer.d_model + self.mixer.active_parameters()
    }

    /// Weights of all modalities together.
    pub fn total_parameters(&self) -> usize {
        self.mixer.d_model + self.mixer.total_parameters()
    }
}

/// `x + mixer(norm(x))`; parameters `norm.weight` and `mixer.*`. The norm is shared by all modalities.
#[derive(Debug, Clone)]
pub struct Block {
    norm: RmsNorm,
    mixer: MixtureOfMamba,
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    recompute: bool,
    /// Who brings its weights, and its number there.
    arrivals: Option<(Arc<dyn Arrivals>, usize)>,
}

impl Block {
    /// A block with the parameters of `vb`, see [`MixtureOfMamba::new`].
    ///
    /// # Errors
    /// An invalid configuration; a parameter that is missing, of another shape, or not finite.
    pub fn new(config: &BlockConfig, init: &Init, vb: VarBuilder) -> Result<Self> {
        config.validate()?;
        let norm = RmsNorm::new(config.mixer.d_model, config.norm_eps, init, vb.pp("norm"))?;
        let mixer = MixtureOfMamba::new(&config.mixer, init, vb.pp("mixer"))?;
        Ok(Self { norm, mixer, recompute: false, arrivals: None })
    }

    /// The same block with or without recompute: on a GPU nothing but the input is then kept for the backward pass, which
    /// runs the forward pass again. On the CPU it changes nothing.
    pub fn with_recompute(self, recompute: bool) -> Self {
        Self { recompute, ..self }
    }

    /// The same block, whose forward passes ask for its weights, as those of block `index`, before they read them.
    pub fn with_arrivals(self, arrivals: Arc<dyn Arrivals>, index: usize) -> Self {
        Self { arrivals: Some((arrivals, index)), ..self }
    }

    fn wait(&self) {
        if let Some((arrivals, index)) = &self.arrivals {
            arrivals.wait_for(Part::Block(*index));
        }
    }

    /// The mixer.
    pub fn mixer(&self) -> &MixtureOfMamba {
        &self.mixer
    }

    /// The norm before it.
    pub fn norm(&self) -> &RmsNorm {
        &self.norm
    }

    /// `x`: `(n_rows, d_model)`, rows in modality order. Returns the same shape.
    ///
    /// # Errors
    /// As [`MixtureOfMamba::forward`].
    pub fn forward(&self, x: &Tensor, plan: &Plan) -> Result<Tensor> {
        Self::forward_all(std::slice::from_ref(self), x, plan)
    }

    /// Blocks in a row, each over what the one before gave; `x` where there is none. On a GPU all of them are one node of
    /// the tape.
    ///
    /// # Errors
    /// As [`MixtureOfMamba::forward`].
    pub fn forward_all(blocks: &[Self], x: &Tensor, plan: &Plan) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() && !blocks.is_empty() {
            let x = x.contiguous()?;
            blocks.iter().try_for_each(|block| {
                expect_device("block", "norm.weight", &x, &block.norm.weight)?;
                block.mixer.check(&x, plan)
            })?;
            let links = blocks.iter().map(|block| crate::cuda::Link {
                norm: Some((block.norm.weight.clone(), block.norm.eps)),
                weights: block.mixer.weights().clone(),
                recompute: block.recompute,
                arrivals: block.arrivals.clone(),
            });
            return crate::cuda::chain(x, links, plan);
        }
        blocks.iter().try_fold(x.clone(), |x, block| block.forward_by_modules(&x, plan))
    }

    /// The same computation as [`Self::forward`], norm, mixer and residual as nodes of their own.
    ///
    /// # Errors
    /// As [`MixtureOfMamba::forward`].
    pub fn forward_by_modules(&self, x: &Tensor, plan: &Plan) -> Result<Tensor> {
        self.wait();
        add(&self.mixer.forward(&self.norm.forward(x)?, plan)?, x)
    }

    /// As [`Self::forward`] over `(batch, seqlen, d_model)`.
    ///
    /// # Errors
    /// As [`MixtureOfMamba::forward`].
    pub fn forward_positions(&self, x: &Tensor, plan: &Plan) -> Result<Tensor> {
        to_positions(&self.forward(&to_rows(x, plan)?, plan)?, plan)
    }

    /// As [`Self::forward`], from `state` on. For decoding: where something is tracked, a backward pass through the result is
    /// an error ([`crate::Error::NoGradient`]).
    ///
    /// # Errors
    /// As [`MixtureOfMamba::forward_from`].
    pub fn forward_from(&self, x: &Tensor, plan: &Plan, state: &mut MixerState) -> Result<Tensor> {
        self.wait();
        add(&self.mixer.forward_from(&self.norm.forward(x)?, plan, state)?, x)
    }

    /// One position of every sequence, see [`MixtureOfMamba::step`]. Without a backward pass, as [`Self::forward_from`].
    ///
    /// # Errors
    /// As [`MixtureOfMamba::step`].
    pub fn step(&self, x: &Tensor, plan: &Plan, state: &mut MixerState) -> Result<Tensor> {
        self.wait();
        add(&self.mixer.step(&self.norm.forward(x)?, plan, state)?, x)
    }
}
