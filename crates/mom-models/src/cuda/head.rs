//! The head's product and loss on a GPU, a chunk of rows at a time.

use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Shape, Tensor};
use mom_core::autograd::{Backward, record_storage, tracks};
use mom_core::cuda::{GpuFloat, OnDevice, OnGpu, dispatch};
use mom_kernels::cuda::cross_entropy::{self, Losses, Scale, Targets};
use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::library::{Factor, RECOMMENDED_WORKSPACE_BYTES, matmul};
use mom_kernels::cuda::{DeviceRows, DeviceRowsMut};

use super::on_device;
use crate::Result;
use crate::layers::{CrossEntropy, Ids, RowLosses};

const HEAD: &str = "linear_cross_entropy";

/// As profiles name the head's products; loss and gradient of the logits are apart.
const REGION: &str = "head products";

/// Logits that exist at a time, in elements: 256 MiB of 16-bit ones, products large enough to fill a card.
const MAX_LOGITS: usize = 1 << 27;

/// What a row has a share of in the loss.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shares<'a> {
    /// The same for every row.
    Each(f64),
    /// `(n_rows)` f32 on the device.
    Of(&'a Tensor),
}

impl Shares<'_> {
    fn scale(self) -> f32 {
        match self {
            Self::Each(share) => share as f32,
            Self::Of(_) => 1.0,
        }
    }
}

/// As [`crate::layers::linear_cross_entropy`], whose checks were passed; both tensors are contiguous. Rows of
/// [`crate::NO_TARGET`] have no loss. Everything here can be captured.
pub(crate) fn linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: &Ids,
    z: f64,
    shares: Shares<'_>,
) -> Result<CrossEntropy> {
    if targets.is_empty() {
        // Off the tape, which would make gradients of no bytes: the driver has no such memory.
        let loss = Tensor::zeros(1, DType::F32, x.device())?;
        return Ok(CrossEntropy { loss, rows: RowLosses::Host(Vec::new()) });
    }
    let tracked = tracks([&x, &weight]);
    dispatch!(HEAD, "x", x, T => {
        let on = OnGpu::of(x.device())?;
        let Computed { nll, total, gradients } = compute::<T>(&on, &x, &weight, targets, z as f32, shares, tracked)?;
        let node = HeadNode { shapes: [x.shape().clone(), weight.shape().clone()], gradients: Mutex::new(gradients) };
        let loss = record_storage(vec![x, weight], on.storage(total), 1, node)?;
        Ok(CrossEntropy { loss, rows: RowLosses::Device(nll) })
    })
}

struct Computed<T> {
    nll: Tensor,
    total: CudaSlice<f32>,
    gradients: Option<HeadGradients<T>>,
}

/// Of a loss whose own gradient is 1.
struct HeadGradients<T> {
    x: CudaSlice<T>,
    /// Summed over chunks in f32: bf16 would lose what a chunk adds.
    weight: CudaSlice<f32>,
}

