//! Group norm over values whose channels lie side by side, on a GPU, and its gradients.

use candle_core::{D, DType, Tensor};
use mom_core::cuda::{GpuFloat, OnDevice, OnGpu, dispatch};
use mom_kernels::cuda::DeviceRef;
use mom_kernels::cuda::group_norm::{self as kernels, Activation, GroupNorm};
use mom_kernels::cuda::half::bf16;

use crate::Result;

const NORM: &str = "group_norm";

/// Pictures of a launch.
const MAX_BATCH: usize = 65_535;

/// A norm with its parameters, `(channels)`, f32, and what is behind it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Norm<'a> {
    pub weight: &'a Tensor,
    pub bias: &'a Tensor,
    pub n_groups: usize,
    /// Added to every variance.
    pub eps: f64,
    pub activation: Activation,
}

impl Norm<'_> {
    /// Whether the kernels take `x`, `(batch, .., channels)`, and the parameters.
    pub fn takes(&self, x: &Tensor) -> bool {
        let channels = x.dim(D::Minus1).unwrap_or_default();
        let fits = match x.dtype() {
            DType::BF16 => kernels::takes::<bf16>(channels),
            DType::F32 => kernels::takes::<f32>(channels),
            _ => false,
        };
        let batch = x.dim(0).unwrap_or_default();
        fits && self.weight.dtype() == DType::F32 && self.bias.dtype() == DType::F32 && (1..=MAX_BATCH).contains(&batch)
    }

    fn of<'a>(&self, batch: usize, weight: DeviceRef<'a, f32>, bias: DeviceRef<'a, f32>) -> GroupNorm<'a> {
        GroupNorm::new(batch, self.n_groups, weight, bias).with_eps(self.eps as f32).with_activation(self.activation)
    }
}

/// Batch, positions of each, channels.
fn sizes(x: &Tensor) -> Result<[usize; 3]> {
    let (batch, channels) = (x.dim(0)?, x.dim(D::Minus1)?);
    Ok([batch, x.elem_count() / (batch * channels).max(1), channels])
}

/// `activation(norm(x))` of `x`, `(batch, .., channels)`, contiguous: mean and variance are those of a group of channels over all
/// positions of one of the batch.
///
/// # Errors
/// What the norm does not [take](Norm::takes), groups that do not divide the channels, out of memory.
pub(crate) fn group_norm(x: &Tensor, norm: &Norm<'_>) -> Result<Tensor> {
    dispatch!(NORM, "x", x, T => typed::<T>(x, norm))
}

fn typed<T: GpuFloat>(x: &Tensor, norm: &Norm<'_>) -> Result<Tensor> {
    let on = OnGpu::of(x.device())?;
    let gpu = &*on.gpu;
    let [batch, n, channels] = sizes(x)?;
    let of_x = OnDevice::<T>::of(&on, NORM, "x", x)?;
    let weight = OnDevice::<f32>::of(&on, NORM, "weight", norm.weight)?;
    let bias = OnDevice::<f32>::of(&on, NORM, "bias", norm.bias)?;
    // SAFETY: the kernels below overwrite both; before them nothing reads either.
    let mut y = unsafe { on.uninit::<T>(of_x.len()) }?;
    let room = kernels::workspace_len::<T>(batch, n, channels, norm.n_groups);
    // SAFETY: as above.
    let mut workspace = unsafe { on.uninit::<f32>(room) }?;
    let of = norm.of(batch, weight.view(gpu)?, bias.view(gpu)?);
    let to = gpu.rows_mut(&mut y, channels)?;
    kernels::group_norm(gpu, &of_x.rows(gpu, channels)?, &of, to, gpu.write(&mut workspace))?;
    Ok(on.tensor(y, x.shape()))
}

/// The gradients of [`group_norm`]'s `x`, weight and bias, the latter two in f32; `grad`: as `x`, contiguous.
///
/// # Errors
/// As there; an activation other than none and SiLU.
pub(crate) fn group_norm_backward(x: &Tensor, norm: &Norm<'_>, grad: &Tensor) -> Result<[Tensor; 3]> {
    dispatch!(NORM, "x", x, T => typed_backward::<T>(x, norm, grad))
}

fn typed_backward<T: GpuFloat>(x: &Tensor, norm: &Norm<'_>, grad: &Tensor) -> Result<[Tensor; 3]> {
    let on = OnGpu::of(x.device())?;
    let gpu = &*on.gpu;
    let [batch, n, channels] = sizes(x)?;
    let (of_x, grad) = (OnDevice::<T>::of(&on, NORM, "x", x)?, OnDevice::<T>::of(&on, NORM, "grad_output", grad)?);
    let weight = OnDevice::<f32>::of(&on, NORM, "weight", norm.weight)?;
    let bias = OnDevice::<f32>::of(&on, NORM, "bias", norm.bias)?;
    // SAFETY: the kernels below overwrite all three; before them nothing reads any.
    let (mut grad_x, mut grads) = unsafe { (on.uninit::<T>(of_x.len())?, on.uninit::<f32>(2 * channels)?) };
    let room = kernels::backward_workspace_len::<T>(batch, n, channels, norm.n_groups);
    // SAFETY: as above.
    let mut workspace = unsafe { on.uninit::<f32>(room) }?;
    let of = norm.of(batch, weight.view(gpu)?, bias.view(gpu)?);
    let (from, to) = (of_x.rows(gpu, channels)?, gpu.rows_mut(&mut grad_x, channels)?);
    let (of_y, grads_to) = (grad.rows(gpu, channels)?, gpu.write(&mut grads));
    kernels::backward(gpu, &from, &of_y, &of, to, grads_to, gpu.write(&mut workspace))?;
    let grads = on.tensor(grads, (2, channels));
    let of_parameter = |i: usize| grads.narrow(0, i, 1)?.flatten_all();
    Ok([on.tensor(grad_x, x.shape()), of_parameter(1)?, of_parameter(0)?])
}
