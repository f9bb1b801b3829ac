//! The transformer over frames, with positions from a convolution.
//!
//! Source: Baevski et al. 2020 (arXiv 2006.11477), section 2; `modeling_hubert.py` of transformers.

use candle_core::{DType, Tensor};

use super::config::{HubertSettings, NormOrder};
use crate::Result;
use crate::codecs::layers::{Conv1d, Heads, LayerNorm, Linear, Map, attend};
use crate::codecs::network::Scope;

/// Positions, layers, and a norm.
#[derive(Debug, Clone)]
pub(super) struct Encoder {
    pos_conv: Conv1d,
    layer_norm: LayerNorm,
    layers: Vec<Layer>,
    order: NormOrder,
    n_heads: usize,
}

#[derive(Debug, Clone)]
struct Layer {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    layer_norm: LayerNorm,
    intermediate: Linear,
    output: Linear,
    final_layer_norm: LayerNorm,
}

impl Encoder {
    /// `n_heads` divides `n`: the caller has checked.
    pub fn new(
        n: usize,
        n_heads: usize,
        order: NormOrder,
        settings: &HubertSettings,
        scope: &Scope<'_>,
    ) -> Result<Self> {
        let eps = settings.layer_norm_eps;
        let n_layers = scope.count("layers.").max(settings.n_layers.unwrap_or(0));
        let layers = (0..n_layers).map(|i| Layer::new(n, eps, &scope.pp("layers").pp(i)));
        Ok(Self {
            pos_conv: pos_conv(n, &scope.pp("pos_conv_embed.conv"))?,
            layer_norm: LayerNorm::new(n, eps, &scope.pp("layer_norm"))?,
            layers: layers.collect::<Result<_>>()?,
            order,
            n_heads,
        })
    }

    pub fn n_layers(&self) -> usize {
        self.layers.len()
    }

    /// `(batch, frames, n)` to the output of the first `n_layers` layers; the norm that stands behind all layers of a
    /// pre-norm network is only applied where `last`.
    pub fn forward(&self, x: &Tensor, n_layers: usize, last: bool) -> Result<Tensor> {
        let mut x = (x + self.positions(x)?)?;
        if self.order == NormOrder::Post {
            x = self.layer_norm.forward(&x)?;
        }
        for layer in &self.layers[..n_layers] {
            x = layer.forward(&x, self.n_heads, self.order)?;
        }
        if self.order == NormOrder::Pre && last { self.layer_norm.forward(&x) } else { Ok(x) }
    }

    fn positions(&self, x: &Tensor) -> Result<Tensor> {
        let (_, n_frames, _) = x.dims3()?;
        let half = self.pos_conv.reach() / 2;
        let y = self.pos_conv.forward(&Map::of_rows(x)?, [half; 2])?;
        // An even kernel gives one frame too many.
        Ok(y.rows()?.narrow(1, 0, n_frames)?.contiguous()?.gelu_erf()?)
    }
}

/// A grouped convolution whose weight is stored as direction and length, one length for each place of the kernel
/// (weight norm, Salimans and Kingma 2016, arXiv 1602.07868, with `dim = 2`).
fn pos_conv(n: usize, scope: &Scope<'_>) -> Result<Conv1d> {
    let new = scope.holds("parametrizations");
    let (g, v) = if new {
        ("parametrizations.weight.original0", "parametrizations.weight.original1")
    } else {
        ("weight_g", "weight_v")
    };
    let (per_group, kernel) = (scope.side(v, 1, 3)?, scope.side(v, 2, 3)?);
    let (length, direction) = (scope.get_f32(g, &[1, 1, kernel])?, scope.get_f32(v, &[n, per_group, kernel])?);
    let norm = direction.sqr()?.sum_keepdim(0)?.sum_keepdim(1)?.sqrt()?;
    let weight = direction.broadcast_mul(&length.broadcast_div(&norm)?)?.to_dtype(scope.dtype())?;
    let groups = (n / per_group).max(1);
    if groups * per_group != n {
        // Named by its shape.
        scope.get(v, &[n, n / groups, kernel])?;
    }
    Conv1d::from_weight(&weight, Some(scope.get("bias", &[n])?), groups)
}

impl Layer {
    fn new(n: usize, eps: f64, scope: &Scope<'_>) -> Result<Self> {
        let attention = |name| Linear::new(n, n, &scope.pp("attention").pp(name));
        let hidden = scope.side("feed_forward.intermediate_dense.weight", 0, 2)?;
        Ok(Self {
            q_proj: attention("q_proj")?,
            k_proj: attention("k_proj")?,
            v_proj: attention("v_proj")?,
            out_proj: attention("out_proj")?,
            layer_norm: LayerNorm::new(n, eps, &scope.pp("layer_norm"))?,
            intermediate: Linear::new(n, hidden, &scope.pp("feed_forward.intermediate_dense"))?,
            output: Linear::new(hidden, n, &scope.pp("feed_forward.output_dense"))?,
            final_layer_norm: LayerNorm::new(n, eps, &scope.pp("final_layer_norm"))?,
        })
    }

    fn forward(&self, x: &Tensor, n_heads: usize, order: NormOrder) -> Result<Tensor> {
        match order {
            NormOrder::Post => {
                let x = self.layer_norm.forward(&(x + self.attention(x, n_heads)?)?)?;
                self.final_layer_norm.forward(&(&x + self.feed_forward(&x)?)?)
            }
            NormOrder::Pre => {
                let x = (x + self.attention(&self.layer_norm.forward(x)?, n_heads)?)?;
                Ok((&x + self.feed_forward(&self.final_layer_norm.forward(&x)?)?)?)
            }
        }
    }

    fn attention(&self, x: &Tensor, n_heads: usize) -> Result<Tensor> {
        let (q, k, v) = (self.q_proj.forward(x)?, self.k_proj.forward(x)?, self.v_proj.forward(x)?);
        self.out_proj.forward(&attend(&q, &k, &v, n_heads, Heads::Full)?)
    }

    fn feed_forward(&self, x: &Tensor) -> Result<Tensor> {
        self.output.forward(&self.intermediate.forward(x)?.gelu_erf()?)
    }
}

/// `(x - mean) / sqrt(variance + eps)` of each waveform `(batch, samples)`, f32.
pub(super) fn normalise(audio: &Tensor, eps: f64) -> Result<Tensor> {
    let audio = audio.to_dtype(DType::F32)?;
    let n = audio.dim(1)? as f64;
    let centred = audio.broadcast_sub(&(audio.sum_keepdim(1)? / n)?)?;
    let deviation = ((centred.sqr()?.sum_keepdim(1)? / n)? + eps)?.sqrt()?;
    Ok(centred.broadcast_div(&deviation)?)
}
