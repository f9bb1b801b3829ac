//! The head and its loss in one: logits never exist but for a chunk of rows.

use candle_core::{DType, Tensor};
use mom_core::autograd::{Backward, record, tracks};
use mom_core::host::{Float, Host, dispatch, tensor};
use mom_kernels::cross_entropy::{Gradient, RowLoss, forward_backward};
use mom_kernels::grouped_gemm::{self, GroupedGrads, GroupedWeights, Into as Write};
use mom_kernels::{ModalityOffsets, Rows, RowsMut};

use super::Ids;
use crate::Result;
use crate::error::require_batch;

const OP: &str = "linear_cross_entropy";

/// Logits that exist at a time, in elements.
const MAX_LOGITS: usize = 1 << 22;

/// What [`linear_cross_entropy`] gives.
#[derive(Debug)]
pub struct CrossEntropy {
    /// `(1)`: sum over rows of `nll + z lse^2`, over `n_targets`.
    pub loss: Tensor,
    /// Losses of the rows, in their order.
    pub rows: RowLosses,
}

/// Losses of rows, where they were computed.
#[derive(Debug)]
pub enum RowLosses {
    /// In memory.
    Host(Vec<RowLoss>),
    /// `(n_rows)` f32 on a device: the negative log-likelihoods.
    Device(Tensor),
}

impl RowLosses {
    /// The negative log-likelihood of each row. Waits for the device, where they are on one.
    ///
    /// # Errors
    /// What ran on the device before failed.
    pub fn nll(&self) -> Result<Vec<f64>> {
        match self {
            Self::Host(rows) => Ok(rows.iter().map(|row| row.nll).collect()),
            Self::Device(nll) => Ok(nll.to_vec1::<f32>()?.into_iter().map(f64::from).collect()),
        }
    }
}

/// Mean cross-entropy of `x W^T` against targets, with a z-loss.
///
/// * `x`: `(n_rows, d_model)`; `weight`: `(vocab_size, d_model)`.
/// * `targets`: `(n_rows)`, each below vocab_size.
/// * `n_targets`: what the sum is divided by; the number of rows, or more where gradients are accumulated.
///
/// Gradients of x and the weight are computed along with the loss, chunk by chunk of rows, where anybody asks for them.
/// Without a row the loss is zero, and on a GPU it depends on nothing. **Saved for backward:** these two gradients; on a GPU
/// the backward pass takes them, and a second one over the same loss is an error.
///
/// # Errors
/// Sizes that disagree, a target out of range or not where x is, an unsupported or differing element type, tensors on several devices.
pub fn linear_cross_entropy(
    x: &Tensor,
    weight: &Tensor,
    targets: &Ids,
    z: f64,
    n_targets: usize,
) -> Result<CrossEntropy> {
    let (n_rows, d_model) = x.dims2()?;
    let (vocab_size, width) = weight.dims2()?;
    require_batch(d_model == width, "x", None, format!("{width} features wide"), format!("{d_model} wide"))?;
    require_batch(targets.len() == n_rows, "targets", None, format!("{n_rows} entries"), targets.len())?;
    targets.expect_below("targets", vocab_size)?;
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    let scale = 1.0 / n_targets.max(1) as f64;
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return crate::cuda::linear_cross_entropy(x, weight, targets, z, crate::cuda::Shares::Each(scale));
    }
    let tracked = tracks([&x, &weight]);
    dispatch!(OP, "x", x, T => {
        let Computed { rows, grad_x, grad_weight } = compute::<T>(&x, &weight, targets.as_slice(), z, scale, tracked)?;
        let total: f64 = rows.iter().map(|row| row.nll + z * row.lse * row.lse).sum();
        let node = if tracked {
            Node { grad_x: Some(tensor(grad_x, x.shape())?), grad_weight: Some(tensor(grad_weight, weight.shape())?) }
        } else {
            Node { grad_x: None, grad_weight: None }
        };
        let loss = record(vec![x, weight], vec![<T as mom_kernels::Element>::from_f64(total * scale)], 1, node)?;
        Ok(CrossEntropy { loss, rows: RowLosses::Host(rows) })
    })
}

struct Computed<T> {
    rows: Vec<RowLoss>,
    grad_x: Vec<T>,
    grad_weight: Vec<T>,
}

fn compute<T: Float>(
    x: &Tensor,
    weight: &Tensor,
    targets: &[u32],
    z: f64,
    scale: f64,
    tracked: bool,
) -> Result<Computed<T>> {
    let (vocab_size, d_model) = weight.dims2()?;
    let (x, weight) = (Host::<T>::of(OP, "x", x)?, Host::<T>::of(OP, "weight", weight)?);
    let (x, weight) = (x.slice()?, weight.slice()?);
    let weights = GroupedWeights::new(d_model, vocab_size, vec![weight], None)?;
    let chunk = (MAX_LOGITS / vocab_size).max(64).min(targets.len().max(1));
    let mut rows = vec![RowLoss::default(); targets.len()];
    let empty = |len: usize| vec![T::ZERO; if tracked { len } else { 0 }];
    let (mut grad_x, mut grad_weight) = (empty(x.len()), empty(weight.len()));
    let mut of_chunk = empty(weight.len());
    let mut logits = vec![T::ZERO; chunk * vocab_size];
    let gradient = if tracked { Gradient::InPlace { scale, z } } else { Gradient::None };
    for (at, (targets, rows)) in targets.chunks(chunk).zip(rows.chunks_mut(chunk)).enumerate() {
        let n = targets.len();
        let offsets = ModalityOffsets::single(n);
        let span = at * chunk * d_model..(at * chunk + n) * d_model;
        let x = Rows::new("x", &x[span.clone()], d_model)?;
        let logits = &mut logits[..n * vocab_size];
        grouped_gemm::forward(&offsets, x, &weights, RowsMut::new("logits", logits, vocab_size)?)?;
        forward_backward(RowsMut::new("logits", logits, vocab_size)?, targets, gradient, rows)?;
        if tracked {
            let grad = Rows::new("grad_logits", logits, vocab_size)?;
            let to = RowsMut::new("grad_x", &mut grad_x[span], d_model)?;
            grouped_gemm::backward_input(&offsets, grad, &weights, to, Write::Overwrite)?;
            let to = if at == 0 { &mut grad_weight } else { &mut of_chunk };
            let grads = GroupedGrads::new(vec![to]);
            grouped_gemm::backward_weights(&offsets, x, grad, &weights, grads)?;
            if at > 0 {
                for (sum, &part) in grad_weight.iter_mut().zip(&of_chunk) {
                    *sum += part;
                }
            }
        }
    }
    Ok(Computed { rows, grad_x, grad_weight })
}

/// Gradients that were computed with the loss.
struct Node {
    grad_x: Option<Tensor>,
    grad_weight: Option<Tensor>,
}

impl Backward for Node {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(&self, grad: &Tensor, _: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        [&self.grad_x, &self.grad_weight]
            .into_iter()
            .map(|saved| {
                let scaled = |saved: &Tensor| match grad.to_dtype(DType::F64)?.to_vec1::<f64>()?[..] {
                    // The seed of a training step: one times a gradient is the gradient.
                    [1.0] => Ok(saved.clone()),
                    _ => saved.broadcast_mul(&grad.to_dtype(saved.dtype())?),
                };
                saved.as_ref().map(scaled).transpose()
            })
            .collect()
    }
}
