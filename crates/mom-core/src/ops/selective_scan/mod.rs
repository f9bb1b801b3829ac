//! The selective scan with everything that is fused into it.

use candle_core::Tensor;
use mom_kernels::selective_scan::{
    self as kernel, DeltaActivation, DtBias, ScanGrads, ScanInputs, ScanOutputGrads, ScanOutputs, saved_states_len,
};
use mom_kernels::{ModalityOffsets, ModalityPlan, Rows, RowsMut};

use crate::autograd::{Backward, record};
use crate::host::{Float, Host, dispatch, tensor};
use crate::{Plan, Result};

mod inputs;

use inputs::OP;
pub use inputs::SelectiveScan;

/// `h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t`, `y_t = (C_t . h_t + D u_t) silu(z_t)`, every document from zero.
///
/// Returns `(n_rows, d_inner)`. **Saved for backward:** the inputs, and every 16th state.
///
/// # Errors
/// A plan of chunks, shapes that disagree, d_state out of range, tensors on several devices, an element type that the device does not have: f32
/// or f64 for all on the CPU; on a GPU bf16, f16 or f32, with `a`, `d_skip` and `dt_bias` in f32.
pub fn selective_scan(inputs: SelectiveScan, plan: &Plan) -> Result<Tensor> {
    plan.expect_whole(OP)?;
    let inputs = inputs.contiguous()?;
    let (d_inner, d_state) = inputs.check(plan)?;
    #[cfg(feature = "cuda")]
    if inputs.u.device().is_cuda() {
        return crate::cuda::selective_scan(inputs, plan);
    }
    let dims = Dims { n_rows: plan.n_rows(), d_inner, d_state };
    let recorded = inputs.tensors().into_iter().cloned().collect();
    dispatch!(OP, "u", inputs.u, T => {
        let offsets = inputs.offsets(plan);
        let (out, states) = forward::<T>(&inputs, plan, &offsets, dims)?;
        let node = Node { inputs, states, plan: plan.clone(), offsets, dims };
        Ok(record(recorded, out, (dims.n_rows, d_inner), node)?)
    })
}

#[derive(Debug, Clone, Copy)]
struct Dims {
    n_rows: usize,
    d_inner: usize,
    d_state: usize,
}

impl SelectiveScan {
    /// Rows that share a bias.
    fn offsets(&self, plan: &ModalityPlan) -> ModalityOffsets {
        match &self.dt_bias {
            Some(bias) if bias.dims()[0] > 1 => plan.modality_offsets().clone(),
            _ => ModalityOffsets::single(plan.n_rows()),
        }
    }

    fn hosts<T: Float>(&self) -> Result<Hosts<'_, T>> {
        let optional = |arg, tensor| Option::map(tensor, |tensor| Host::of(OP, arg, tensor)).transpose();
        Ok(Hosts {
            u: Host::of(OP, "u", &self.u)?,
            dt: Host::of(OP, "dt", &self.dt)?,
            a: Host::of(OP, "a", &self.a)?,
            b: Host::of(OP, "b", &self.b)?,
            c: Host::of(OP, "c", &self.c)?,
            dt_bias: optional("dt_bias", self.dt_bias.as_ref())?,
            d_skip: optional("d_skip", self.d_skip.as_ref())?,
            z: optional("z", self.z.as_ref())?,
            delta_activation: self.delta_activation,
        })
    }
}

struct Hosts<'a, T> {
    u: Host<'a, T>,
    dt: Host<'a, T>,
    a: Host<'a, T>,
    b: Host<'a, T>,
    c: Host<'a, T>,
    dt_bias: Option<Host<'a, T>>,
    d_skip: Option<Host<'a, T>>,
    z: Option<Host<'a, T>>,
    delta_activation: DeltaActivation,
}

