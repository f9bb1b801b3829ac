//! The transformers before and behind the quantizer: causal within a window, rotary positions, a learned scale of each branch.
//!
//! Source: Défossez et al. 2024 (Moshi, arXiv 2410.00037), section 3.3; `moshi/modules/transformer.py` of kyutai-labs/moshi.

use candle_core::{DType, Device, Tensor};

use super::config::MimiSettings;
use crate::Result;
use crate::codecs::layers::{Heads, LayerNorm, Linear, Map, attend};
use crate::codecs::network::Scope;

/// Layers over frames.
#[derive(Debug, Clone)]
pub(super) struct Transformer {
    layers: Vec<Layer>,
    settings: MimiSettings,
}

#[derive(Debug, Clone)]
struct Layer {
    input_layernorm: LayerNorm,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    self_attn_scale: Tensor,
    post_attention_layernorm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    mlp_scale: Tensor,
}

impl Transformer {
    pub fn new(n: usize, settings: MimiSettings, scope: &Scope<'_>) -> Result<Self> {
        let n_layers = scope.count("layers.").max(settings.n_layers.unwrap_or(0));
        let layers = (0..n_layers).map(|i| Layer::new(n, settings, &scope.pp("layers").pp(i)));
        Ok(Self { layers: layers.collect::<Result<_>>()?, settings })
    }

    /// `(batch, n, frames)` to the same.
    pub fn forward(&self, of: &Map) -> Result<Map> {
        let mut x = of.rows()?;
        let rotation = Rotation::new(x.dim(1)?, self.layers.first(), self.settings, x.device())?;
        for layer in &self.layers {
            x = layer.forward(&x, self.settings, &rotation)?;
        }
        of.with_rows(&x)
    }
}

impl Layer {
    fn new(n: usize, settings: MimiSettings, scope: &Scope<'_>) -> Result<Self> {
        let attention = scope.pp("self_attn");
        let (q_proj, k_proj, v_proj, inner) = if attention.has("in_proj_weight") {
            // Kyutai's: the three in one, positions rotated by neighbouring rows in place of halves of a head.
            let stacked = attention.get("in_proj_weight", &[3 * n, n])?;
            let rows = |i: usize| stacked.narrow(0, i * n, n);
            let linear = |weight: Tensor| Linear::from_weight(weight);
            let q = linear(halves(&rows(0)?, settings.n_heads)?)?;
            (q, linear(halves(&rows(1)?, settings.n_heads)?)?, linear(rows(2)?)?, n)
        } else {
            let inner = attention.side("q_proj.weight", 0, 2)?;
            let linear = |name| Linear::without_bias(n, inner, &attention.pp(name));
            (linear("q_proj")?, linear("k_proj")?, linear("v_proj")?, inner)
        };
        settings.check_width(inner)?;
        let norm = |name| LayerNorm::new(n, settings.norm_eps, &scope.pp(name));
        let hidden = scope.side("mlp.fc1.weight", 0, 2)?;
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            q_proj,
            k_proj,
            v_proj,
            o_proj: Linear::without_bias(inner, n, &attention.pp("o_proj"))?,
            self_attn_scale: scope.get("self_attn_layer_scale.scale", &[n])?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            fc1: Linear::without_bias(n, hidden, &scope.pp("mlp.fc1"))?,
            fc2: Linear::without_bias(hidden, n, &scope.pp("mlp.fc2"))?,
            mlp_scale: scope.get("mlp_layer_scale.scale", &[n])?,
        })
    }

    fn forward(&self, x: &Tensor, settings: MimiSettings, rotation: &Rotation) -> Result<Tensor> {
        let (batch, n_frames, _) = x.dims3()?;
        let h = self.input_layernorm.forward(x)?;
        let rotated = |of: &Linear| -> Result<Tensor> {
            let y = of.forward(&h)?;
            let heads = y.reshape((batch, n_frames, settings.n_heads, y.dim(2)? / settings.n_heads))?;
            let heads = rotation.apply(&heads.transpose(1, 2)?.contiguous()?)?;
            Ok(heads.transpose(1, 2)?.contiguous()?.flatten_from(2)?)
        };
        let (q, k, v) = (rotated(&self.q_proj)?, rotated(&self.k_proj)?, self.v_proj.forward(&h)?);
        let seen = attend(&q, &k, &v, settings.n_heads, Heads::Causal { window: settings.window })?;
        let seen = self.o_proj.forward(&seen)?;
        let x = (x + seen.broadcast_mul(&self.self_attn_scale)?)?;
        let h = self.fc1.forward(&self.post_attention_layernorm.forward(&x)?)?.gelu_erf()?;
        Ok((&x + self.fc2.forward(&h)?.broadcast_mul(&self.mlp_scale)?)?)
    }
}

/// Rows (2i, 2i + 1) of each head become (i, i + head_dim / 2).
fn halves(rows: &Tensor, n_heads: usize) -> Result<Tensor> {
    let (n_out, n_in) = rows.dims2()?;
    let pairs = n_out / n_heads / 2;
    if pairs * n_heads * 2 != n_out {
        // Refused by whoever checks the number of heads.
        return Ok(rows.clone());
    }
    Ok(rows.reshape((n_heads, pairs, 2, n_in))?.transpose(1, 2)?.contiguous()?.reshape((n_out, n_in))?)
}

/// Rotary positions (Su et al. 2021, arXiv 2104.09864) by halves of a head, in f32.
struct Rotation {
    cos: Tensor,
    sin: Tensor,
}

impl Rotation {
    fn new(n_frames: usize, layer: Option<&Layer>, settings: MimiSettings, device: &Device) -> Result<Self> {
        let inner = layer.map_or(Ok(0), |layer| layer.o_proj.n_in())?;
        let half = inner / settings.n_heads / 2;
        let angle = |position: usize, i: usize| position as f64 * settings.rope_theta.powf(-(i as f64) / half as f64);
        let table = |of: fn(f64) -> f64| -> Result<Tensor> {
            let values: Vec<f32> = (0..n_frames).flat_map(|p| (0..half).map(move |i| of(angle(p, i)) as f32)).collect();
            Ok(Tensor::from_vec(values, (n_frames, half), device)?)
        };
        Ok(Self { cos: table(f64::cos)?, sin: table(f64::sin)? })
    }

    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let wide = x.to_dtype(DType::F32)?;
        Ok(candle_nn::rotary_emb::rope(&wide, &self.cos, &self.sin)?.to_dtype(x.dtype())?)
    }
}
