//! Attention over a whole sequence, a block of queries at a time, so that scores of long sequences fit in memory.

use candle_core::{D, DType, Device, Tensor};

use super::options::Heads;
use crate::Result;

/// Scores that are held at once.
const MAX_SCORES: usize = 1 << 25;

/// `softmax(q k^T / sqrt(head_dim)) v`. `q`, `k`, `v`: `(batch, seqlen, n_heads * head_dim)`; returns the same shape.
pub(in crate::codecs) fn attend(q: &Tensor, k: &Tensor, v: &Tensor, n_heads: usize, heads: Heads) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if q.device().is_cuda()
        && let Some(y) = super::gpu::attend([q, k, v], n_heads, heads)?
    {
        return Ok(y);
    }
    let (batch, seqlen, width) = q.dims3()?;
    let apart = |x: &Tensor| x.reshape((batch, seqlen, n_heads, width / n_heads))?.transpose(1, 2)?.contiguous();
    let seen = attend_apart(&apart(q)?, &apart(k)?, &apart(v)?, heads)?;
    Ok(seen.transpose(1, 2)?.contiguous()?.reshape((batch, seqlen, width))?)
}

/// The same, head by head.
///
/// `q`, `k`, `v`: `(batch, n_heads, seqlen, head_dim)`; returns the same shape. Scores and weights are f32.
fn attend_apart(q: &Tensor, k: &Tensor, v: &Tensor, heads: Heads) -> Result<Tensor> {
    let (batch, n_heads, seqlen, head_dim) = q.dims4()?;
    let scale = (head_dim as f64).powf(-0.5);
    let (k, v) = (k.contiguous()?, v.contiguous()?);
    let per_query = (batch * n_heads * seqlen).max(1);
    let block = match heads {
        Heads::Full => (MAX_SCORES / per_query).clamp(1, seqlen.max(1)),
        // Keys outside of the window are computed for nothing, so a block is about as long as the window.
        Heads::Causal { window } => (MAX_SCORES / per_query).clamp(1, window.clamp(64, 1024)),
    };
    let mut parts = Vec::with_capacity(seqlen.div_ceil(block));
    for start in (0..seqlen).step_by(block) {
        let n = block.min(seqlen - start);
        let (from, to) = match heads {
            Heads::Full => (0, seqlen),
            Heads::Causal { window } => (start.saturating_sub(window.saturating_sub(1)), start + n),
        };
        let (keys, values) = (k.narrow(2, from, to - from)?.contiguous()?, v.narrow(2, from, to - from)?.contiguous()?);
        let queries = (q.narrow(2, start, n)?.contiguous()? * scale)?;
        let scores = queries.matmul(&keys.transpose(2, 3)?)?.to_dtype(DType::F32)?;
        let scores = match heads {
            Heads::Full => scores,
            Heads::Causal { window } => scores.broadcast_add(&mask(start, n, from, to, window, q.device())?)?,
        };
        // Frozen weights: no gradient is cut here.
        let weights = candle_nn::ops::softmax(&scores, D::Minus1)?.to_dtype(v.dtype())?;
        parts.push(weights.matmul(&values)?);
    }
    Ok(if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(&parts, 2)? })
}

/// 0 where a query sees a key, -inf elsewhere: `(n, to - from)`.
fn mask(start: usize, n: usize, from: usize, to: usize, window: usize, device: &Device) -> Result<Tensor> {
    let sees = |query: usize, key: usize| key <= query && query - key < window;
    let values: Vec<f32> = (start..start + n)
        .flat_map(|query| (from..to).map(move |key| if sees(query, key) { 0.0 } else { f32::NEG_INFINITY }))
        .collect();
    Ok(Tensor::from_vec(values, (n, to - from), device)?)
}
