//! Grouped products on the GPU, and how the mixer's projections are handed to the kernels.

use candle_core::Tensor;
use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::grouped_gemm::{self, GroupedGrads, GroupedWeights, Into};
use mom_kernels::cuda::{CudaError, DeviceOffsets, Gpu};

use super::{GpuFloat, OnDevice, OnGpu, dispatch};
use crate::autograd::{Backward, record_storage};
use crate::ops::GroupedLinear;
use crate::{Error, Plan, Result};

const OP: &str = "grouped_linear";

/// A projection whose biases stand side by side, as the kernels read them.
pub(super) struct Projection<'a> {
    linear: &'a GroupedLinear,
    /// `(n_weights, out_features)`.
    biases: Option<Tensor>,
}

impl<'a> Projection<'a> {
    pub fn of(linear: &'a GroupedLinear) -> Result<Self> {
        let biases = match linear.biases() {
            [] => None,
            [bias] => Some(bias.detach()),
            biases => Some(Tensor::cat(&biases.iter().map(Tensor::detach).collect::<Vec<_>>(), 0)?),
        };
        Ok(Self { linear, biases })
    }

    pub fn on_device<T: GpuFloat>(&self) -> Result<OnDeviceWeights<'_, T>> {
        Ok(OnDeviceWeights {
            linear: self.linear,
            weights: self.linear.weights().iter().map(|w| OnDevice::of(OP, "weight", w)).collect::<Result<_>>()?,
            biases: self.biases.as_ref().map(|b| OnDevice::of(OP, "biases", b)).transpose()?,
        })
    }
}

pub(super) struct OnDeviceWeights<'a, T> {
    linear: &'a GroupedLinear,
    weights: Vec<OnDevice<'a, T>>,
    biases: Option<OnDevice<'a, f32>>,
}

impl<'a, T: GpuFloat> OnDeviceWeights<'a, T> {
    /// The weight and bias of one modality alone, as a projection that all rows share.
    pub fn of_modality(linear: &'a GroupedLinear, modality: usize) -> Result<Self> {
        let n_groups = linear.weights().len();
        let at = if n_groups == 1 { 0 } else { modality };
        let got = || format!("{n_groups} weights");
        let Some(weight) = linear.weights().get(at) else {
            return Err(Error::Config {
                field: "modality",
                expected: format!("one of {}", got()),
                got: at.to_string(),
            });
        };
        let biases = linear.biases().get(at).map(|bias| OnDevice::of(OP, "biases", bias)).transpose()?;
        Ok(Self { linear, weights: vec![OnDevice::of(OP, "weight", weight)?], biases })
    }

    pub fn grouped<'b>(&'b self, gpu: &'b Gpu) -> Result<GroupedWeights<'b, T>> {
        let weights = self.weights.iter().map(|weight| weight.view(gpu)).collect::<Result<_>>()?;
        let biases = self.biases.as_ref().map(|biases| biases.view(gpu)).transpose()?;
        Ok(GroupedWeights::new(self.linear.in_features(), self.linear.out_features(), weights, biases)?)
    }
}

/// Memory for the gradients of a projection.
pub(super) struct ProjectionGrads<T> {
    weights: Vec<CudaSlice<T>>,
    biases: Option<CudaSlice<f32>>,
}

impl<T: GpuFloat> ProjectionGrads<T> {
    pub fn uninit(on: &OnGpu, linear: &GroupedLinear) -> Result<Self> {
        let (n_in, n_out) = (linear.in_features(), linear.out_features());
        let weights = linear.weights().iter().map(|_| on.uninit(n_in * n_out)).collect::<Result<_>>()?;
        let n_biases = linear.biases().len();
        let biases = (n_biases > 0).then(|| on.uninit(n_biases * n_out)).transpose()?;
        Ok(Self { weights, biases })
    }