impl<T: Float> Hosts<'_, T> {
    fn inputs<'b>(
        &'b self,
        plan: &'b ModalityPlan,
        offsets: &'b ModalityOffsets,
        dims: Dims,
    ) -> Result<ScanInputs<'b, T>> {
        let dt_bias = self.dt_bias.as_ref().map(Host::slice).transpose()?;
        Ok(ScanInputs::new(
            plan.layout(),
            Rows::new("u", self.u.slice()?, dims.d_inner)?,
            Rows::new("dt", self.dt.slice()?, dims.d_inner)?,
            self.a.slice()?,
            Rows::new("b", self.b.slice()?, dims.d_state)?,
            Rows::new("c", self.c.slice()?, dims.d_state)?,
        )
        .with_dt_bias(dt_bias.map(|bias| DtBias::new(bias, offsets)))
        .with_delta_activation(self.delta_activation)
        .with_d_skip(self.d_skip.as_ref().map(Host::slice).transpose()?)
        .with_z(self.z.as_ref().map(|z| Ok::<_, crate::Error>(Rows::new("z", z.slice()?, dims.d_inner)?)).transpose()?))
    }
}

fn forward<T: Float>(
    inputs: &SelectiveScan,
    plan: &ModalityPlan,
    offsets: &ModalityOffsets,
    dims: Dims,
) -> Result<(Vec<T>, Tensor)> {
    let hosts = inputs.hosts::<T>()?;
    let mut out = vec![T::ZERO; dims.n_rows * dims.d_inner];
    let mut states = vec![T::ZERO; saved_states_len(plan.batch(), plan.seqlen(), dims.d_inner, dims.d_state)];
    let outputs = ScanOutputs::new(RowsMut::new("out", &mut out, dims.d_inner)?).with_saved_states(&mut states[..]);
    kernel::forward(&hosts.inputs(plan, offsets, dims)?, outputs)?;
    let n_states = states.len();
    Ok((out, tensor(states, n_states)?))
}

struct Node {
    inputs: SelectiveScan,
    states: Tensor,
    plan: Plan,
    offsets: ModalityOffsets,
    dims: Dims,
}

impl Node {
    fn gradients<T: Float>(&self, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let Dims { n_rows, d_inner, d_state } = self.dims;
        let hosts = self.inputs.hosts::<T>()?;
        let (states, grad) = (Host::<T>::of(OP, "states", &self.states)?, Host::<T>::of(OP, "grad_output", grad)?);
        let matrix = |width: usize| vec![T::ZERO; n_rows * width];
        let (mut grad_u, mut grad_dt, mut grad_b, mut grad_c) =
            (matrix(d_inner), matrix(d_inner), matrix(d_state), matrix(d_state));
        let mut grad_a = vec![T::ZERO; d_inner * d_state];
        let mut grad_dt_bias = self.inputs.dt_bias.as_ref().map(|bias| vec![T::ZERO; bias.elem_count()]);
        let mut grad_d_skip = self.inputs.d_skip.as_ref().map(|_| vec![T::ZERO; d_inner]);
        let mut grad_z = self.inputs.z.as_ref().map(|_| matrix(d_inner));
        let grads = ScanGrads::new(
            RowsMut::new("grad_u", &mut grad_u, d_inner)?,
            RowsMut::new("grad_dt", &mut grad_dt, d_inner)?,
            &mut grad_a,
            RowsMut::new("grad_b", &mut grad_b, d_state)?,
            RowsMut::new("grad_c", &mut grad_c, d_state)?,
        )
        .with_grad_dt_bias(grad_dt_bias.as_deref_mut())
        .with_grad_d_skip(grad_d_skip.as_deref_mut())
        .with_grad_z(grad_z.as_mut().map(|grad| RowsMut::new("grad_z", grad, d_inner)).transpose()?);
        let output_grads = ScanOutputGrads::new(Rows::new("grad_output", grad.slice()?, d_inner)?);
        let inputs = hosts.inputs(&self.plan, &self.offsets, self.dims)?;
        kernel::backward(&inputs, states.slice()?, &output_grads, grads)?;
        let gradients = [grad_u, grad_dt, grad_a, grad_b, grad_c].into_iter();
        let gradients = gradients.chain([grad_dt_bias, grad_d_skip, grad_z].into_iter().flatten());
        gradients
            .zip(self.inputs.tensors())
            .map(|(gradient, input)| Ok(Some(tensor(gradient, input.shape())?)))
            .collect()
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
