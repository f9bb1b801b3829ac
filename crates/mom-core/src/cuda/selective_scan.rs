//! The selective scan on the GPU.

use candle_core::Tensor;
use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::selective_scan::{self as kernels, DtBias, ScanGrads, ScanInputs, ScanOutputGrads, ScanOutputs};
use mom_kernels::cuda::{DeviceOffsets, DevicePlan, Gpu};
use mom_kernels::selective_scan::DeltaActivation;

use super::on_device::OnDevice;
use super::on_gpu::{GpuFloat, OnGpu, dispatch};
use crate::autograd::{Backward, record_storage, tracks};
use crate::ops::SelectiveScan;
use crate::{Plan, Result};

const OP: &str = "selective_scan";

/// As [`crate::ops::selective_scan`], whose checks were passed; `a`, `d_skip` and `dt_bias` are f32, all tensors contiguous.
pub(crate) fn selective_scan(inputs: SelectiveScan, plan: &Plan) -> Result<Tensor> {
    dispatch!(OP, "u", inputs.u, T => {
        let on = OnGpu::of(inputs.u.device())?;
        let shape = inputs.u.shape().clone();
        if shape.elem_count() == 0 {
            return on.no_rows::<T>(shape);
        }
        let recorded: Vec<Tensor> = inputs.tensors().into_iter().cloned().collect();
        let (out, states) = forward::<T>(&on, &inputs, plan, tracks(&recorded))?;
        let node = Node { inputs, states, plan: plan.clone() };
        Ok(record_storage(recorded, on.storage(out), shape, node)?)
    })
}

/// The tensors of a scan, held.
struct Held<'a, T> {
    u: OnDevice<'a, T>,
    dt: OnDevice<'a, T>,
    a: OnDevice<'a, f32>,
    b: OnDevice<'a, T>,
    c: OnDevice<'a, T>,
    dt_bias: Option<OnDevice<'a, f32>>,
    d_skip: Option<OnDevice<'a, f32>>,
    z: Option<OnDevice<'a, T>>,
    delta_activation: DeltaActivation,
    d_inner: usize,
    d_state: usize,
}

impl<'a, T: GpuFloat> Held<'a, T> {
    fn of(on: &OnGpu, scan: &'a SelectiveScan) -> Result<Self> {
        let small = |arg, tensor: &'a Option<Tensor>| {
            tensor.as_ref().map(|tensor| OnDevice::<f32>::of(on, OP, arg, tensor)).transpose()
        };
        let (d_inner, d_state) = scan.a.dims2()?;
        Ok(Self {
            u: OnDevice::of(on, OP, "u", &scan.u)?,
            dt: OnDevice::of(on, OP, "dt", &scan.dt)?,
            a: OnDevice::of(on, OP, "a", &scan.a)?,
            b: OnDevice::of(on, OP, "b", &scan.b)?,
            c: OnDevice::of(on, OP, "c", &scan.c)?,
            dt_bias: small("dt_bias", &scan.dt_bias)?,
            d_skip: small("d_skip", &scan.d_skip)?,
            z: scan.z.as_ref().map(|z| OnDevice::of(on, OP, "z", z)).transpose()?,
            delta_activation: scan.delta_activation,
            d_inner,
            d_state,
        })
    }

    fn inputs<'b>(&'b self, gpu: &'b Gpu, plan: &'b DevicePlan) -> Result<ScanInputs<'b, T>> {
        let dt_bias = match &self.dt_bias {
            None => None,
            Some(bias) => {
                let is_shared = bias.len() == self.d_inner;
                let offsets = if is_shared { DeviceOffsets::single(plan.n_rows()) } else { plan.modality_offsets(gpu) };
                Some(DtBias::new(bias.view(gpu)?, offsets))
            }
        };
        Ok(ScanInputs::new(
            plan.layout(gpu),
            self.u.rows(gpu, self.d_inner)?,
            self.dt.rows(gpu, self.d_inner)?,
            self.a.view(gpu)?,
            self.b.rows(gpu, self.d_state)?,
            self.c.rows(gpu, self.d_state)?,
        )
        .with_dt_bias(dt_bias)
        .with_delta_activation(self.delta_activation)
        .with_d_skip(self.d_skip.as_ref().map(|d_skip| d_skip.view(gpu)).transpose()?)
        .with_z(self.z.as_ref().map(|z| z.rows(gpu, self.d_inner)).transpose()?))
    }
}