    pub fn write<'a>(&'a mut self, gpu: &'a Gpu) -> GroupedGrads<'a, T> {
        GroupedGrads {
            grad_weights: self.weights.iter_mut().map(|weight| gpu.write(weight)).collect(),
            grad_biases: self.biases.as_mut().map(|biases| gpu.write(biases)),
        }
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

/// As [`crate::ops::grouped_linear`]; `x` is contiguous.
pub(crate) fn grouped_linear(x: Tensor, linear: &GroupedLinear, plan: &Plan) -> Result<Tensor> {
    dispatch!(OP, "x", x, T => {
        let on = OnGpu::of(x.device())?;
        let (n_rows, n_out) = (plan.n_rows(), linear.out_features());
        let mut y = on.uninit::<T>(n_rows * n_out)?;
        if n_rows > 0 {
            let offsets = offsets(&on, linear, plan)?;
            let projection = Projection::of(linear)?;
            let (weights, rows) = (projection.on_device::<T>()?, OnDevice::<T>::of(OP, "x", &x)?);
            let y = on.gpu.rows_mut(&mut y, n_out).map_err(CudaError::from)?;
            let rows = rows.rows(&on.gpu, linear.in_features())?;
            grouped_gemm::forward(&on.gpu, &offsets, &rows, &weights.grouped(&on.gpu)?, y)?;
        }
        let node = Node { x: x.clone(), linear: linear.clone(), plan: plan.clone() };
        let inputs = std::iter::once(x).chain(linear.tensors().cloned()).collect();
        Ok(record_storage(inputs, on.storage(y), (n_rows, n_out), node)?)
    })
}

/// The rows of each weight; a shared one needs no plan on the device.
fn offsets<'a>(on: &'a OnGpu, linear: &GroupedLinear, plan: &'a Plan) -> Result<DeviceOffsets<'a>> {
    match linear.weights() {
        [_] => Ok(DeviceOffsets::single(plan.n_rows())),
        _ => Ok(plan.on(on)?.modality_offsets(&on.gpu)),
    }
}

struct Node {
    x: Tensor,
    linear: GroupedLinear,
    plan: Plan,
}

impl Node {
    fn gradients<T: GpuFloat>(&self, grad: &Tensor, needed: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let on = OnGpu::of(self.x.device())?;
        let gpu = &on.gpu;
        let (n_in, n_out) = (self.linear.in_features(), self.linear.out_features());
        let offsets = offsets(&on, &self.linear, &self.plan)?;
        let projection = Projection::of(&self.linear)?;
        let (weights, x) = (projection.on_device::<T>()?, OnDevice::<T>::of(OP, "x", &self.x)?);
        let grad = OnDevice::<T>::of(OP, "grad_output", grad)?;
        let (weights, x, grad) = (weights.grouped(gpu)?, x.rows(gpu, n_in)?, grad.rows(gpu, n_out)?);
        let mut all = vec![None];
        if needed[0] {
            let mut grad_x = on.uninit::<T>(self.x.elem_count())?;
            let to = gpu.rows_mut(&mut grad_x, n_in).map_err(CudaError::from)?;
            grouped_gemm::backward_input(gpu, &offsets, &grad, &weights, to, Into::Overwrite)?;
            all[0] = Some(on.tensor(grad_x, self.x.shape()));
        }
        let mut grads = ProjectionGrads::<T>::uninit(&on, &self.linear)?;
        let len = grouped_gemm::backward_weights_workspace_len(self.plan.n_rows(), &weights);
        let mut workspace = on.uninit::<f32>(len)?;
        let scratch = gpu.write(&mut workspace).first("workspace", len).map_err(CudaError::from)?;
        grouped_gemm::backward_weights(gpu, &offsets, &x, &grad, &weights, grads.write(gpu), scratch)?;
        all.extend(grads.into_tensors(&on, &self.linear)?);
        Ok(all)
    }
}

impl Backward for Node {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(&self, grad: &Tensor, needed: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        if self.plan.n_rows() == 0 {
            return Ok(needed.iter().map(|_| None).collect());
        }
        Ok(dispatch!(OP, "grad_output", grad, T => self.gradients::<T>(grad, needed))?)
    }
}
