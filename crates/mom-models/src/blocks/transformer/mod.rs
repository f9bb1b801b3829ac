//! A transformer's block: attention and a feed-forward layer, each behind a norm and beside a residual.
//!
//! ```text
//! h = x + out_proj(attention(rotate(q), rotate(k), v)),   q, k, v = qkv_proj(norm_1(x))
//! y = h + down_proj(silu(gate) up),                       gate, up = up_proj(norm_2(h))
//! ```
//!
//! Pre-norm with RMS norm, rotary positions (arXiv 2104.09864) and SwiGLU (arXiv 2002.05202), as Llama, Chameleon and
//! Transfusion have it. Causal; in both directions inside of a plan's spans, the pictures of Transfusion (arXiv 2408.11039).
//! Mixture-of-Transformers (arXiv 2411.04996) is the same block with everything but the attention itself for each modality:
//! its projections, its feed-forward layer and its norms.

mod config;
mod norm;
mod state;

use candle_core::Tensor;
use candle_nn::VarBuilder;
use mom_core::ops::{GroupedLinear, Rotary, attention, grouped_linear, rotary_embedding};
use mom_core::{Draw, Init, Plan};

pub use config::{TransformerConfig, Tying};
use norm::GroupedNorm;
pub use state::KeyValues;

use crate::Result;

/// See the module. Parameters: `norm_1.weight`, `qkv_proj.weight`, `out_proj.weight`, `norm_2.weight`, `up_proj.weight` (gate,
/// then up), `down_proj.weight`; with weights for each modality `local_experts_NAME.M.weight`.
#[derive(Debug, Clone)]
pub struct TransformerBlock {
    n_heads: usize,
    rotary: Rotary,
    norm_1: GroupedNorm,
    qkv_proj: GroupedLinear,
    out_proj: GroupedLinear,
    norm_2: GroupedNorm,
    up_proj: GroupedLinear,
    down_proj: GroupedLinear,
}

impl TransformerBlock {
    /// A block with the parameters of `vb`. Draws: Linear as PyTorch's default, U(-fan_in^-1/2, fan_in^-1/2); out_proj and
    /// down_proj scaled by `init`.
    ///
    /// # Errors
    /// An invalid configuration; a parameter that is missing, of another shape, or not finite.
    pub fn new(config: &TransformerConfig, rotary: &Rotary, init: &Init, vb: VarBuilder) -> Result<Self> {
        config.validate()?;
        let TransformerConfig { d_model, d_ff, norm_eps, .. } = *config;
        let own = config.own();
        let linear = |name: &str, n_in: usize, n_out: usize, scale: f64| {
            let draw = Draw::Uniform((n_in as f64).powf(-0.5) * scale);
            GroupedLinear::load(init, &vb, name, (n_in, n_out), own, (draw, None))
        };
        let norm = |name: &str| GroupedNorm::new(d_model, norm_eps, own, init, &vb, name);
        Ok(Self {
            n_heads: config.n_heads,
            rotary: rotary.clone(),
            norm_1: norm("norm_1")?,
            qkv_proj: linear("qkv_proj", d_model, 3 * d_model, 1.0)?,
            out_proj: linear("out_proj", d_model, d_model, init.residual_scale())?,
            norm_2: norm("norm_2")?,
            up_proj: linear("up_proj", d_model, 2 * d_ff, 1.0)?,
            down_proj: linear("down_proj", d_ff, d_model, init.residual_scale())?,
        })
    }

    /// `x`: `(n_rows, d_model)`, rows in modality order. Returns the same shape.
    ///
    /// # Errors
    /// Shapes that disagree, an element type that the device's operations do not have, tensors on several devices.
    pub fn forward(&self, x: &Tensor, plan: &Plan) -> Result<Tensor> {
        let [q, k, v] = self.queries_keys_values(x, &[], plan)?;
        self.behind_attention(x, &attention(&q, &k, &v, self.n_heads, plan)?, plan)
    }

    /// As [`Self::forward`], behind what `state` has read; it has read these too then. Not differentiable.
    ///
    /// # Errors
    /// As [`Self::forward`]; a state of another batch. The state is then as it was.
    pub fn forward_from(&self, x: &Tensor, plan: &Plan, state: &mut KeyValues) -> Result<Tensor> {
        let qkv = self.queries_keys_values(x, &state.lens(plan.batch()), plan)?;
        let (out, next) = state.attend(qkv, self.n_heads, plan)?;
        let y = self.behind_attention(x, &out, plan)?;
        *state = next;
        Ok(y)
    }

    /// `offsets`: of each sequence that is decoded, the positions that came before.
    fn queries_keys_values(&self, x: &Tensor, offsets: &[u32], plan: &Plan) -> Result<[Tensor; 3]> {
        let d_model = self.out_proj.in_features();
        let qkv = grouped_linear(&self.norm_1.forward(x, plan)?, &self.qkv_proj, plan)?;
        let part = |i: usize| qkv.narrow(1, i * d_model, d_model);
        let turned = |x: Tensor| rotary_embedding(&x, self.n_heads, &self.rotary, offsets, plan);
        Ok([turned(part(0)?)?, turned(part(1)?)?, part(2)?])
    }

    fn behind_attention(&self, x: &Tensor, attended: &Tensor, plan: &Plan) -> Result<Tensor> {
        let h = (x + grouped_linear(attended, &self.out_proj, plan)?)?;
        let d_ff = self.down_proj.in_features();
        let both = grouped_linear(&self.norm_2.forward(&h, plan)?, &self.up_proj, plan)?;
        let gated = (both.narrow(1, 0, d_ff)?.contiguous()?.silu()? * both.narrow(1, d_ff, d_ff)?)?;
        Ok((&h + grouped_linear(&gated, &self.down_proj, plan)?)?)
    }
}
