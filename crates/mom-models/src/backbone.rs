//! The backbone: blocks between an embedding and a final norm.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use mom_core::{Block, Init, MixerState, Plan, RmsNorm};

use crate::{ModelConfig, Result};

/// `layers.I.*` (two blocks a layer, numbered on) and `norm_f.weight`.
#[derive(Debug, Clone)]
pub struct Backbone {
    blocks: Vec<Block>,
    norm_f: RmsNorm,
}

impl Backbone {
    /// A backbone with the parameters of `vb`; out_proj's draw is divided by the square root of the number of blocks.
    ///
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn new(config: &ModelConfig, init: &Init, vb: VarBuilder) -> Result<Self> {
        let (n_blocks, d_model) = (config.scale.n_blocks(), config.scale.d_model);
        let init = init.with_residual_scale((n_blocks as f64).powf(-0.5));
        let block = config.block();
        let layers = vb.pp("layers");
        let blocks = (0..n_blocks).map(|i| Block::new(&block, &init, layers.pp(i))).collect::<Result<_, _>>()?;
        Ok(Self { blocks, norm_f: RmsNorm::new(d_model, config.norm_eps, &init, vb.pp("norm_f"))? })
    }

    /// The same blocks with or without recompute, see [`Block::with_recompute`].
    pub fn with_recompute(self, recompute: bool) -> Self {
        let blocks = self.blocks.into_iter().map(|block| block.with_recompute(recompute)).collect();
        Self { blocks, ..self }
    }

    /// The residual blocks, in their order.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// `x`: `(n_rows, d_model)`, rows in modality order. Returns the same shape, normed.
    ///
    /// # Errors
    /// As [`Block::forward`].
    pub fn forward(&self, x: &Tensor, plan: &Plan) -> Result<Tensor> {
        Ok(self.norm_f.forward(&Block::forward_all(&self.blocks, x, plan)?)?)
    }

    /// The final norm alone.
    pub(crate) fn normed(&self, x: &Tensor) -> Result<Tensor> {
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
    pub fn initial_states(&self, batch: usize) -> Result<Vec<MixerState>> {
        Ok(self.blocks.iter().map(|block| block.mixer().initial_state(batch)).collect::<Result<_, _>>()?)
    }

    /// As [`Self::forward`], from states on, which are left as they are after the last position. Not differentiable.
    ///
    /// # Errors
    /// As [`Block::forward_from`].
    pub fn forward_from(&self, x: &Tensor, plan: &Plan, states: &mut [MixerState]) -> Result<Tensor> {
        let mut x = x.clone();
        for (block, state) in self.blocks.iter().zip(states) {
            x = if plan.seqlen() == 1 { block.step(&x, plan, state)? } else { block.forward_from(&x, plan, state)? };
        }
        Ok(self.norm_f.forward(&x)?)
    }
}