/// The output, and the states for the backward pass, none unless `saves`.
fn forward<T: GpuFloat>(
    on: &OnGpu,
    scan: &SelectiveScan,
    plan: &Plan,
    saves: bool,
) -> Result<(CudaSlice<T>, CudaSlice<f32>)> {
    let gpu = &*on.gpu;
    let held = Held::<T>::of(on, scan)?;
    let (batch, seqlen) = (plan.batch(), plan.seqlen());
    let plan = plan.on(on)?;
    let (d_inner, d_state) = (held.d_inner, held.d_state);
    let mut out = on.room::<T>(scan.u.elem_count())?;
    let n_states = if saves { kernels::saved_states_len(batch, seqlen, d_inner, d_state) } else { 0 };
    let mut states = on.room::<f32>(n_states)?;
    let mut workspace = on.room::<f32>(kernels::forward_workspace_len(batch, seqlen, d_inner, d_state))?;
    let outputs =
        ScanOutputs::new(gpu.rows_mut(&mut out, d_inner)?).with_saved_states(saves.then(|| gpu.write(&mut states)));
    kernels::forward(gpu, &held.inputs(gpu, plan)?, outputs, gpu.write(&mut workspace))?;
    Ok((out, states))
}

struct Node {
    inputs: SelectiveScan,
    /// [`kernels::saved_states_len`] elements.
    states: CudaSlice<f32>,
    plan: Plan,
}

impl Node {
    fn gradients<T: GpuFloat>(&self, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let scan = &self.inputs;
        let on = OnGpu::of(scan.u.device())?;
        let gpu = &*on.gpu;
        let held = Held::<T>::of(&on, scan)?;
        let grad = OnDevice::<T>::of(&on, OP, "grad_output", grad)?;
        let plan = self.plan.on(&on)?;
        let (d_inner, d_state) = (held.d_inner, held.d_state);
        let inputs = held.inputs(gpu, plan)?;
        let rows = |tensor: &Tensor| on.room::<T>(tensor.elem_count());
        let small = |tensor: &Tensor| on.room::<f32>(tensor.elem_count());
        let (mut grad_u, mut grad_dt, mut grad_b, mut grad_c) =
            (rows(&scan.u)?, rows(&scan.dt)?, rows(&scan.b)?, rows(&scan.c)?);
        let mut grad_a = small(&scan.a)?;
        let mut grad_dt_bias = scan.dt_bias.as_ref().map(small).transpose()?;
        let mut grad_d_skip = scan.d_skip.as_ref().map(small).transpose()?;
        let mut grad_z = scan.z.as_ref().map(rows).transpose()?;
        let mut workspace = on.room::<f32>(kernels::backward_workspace_len(&inputs)?)?;
        let grads = ScanGrads::new(
            gpu.rows_mut(&mut grad_u, d_inner)?,
            gpu.rows_mut(&mut grad_dt, d_inner)?,
            gpu.write(&mut grad_a),
            gpu.rows_mut(&mut grad_b, d_state)?,
            gpu.rows_mut(&mut grad_c, d_state)?,
        )
        .with_grad_dt_bias(grad_dt_bias.as_mut().map(|grad| gpu.write(grad)))
        .with_grad_d_skip(grad_d_skip.as_mut().map(|grad| gpu.write(grad)))
        .with_grad_z(grad_z.as_mut().map(|grad| gpu.rows_mut(grad, d_inner)).transpose()?);
        let output_grads = ScanOutputGrads::new(grad.rows(gpu, d_inner)?);
        let (states, workspace) = (gpu.read(&self.states), gpu.write(&mut workspace));
        kernels::backward(gpu, &inputs, states, &output_grads, grads, workspace)?;
        // In the order of `SelectiveScan::tensors`.
        let like = |gradient, input: &Tensor| Some(on.tensor(gradient, input.shape()));
        let like_small = |gradient, input: &Tensor| Some(on.tensor::<f32>(gradient, input.shape()));
        let mut gradients = vec![
            like(grad_u, &scan.u),
            like(grad_dt, &scan.dt),
            like_small(grad_a, &scan.a),
            like(grad_b, &scan.b),
            like(grad_c, &scan.c),
        ];
        gradients.extend(grad_dt_bias.zip(scan.dt_bias.as_ref()).map(|(grad, input)| like_small(grad, input)));
        gradients.extend(grad_d_skip.zip(scan.d_skip.as_ref()).map(|(grad, input)| like_small(grad, input)));
        gradients.extend(grad_z.zip(scan.z.as_ref()).map(|(grad, input)| like(grad, input)));
        Ok(gradients)
    }
}

impl Backward for Node {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(&self, grad: &Tensor, _: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        Ok(dispatch!(OP, "grad_output", grad, T => self.gradients::<T>(grad))?)
    }
}
