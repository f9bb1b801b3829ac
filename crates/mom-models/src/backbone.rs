//! The backbone: blocks between an embedding and a final norm.

use std::sync::Arc;

use candle_core::Tensor;
use candle_nn::VarBuilder;
use mom_core::{Arrivals, Block, Init, Part, Plan, RmsNorm};

use crate::blocks::{Blocks, Passed, States};
use crate::{ModelConfig, Result};

/// `layers.I.*` (two blocks a layer, numbered on; of a transformer one) and `norm_f.weight`.
#[derive(Debug, Clone)]
pub struct Backbone {
    blocks: Blocks,
    norm_f: RmsNorm,
    arrivals: Option<Arc<dyn Arrivals>>,
}

impl Backbone {
    /// A backbone with the parameters of `vb`; what a block adds to the residual stream is drawn smaller by the square root of
    /// the number of such sums.
    ///
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn new(config: &ModelConfig, init: &Init, vb: VarBuilder) -> Result<Self> {
        let init = init.with_residual_scale((config.scale.n_blocks() as f64).powf(-0.5));
        let blocks = Blocks::new(config, &init, &vb.pp("layers"))?;
        let norm_f = RmsNorm::new(config.scale.d_model, config.norm_eps, &init, vb.pp("norm_f"))?;
        Ok(Self { blocks, norm_f, arrivals: None })
    }

    /// The same blocks with or without recompute, see [`Block::with_recompute`].
    pub fn with_recompute(self, recompute: bool) -> Self {
        Self { blocks: self.blocks.with_recompute(recompute), ..self }
    }

    /// The same blocks, whose forward passes ask for weights before they read them.
    pub fn with_arrivals(self, arrivals: Arc<dyn Arrivals>) -> Self {
        Self { blocks: self.blocks.with_arrivals(&arrivals), arrivals: Some(arrivals), ..self }
    }

    pub(crate) fn wait_for(&self, part: Part) {
        if let Some(arrivals) = &self.arrivals {
            arrivals.wait_for(part);
        }
    }

    /// Mamba's blocks, in their order; none where the backbone is made of others.
    pub fn blocks(&self) -> &[Block] {
        match &self.blocks {
            Blocks::Mamba(blocks) => blocks,
            Blocks::Routed(_) | Blocks::Transformer(_) => &[],
        }
    }

    /// The blocks, whatever they are.
    pub fn all_blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// `x`: `(n_rows, d_model)`, rows in modality order. Returns the same shape, normed, and what keeps a router in balance.
    ///
    /// # Errors
    /// As [`Block::forward`].
    pub fn forward(&self, x: &Tensor, plan: &Plan) -> Result<Passed> {
        if self.blocks().is_empty() {
            // These ask for nothing themselves; with the last part all are there.
            self.wait_for(Part::Last);
        }
        let Passed { x, balance } = self.blocks.forward(x, plan)?;
        self.wait_for(Part::Last);
        Ok(Passed { x: self.norm_f.forward(&x)?, balance })
    }

    /// The final norm alone.
    pub(crate) fn normed(&self, x: &Tensor) -> Result<Tensor> {
        self.wait_for(Part::Last);
        Ok(self.norm_f.forward(x)?)
    }

    #[cfg(feature = "cuda")]
    pub(crate) fn norm_f(&self) -> &RmsNorm {
        &self.norm_f
    }

    /// The states before a sequence.
    ///
    /// # Errors
    /// Parameters of an unsupported element type.
    pub fn initial_states(&self, batch: usize) -> Result<States> {
        self.blocks.initial_states(batch)
    }

    /// As [`Self::forward`], from states on, which are left as they are after the last position. Not differentiable.
    ///
    /// # Errors
    /// As [`Block::forward_from`].
    pub fn forward_from(&self, x: &Tensor, plan: &Plan, states: &mut States) -> Result<Tensor> {
        self.wait_for(Part::Last);
        Ok(self.norm_f.forward(&self.blocks.forward_from(x, plan, states)?)?)
    }
}
