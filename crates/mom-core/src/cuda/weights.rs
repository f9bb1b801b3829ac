//! Projections, mixers and blocks as the kernels read them.

use candle_core::Tensor;
use mom_kernels::cuda::Gpu;
use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::grouped_gemm::{GroupedGrads, GroupedWeights};
use mom_kernels::cuda::mixer::{Block, MixerWeights};

use super::on_device::OnDevice;
use super::on_gpu::{GpuFloat, OnGpu};
use super::row_ranges::joined;
use crate::Result;
use crate::error::require;
use crate::linear::GroupedLinear;
use crate::weights::Weights;

const OP: &str = "mixer";

/// Whose weights the kernels see.
#[derive(Debug, Clone, Copy)]
pub(super) enum Of {
    /// Those of all modalities.
    All,
    /// Those of one modality alone, as projections that all rows share: nothing is brought together, nor allocated.
    Modality(usize),
}

/// Calls `with` with a mixer's weights as views.
///
/// # Errors
/// Those of `with`; parameters of another element type than T or on another device than `on`; a modality that is not there.
pub(super) fn with_mixer<T: GpuFloat, R>(
    on: &OnGpu,
    gpu: &Gpu,
    weights: &Weights,
    of: Of,
    with: impl FnOnce(MixerWeights<'_, T>) -> Result<R>,
) -> Result<R> {
    // Before `Projection::new`, which may launch a copy.
    let small = |arg, tensor| OnDevice::<f32>::of(on, OP, arg, tensor);
    let conv_weight = small("conv1d.weight", &weights.conv_weight)?;
    let conv_bias = weights.conv_bias.as_ref().map(|bias| small("conv1d.bias", bias)).transpose()?;
    let (a_log, d_skip) = (small("A_log", &weights.a_log)?, small("D", &weights.d_skip)?);
    let in_proj = Projection::new(&weights.in_proj, of)?;
    let x_proj = Projection::new(&weights.x_proj, of)?;
    let dt_proj = Projection::new(&weights.dt_proj, of)?;
    let out_proj = Projection::new(&weights.out_proj, of)?;
    let (in_proj, x_proj) = (in_proj.on_device::<T>(on)?, x_proj.on_device::<T>(on)?);
    let (dt_proj, out_proj) = (dt_proj.on_device::<T>(on)?, out_proj.on_device::<T>(on)?);
    with(
        MixerWeights::new(
            in_proj.grouped(gpu)?,
            conv_weight.view(gpu)?,
            x_proj.grouped(gpu)?,
            dt_proj.grouped(gpu)?,
            a_log.view(gpu)?,
            d_skip.view(gpu)?,
            out_proj.grouped(gpu)?,
        )
        .with_conv_bias(conv_bias.as_ref().map(|bias| bias.view(gpu)).transpose()?),
    )
}

/// As [`with_mixer`], with the weight and epsilon of the norm before the mixer.
pub(super) fn with_block<T: GpuFloat, R>(
    on: &OnGpu,
    gpu: &Gpu,
    (norm, eps): (&Tensor, f64),
    weights: &Weights,
    of: Of,
    with: impl FnOnce(Block<'_, T>) -> Result<R>,
) -> Result<R> {
    let norm = OnDevice::<f32>::of(on, OP, "norm.weight", norm)?;
    with_mixer(on, gpu, weights, of, |mixer| with(Block::new(norm.view(gpu)?, eps as f32, mixer)))
}

/// A projection whose biases stand side by side, as the kernels read them.
pub(super) struct Projection<'a> {
    linear: &'a GroupedLinear,
    weights: &'a [Tensor],
    /// `(n_weights, out_features)`.
    biases: Option<Tensor>,
}

impl<'a> Projection<'a> {
    pub fn new(linear: &'a GroupedLinear, of: Of) -> Result<Self> {
        let (mut weights, mut biases) = (linear.weights(), linear.biases());
        if let (Of::Modality(modality), [_, _, ..]) = (of, weights) {
            let n = weights.len();
            require(modality < n, "modality", &format!("below {n}, the number of weights"), modality)?;
            weights = &weights[modality..=modality];
            biases = if biases.is_empty() { biases } else { &biases[modality..=modality] };
        }
        let biases = match biases {
            [] => None,
            [bias] => Some(bias.detach()),
            biases => {
                let (on, n_out) = (OnGpu::of(biases[0].device())?, linear.out_features());
                Some(on.tensor(joined::<f32>(&on, biases)?, biases.len() * n_out))
            }
        };
        Ok(Self { linear, weights, biases })
    }

    pub fn on_device<T: GpuFloat>(&self, on: &OnGpu) -> Result<OnDeviceWeights<'_, T>> {
        Ok(OnDeviceWeights {
            linear: self.linear,
            weights: self.weights.iter().map(|w| OnDevice::of(on, OP, "weight", w)).collect::<Result<_>>()?,
            biases: self.biases.as_ref().map(|b| OnDevice::of(on, OP, "biases", b)).transpose()?,
        })
    }
}

/// A [`Projection`] whose tensors are held.
pub(super) struct OnDeviceWeights<'a, T> {
    linear: &'a GroupedLinear,
    weights: Vec<OnDevice<'a, T>>,
    biases: Option<OnDevice<'a, f32>>,
}

impl<T: GpuFloat> OnDeviceWeights<'_, T> {
    pub fn grouped<'b>(&'b self, gpu: &'b Gpu) -> Result<GroupedWeights<'b, T>> {
        let weights = self.weights.iter().map(|weight| weight.view(gpu)).collect::<Result<_>>()?;
        let biases = self.biases.as_ref().map(|biases| biases.view(gpu)).transpose()?;
        Ok(GroupedWeights::new(self.linear.in_features(), self.linear.out_features(), weights, biases)?)
    }
}

/// Memory for the gradients of a projection, all of which a backward pass overwrites.
pub(super) struct ProjectionGrads<T> {
    weights: Vec<CudaSlice<T>>,
    biases: Option<CudaSlice<f32>>,
}

impl<T: GpuFloat> ProjectionGrads<T> {
    pub fn new(on: &OnGpu, linear: &GroupedLinear) -> Result<Self> {
        let (n_in, n_out) = (linear.in_features(), linear.out_features());
        let weights = linear.weights().iter().map(|_| on.room(n_in * n_out)).collect::<Result<_>>()?;
        let n_biases = linear.biases().len();
        let biases = (n_biases > 0).then(|| on.room(n_biases * n_out)).transpose()?;
        Ok(Self { weights, biases })
    }

    pub fn write<'a>(&'a mut self, gpu: &'a Gpu) -> GroupedGrads<'a, T> {
        GroupedGrads::new(self.weights.iter_mut().map(|weight| gpu.write(weight)).collect())
            .with_grad_biases(self.biases.as_mut().map(|biases| gpu.write(biases)))
    }

    /// As tensors in the order of [`GroupedLinear::tensors`].
    pub fn into_tensors(self, on: &OnGpu, linear: &GroupedLinear) -> Result<Vec<Option<Tensor>>> {
        let (n_in, n_out) = (linear.in_features(), linear.out_features());
        let weights = self.weights.into_iter().map(|weight| Ok(Some(on.tensor(weight, (n_out, n_in)))));
        let mut all: Vec<_> = weights.collect::<Result<_>>()?;
        if let Some(biases) = self.biases {
            let n = linear.biases().len();
            let biases = on.tensor(biases, (n, n_out));
            for at in 0..n {
                all.push(Some(biases.get(at)?));
            }
        }
        Ok(all)
    }
}