fn compute<T: GpuFloat>(
    on: &OnGpu,
    x: &Tensor,
    weight: &Tensor,
    targets: &Ids,
    z: f32,
    shares: Shares<'_>,
    tracked: bool,
) -> Result<Computed<T>> {
    let gpu = &*on.gpu;
    let scale = Scale::new(shares.scale()).with_z(z);
    let (vocab_size, d_model) = weight.dims2()?;
    let n_rows = targets.len();
    let chunk = (MAX_LOGITS / vocab_size).max(128).min(n_rows);
    let (x_view, weight_view) = (OnDevice::<T>::of(on, HEAD, "x", x)?, OnDevice::<T>::of(on, HEAD, "weight", weight)?);
    let weight_rows = weight_view.rows(gpu, d_model)?;
    let target_ids = on_device(HEAD, targets)?;
    let target_ids = OnDevice::<u32>::of(on, HEAD, "targets", target_ids)?;
    let shares = match shares {
        Shares::Each(_) => None,
        Shares::Of(shares) => Some(OnDevice::<f32>::of(on, HEAD, "shares", shares)?),
    };
    let shares_of = |start, n| shares.as_ref().map(|shares| shares.narrow(gpu, start, n)).transpose();
    let mut out_of_range = gpu.zeros::<u32>(1)?;
    // SAFETY: each chunk's product overwrites as many logits as are read of it.
    let mut logits = unsafe { on.uninit::<T>(chunk * vocab_size) }?;
    // SAFETY: the chunks cover all rows, and overwrite both.
    let (mut nll, mut lse) = unsafe { (on.uninit::<f32>(n_rows)?, on.uninit::<f32>(n_rows)?) };
    // SAFETY: the chunks cover all rows, and overwrite it.
    let mut grad_x = tracked.then(|| unsafe { on.uninit::<T>(n_rows * d_model) }).transpose()?;
    // SAFETY: the first chunk overwrites it (beta 0); there is one, since there are rows.
    let mut grad_weight = tracked.then(|| unsafe { on.uninit::<f32>(vocab_size * d_model) }).transpose()?;
    // Gradients are long sums for few outputs: over a large vocabulary, or for the weight of a small one.
    // SAFETY: a workspace, whose contents mean nothing to the products.
    let mut workspace = tracked.then(|| unsafe { on.uninit::<u8>(RECOMMENDED_WORKSPACE_BYTES) }).transpose()?;
    for start in (0..n_rows).step_by(chunk) {
        let end = (start + chunk).min(n_rows);
        let n = end - start;
        let x_rows = x_view.narrow(gpu, start * d_model, n * d_model)?;
        let x_rows = DeviceRows::new("x", x_rows, d_model)?;
        let mut logits = gpu.write_view(logits.slice_mut(..n * vocab_size));
        let rows = DeviceRowsMut::new("logits", logits.reborrow(), vocab_size)?;
        gpu.region(REGION, || {
            matmul(gpu, 1.0, Factor::plain(&x_rows), Factor::transposed(&weight_rows), 0.0, rows, None)
        })?;
        let targets = Targets::new(target_ids.narrow(gpu, start, n)?).with_weights(shares_of(start, n)?);
        let mut losses = Losses::new(
            gpu.write_view(nll.slice_mut(start..end)),
            gpu.write_view(lse.slice_mut(start..end)),
            gpu.write(&mut out_of_range),
        );
        let (Some(grad_x), Some(grad_weight), Some(workspace)) = (&mut grad_x, &mut grad_weight, &mut workspace) else {
            let rows = DeviceRows::new("logits", logits.into_ref(), vocab_size)?;
            cross_entropy::forward(gpu, &rows, &targets, &mut losses)?;
            continue;
        };
        let mut rows = DeviceRowsMut::new("logits", logits, vocab_size)?;
        cross_entropy::forward_backward_in_place(gpu, &mut rows, &targets, scale, &mut losses)?;
        let grad = rows.into_rows();
        let to = gpu.write_view(grad_x.slice_mut(start * d_model..end * d_model));
        let to = DeviceRowsMut::new("grad_x", to, d_model)?;
        let of_weight = gpu.rows_mut(grad_weight, d_model)?;
        let beta = if start == 0 { 0.0 } else { 1.0 };
        gpu.region(REGION, || {
            let (plain, transposed) = (Factor::plain(&grad), Factor::transposed(&grad));
            matmul(gpu, 1.0, plain, Factor::plain(&weight_rows), 0.0, to, Some(gpu.write(workspace)))?;
            matmul(gpu, 1.0, transposed, Factor::plain(&x_rows), beta, of_weight, Some(gpu.write(workspace)))
        })?;
    }
    // SAFETY: the next call overwrites it.
    let mut total = unsafe { on.uninit::<f32>(1) }?;
    let shares = shares_of(0, n_rows)?;
    cross_entropy::total(gpu, &gpu.read(&nll), &gpu.read(&lse), shares.as_ref(), scale, &mut gpu.write(&mut total))?;
    let gradients = grad_x.zip(grad_weight).map(|(x, weight)| HeadGradients { x, weight });
    Ok(Computed { nll: on.tensor(nll, n_rows), total, gradients })
}

struct HeadNode<T> {
    /// Of x and the weight.
    shapes: [Shape; 2],
    /// Taken by the backward pass, which scales them in place.
    gradients: Mutex<Option<HeadGradients<T>>>,
}

impl<T: GpuFloat> HeadNode<T> {
    fn scaled(&self, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let gradients = self.gradients.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(HeadGradients { mut x, weight }) = gradients else {
            return Err(candle_core::Error::Msg(format!("{HEAD}: a loss on a GPU has one backward pass")).into());
        };
        let on = OnGpu::of(grad.device())?;
        let gpu = &*on.gpu;
        let factor = OnDevice::<f32>::of(&on, HEAD, "grad_output", grad)?;
        let factor = factor.view(gpu)?;
        cross_entropy::scale_in_place::<T>(gpu, &mut gpu.write(&mut x), &factor)?;
        // SAFETY: the next call overwrites it.
        let mut rounded = unsafe { on.uninit::<T>(weight.len()) }?;
        cross_entropy::scale::<T>(gpu, &gpu.read(&weight), &factor, &mut gpu.write(&mut rounded))?;
        let [of_x, of_weight] = &self.shapes;
        Ok(vec![Some(on.tensor(x, of_x)), Some(on.tensor(rounded, of_weight))])
    }
}

impl<T: GpuFloat> Backward for HeadNode<T> {
    fn name(&self) -> &'static str {
        HEAD
    }
    fn backward(&self, grad: &Tensor, _: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        Ok(self.scaled(grad)?)
    }
}
