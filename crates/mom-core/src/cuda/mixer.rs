//! The mixer and residual blocks on the GPU, one node of the tape.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Tensor;
use mom_kernels::cuda::Gpu;
use mom_kernels::cuda::cudarc::driver::CudaSlice;
use mom_kernels::cuda::mixer::{
    self as kernels, Block, BlockGrads, MixerBackward, MixerGrads, MixerOutputs, MixerSaved, MixerStates, MixerWeights,
    Saves,
};
use mom_kernels::cuda::selective_scan::saved_states_len;

use super::on_device::OnDevice;
use super::on_gpu::{GpuFloat, OnGpu, dispatch};
use super::weights::{Of, ProjectionGrads, with_block, with_mixer};
use crate::autograd::{Backward, record_forward_only, record_storage, tracks};
use crate::state::{DeviceState, MixerState};
use crate::weights::Weights;
use crate::{Arrivals, Error, Part, Plan, Result};

const OP: &str = "mixer";

/// As profiles name what runs here.
const REGION: &str = "blocks";

/// The norm before the mixer: its weight and epsilon.
pub(crate) type Norm = (Tensor, f64);

/// One mixer or residual block of a [`chain`].
pub(crate) struct Link {
    /// The norm before it, which makes it a residual block.
    pub norm: Option<Norm>,
    pub weights: Arc<Weights>,
    /// Nothing is saved, and the backward pass begins with the forward pass.
    pub recompute: bool,
    /// Who brings its weights, and its number there.
    pub arrivals: Option<(Arc<dyn Arrivals>, usize)>,
}

/// As [`crate::MixtureOfMamba::forward`]; `x` is contiguous.
pub(crate) fn mixer(x: Tensor, weights: &Arc<Weights>, plan: &Plan) -> Result<Tensor> {
    chain(x, [Link { norm: None, weights: weights.clone(), recompute: false, arrivals: None }], plan)
}

/// Links in a row, each over what the one before gave, as one node of the tape: between two nodes the tape would fill a
/// gradient with zeros and add to it. `x` is contiguous.
pub(crate) fn chain(x: Tensor, links: impl IntoIterator<Item = Link>, plan: &Plan) -> Result<Tensor> {
    dispatch!(OP, "x", x, T => {
        let on = OnGpu::of(x.device())?;
        on.gpu.region(REGION, || forward::<T>(&on, x, links, plan))
    })
}

fn forward<T: GpuFloat>(on: &OnGpu, x: Tensor, links: impl IntoIterator<Item = Link>, plan: &Plan) -> Result<Tensor> {
    let shape = x.shape().clone();
    if plan.n_rows() == 0 {
        return on.no_rows::<T>(shape);
    }
    let links: Vec<Link> = links.into_iter().collect();
    let inputs: Vec<Tensor> =
        std::iter::once(&x).chain(links.iter().flat_map(|link| tensors(&link.norm, &link.weights))).cloned().collect();
    let tracked = tracks(&inputs);
    let mut passed = Vec::new();
    let mut out = None;
    for Link { norm, weights, recompute, arrivals } in links {
        if let Some((arrivals, index)) = arrivals {
            arrivals.wait_for(Part::Block(index));
        }
        let x = out.take().map_or_else(|| x.clone(), |out| on.tensor(out, &shape));
        let parts = Parts { x, norm, weights, plan: plan.clone() };
        let mut saved = (tracked && !recompute).then(|| parts.room::<T>(on)).transpose()?;
        out = Some(parts.forward::<T>(on, saved.as_mut())?);
        if tracked {
            passed.push(Passed { parts, saved: Mutex::new(saved) });
        }
    }
    match out {
        Some(out) => Ok(record_storage(inputs, on.storage(out), shape, Node(passed))?),
        None => Ok(x),
    }
}

/// The state before a sequence.
pub(crate) fn initial_state(weights: &Weights, batch: usize) -> Result<MixerState> {
    let d_inner = weights.d_skip.elem_count();
    let d_conv = weights.conv_weight.elem_count() / d_inner.max(1);
    let (_, d_state) = weights.a_log.dims2()?;
    let on = OnGpu::of(weights.a_log.device())?;
    // A window of one position holds nothing, which candle cannot allocate.
    let zeros = |n: usize, shape: (usize, usize, usize)| Ok::<_, Error>(on.tensor(on.gpu.zeros::<f32>(n)?, shape));
    let conv = zeros(batch * d_conv.saturating_sub(1) * d_inner, (batch, d_conv.saturating_sub(1), d_inner))?;
    let scan = zeros(batch * d_inner * d_state, (batch, d_inner, d_state))?;
    Ok(MixerState::on_device(batch, DeviceState { conv, scan }))
}

/// As [`crate::MixtureOfMamba::forward_from`], or whatever else `name` says; `x` is contiguous.
pub(crate) fn mixer_from(
    name: &'static str,
    x: &Tensor,
    weights: &Arc<Weights>,
    plan: &Plan,
    state: &mut MixerState,
) -> Result<Tensor> {
    let state = state.device(OP, plan.batch())?;
    let parts = Parts { x: x.detach(), norm: None, weights: weights.clone(), plan: plan.clone() };
    dispatch!(OP, "x", x, T => {
        let on = OnGpu::of(x.device())?;
        if plan.n_rows() == 0 {
            return on.no_rows::<T>(x.shape());
        }
        let (out, next) = parts.forward_from::<T>(&on, state)?;
        let out = record_forward_only(name, weights.tensors().chain([x]), on.storage(out), x.shape())?;
        *state = next;
        Ok(out)
    })
}

/// What both passes read.
struct Parts {
    x: Tensor,
    norm: Option<Norm>,
    weights: Arc<Weights>,
    plan: Plan,
}

/// What the forward pass leaves for the backward pass.
struct Saved<T> {
    xz: CudaSlice<T>,
    x_dbl: CudaSlice<T>,
    states: CudaSlice<f32>,
    /// Where there is one: over chunks of sequences.
    window: Option<CudaSlice<f32>>,
}

impl<T: GpuFloat> Saved<T> {
    fn write<'a>(&'a mut self, gpu: &'a Gpu) -> MixerSaved<'a, T> {
        MixerSaved::new(gpu.write(&mut self.xz), gpu.write(&mut self.x_dbl), gpu.write(&mut self.states))
            .with_window(self.window.as_mut().map(|window| gpu.write(window)))
    }
}

/// The weights as the kernels read them, with or without a norm before them.
enum Views<'a, T> {
    Mixer(MixerWeights<'a, T>),
    Block(Block<'a, T>),
}

impl<T: GpuFloat> Views<'_, T> {
    fn mixer(&self) -> &MixerWeights<'_, T> {
        match self {
            Self::Mixer(mixer) => mixer,
            Self::Block(block) => &block.mixer,
        }
    }
}

/// Parameters of a link; [`Passed::gradients`] keeps this order.
fn tensors<'a>(norm: &'a Option<Norm>, weights: &'a Weights) -> impl Iterator<Item = &'a Tensor> {
    norm.as_ref().map(|(weight, _)| weight).into_iter().chain(weights.tensors())
}

impl Parts {
    /// Calls `with` with the weights as views.
    fn with_views<T: GpuFloat, R>(&self, on: &OnGpu, with: impl FnOnce(&Views<'_, T>) -> Result<R>) -> Result<R> {
        let (gpu, weights) = (&*on.gpu, &*self.weights);
        match &self.norm {
            Some((norm, eps)) => {
                with_block(on, gpu, (norm, *eps), weights, Of::All, |block| with(&Views::Block(block)))
            }
            None => with_mixer(on, gpu, weights, Of::All, |mixer| with(&Views::Mixer(mixer))),
        }
    }

    /// Number of its parameters.
    fn n_tensors(&self) -> usize {
        tensors(&self.norm, &self.weights).count()
    }

    /// Room for what the forward pass leaves.
    fn room<T: GpuFloat>(&self, on: &OnGpu) -> Result<Saved<T>> {
        let (plan, weights) = (&self.plan, &*self.weights);
        let (n_rows, d_inner, d_state) = (plan.n_rows(), weights.d_skip.elem_count(), weights.a_log.dim(1)?);
        let d_conv = weights.conv_weight.elem_count() / d_inner.max(1);
        let window = plan.context().map_or(0, |_| plan.batch() * d_conv.saturating_sub(1) * d_inner);
        Ok(Saved {
            xz: on.room(n_rows * weights.in_proj.out_features())?,
            x_dbl: on.room(n_rows * weights.x_proj.out_features())?,
            states: on.room(saved_states_len(plan.batch(), plan.seqlen(), d_inner, d_state))?,
            window: (window > 0).then(|| on.room(window)).transpose()?,
        })
    }

    /// The output from a state on, and the state behind the last position.
    fn forward_from<T: GpuFloat>(&self, on: &OnGpu, state: &DeviceState) -> Result<(CudaSlice<T>, DeviceState)> {
        let gpu = &*on.gpu;
        let x = OnDevice::<T>::of(on, OP, "x", &self.x)?;
        let conv = OnDevice::<f32>::of(on, OP, "state.conv", &state.conv)?;
        let scan = OnDevice::<f32>::of(on, OP, "state.scan", &state.scan)?;
        let plan = self.plan.on(on)?;
        let mut out = on.room::<T>(self.x.elem_count())?;
        let mut next_conv = gpu.zeros::<f32>(state.conv.elem_count())?;
        let mut next_scan = gpu.zeros::<f32>(state.scan.elem_count())?;
        self.with_views::<T, _>(on, |views| {
            let mixer = views.mixer();
            let sizes = mixer.sizes(plan)?;
            let mut workspace = on.room::<u8>(kernels::forward_workspace_bytes::<T>(&sizes, Saves::Nothing))?;
            let states = MixerStates::new(
                (conv.view(gpu)?, gpu.write(&mut next_conv)),
                (scan.view(gpu)?, gpu.write(&mut next_scan)),
            );
            let to = gpu.rows_mut(&mut out, sizes.d_model)?;
            let outputs = MixerOutputs::new(to).with_states(states);
            let rows = x.rows(gpu, sizes.d_model)?;
            Ok(kernels::forward(gpu, plan, &rows, mixer, outputs, gpu.write(&mut workspace))?)
        })?;
        let next = DeviceState {
            conv: on.tensor(next_conv, state.conv.shape()),
            scan: on.tensor(next_scan, state.scan.shape()),
        };
        Ok((out, next))
    }

    /// The output; fills `saved` where there is room.
    fn forward<T: GpuFloat>(&self, on: &OnGpu, saved: Option<&mut Saved<T>>) -> Result<CudaSlice<T>> {
        let gpu = &*on.gpu;
        let saves = Saves::of(saved.as_ref());
        let plan = self.plan.on(on)?;
        let x = OnDevice::<T>::of(on, OP, "x", &self.x)?;
        let mut out = on.room::<T>(self.x.elem_count())?;
        let write = saved.map(|saved| saved.write(gpu));
        self.with_views::<T, _>(on, |views| {
            let sizes = views.mixer().sizes(plan)?;
            let x = x.rows(gpu, sizes.d_model)?;
            let to = gpu.rows_mut(&mut out, sizes.d_model)?;
            match views {
                Views::Mixer(mixer) => {
                    let mut workspace = on.room::<u8>(kernels::forward_workspace_bytes::<T>(&sizes, saves))?;
                    let outputs = MixerOutputs::new(to).with_saved(write);
                    kernels::forward(gpu, plan, &x, mixer, outputs, gpu.write(&mut workspace))?;
                }
                Views::Block(block) => {
                    let mut workspace = on.room::<u8>(kernels::block_forward_workspace_bytes(plan, block, saves)?)?;
                    kernels::block_forward(gpu, plan, &x, block, to, write, gpu.write(&mut workspace))?;
                }
            }
            Ok(())
        })?;
        Ok(out)
    }
}

/// The links of a chain, after their forward pass.
struct Node<T>(Vec<Passed<T>>);

struct Passed<T> {
    parts: Parts,
    /// Taken by the backward pass, which consumes it; computed again by another one.
    saved: Mutex<Option<Saved<T>>>,
}

impl<T: GpuFloat> Passed<T> {
    /// The gradient of x, and those of the parameters.
    fn gradients(&self, on: &OnGpu, grad: &Tensor) -> Result<(Tensor, Vec<Option<Tensor>>)> {
        let parts = &self.parts;
        let gpu = &*on.gpu;
        let saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The backward pass overwrites it.
        let mut saved = match saved {
            Some(saved) => saved,
            None => {
                let mut saved = parts.room(on)?;
                parts.forward(on, Some(&mut saved))?;
                saved
            }
        };
        let plan = parts.plan.on(on)?;
        let weights = &*parts.weights;
        let (x, grad) = (OnDevice::<T>::of(on, OP, "x", &parts.x)?, OnDevice::<T>::of(on, OP, "grad_output", grad)?);
        let small = |tensor: &Tensor| on.room::<f32>(tensor.elem_count());
        let mut grad_x = on.room::<T>(parts.x.elem_count())?;
        let mut grad_norm = parts.norm.as_ref().map(|(weight, _)| small(weight)).transpose()?;
        let mut in_proj = ProjectionGrads::<T>::new(on, &weights.in_proj)?;
        let mut x_proj = ProjectionGrads::<T>::new(on, &weights.x_proj)?;
        let mut dt_proj = ProjectionGrads::<T>::new(on, &weights.dt_proj)?;
        let mut out_proj = ProjectionGrads::<T>::new(on, &weights.out_proj)?;
        let mut conv_weight = small(&weights.conv_weight)?;
        let mut conv_bias = weights.conv_bias.as_ref().map(small).transpose()?;
        let (mut a_log, mut d_skip) = (small(&weights.a_log)?, small(&weights.d_skip)?);
        parts.with_views::<T, _>(on, |views| {
            let d_model = views.mixer().in_proj.in_features();
            let pass = MixerBackward::new(x.rows(gpu, d_model)?, saved.write(gpu), grad.rows(gpu, d_model)?);
            let mixer_grads = MixerGrads::new(
                gpu.rows_mut(&mut grad_x, d_model)?,
                in_proj.write(gpu),
                gpu.write(&mut conv_weight),
                x_proj.write(gpu),
                dt_proj.write(gpu),
                gpu.write(&mut a_log),
                gpu.write(&mut d_skip),
                out_proj.write(gpu),
            )
            .with_conv_bias(conv_bias.as_mut().map(|bias| gpu.write(bias)));
            match (views, grad_norm.as_mut()) {
                (Views::Block(block), Some(norm)) => {
                    let mut workspace = on.room::<u8>(kernels::block_backward_workspace_bytes(gpu, plan, block)?)?;
                    let grads = BlockGrads::new(gpu.write(norm), mixer_grads);
                    kernels::block_backward(gpu, plan, block, pass, grads, gpu.write(&mut workspace))?;
                }
                (views, _) => {
                    let mixer = views.mixer();
                    let mut workspace = on.room::<u8>(kernels::backward_workspace_bytes(gpu, plan, mixer)?)?;
                    kernels::backward(gpu, plan, mixer, pass, mixer_grads, gpu.write(&mut workspace))?;
                }
            }
            Ok(())
        })?;
        let like = |gradient, parameter: &Tensor| Some(on.tensor(gradient, parameter.shape()));
        let mut all = Vec::new();
        if let (Some(gradient), Some((weight, _))) = (grad_norm, &parts.norm) {
            all.push(like(gradient, weight));
        }
        all.extend(in_proj.into_tensors(on, &weights.in_proj)?);
        all.push(like(conv_weight, &weights.conv_weight));
        if let (Some(gradient), Some(bias)) = (conv_bias, &weights.conv_bias) {
            all.push(like(gradient, bias));
        }
        all.extend(x_proj.into_tensors(on, &weights.x_proj)?);
        all.extend(dt_proj.into_tensors(on, &weights.dt_proj)?);
        all.push(like(a_log, &weights.a_log));
        all.push(like(d_skip, &weights.d_skip));
        all.extend(out_proj.into_tensors(on, &weights.out_proj)?);
        Ok((on.tensor(grad_x, parts.x.shape()), all))
    }
}

impl<T: GpuFloat> Node<T> {
    /// From the last link to the first; those of a link's parameters are given as soon as they are there.
    fn gradients(&self, grad: &Tensor, give: Give<'_>) -> Result<()> {
        let on = OnGpu::of(grad.device())?;
        on.gpu.region(REGION, || {
            let mut grad = grad.clone();
            // Behind x, the parameters of all links stand in their order.
            let mut behind: usize = 1 + self.0.iter().map(|link| link.parts.n_tensors()).sum::<usize>();
            for link in self.0.iter().rev() {
                let (grad_x, of_link) = link.gradients(&on, &grad)?;
                grad = grad_x;
                behind -= of_link.len();
                let there = of_link.into_iter().enumerate().filter_map(|(i, gradient)| Some((behind + i, gradient?)));
                there.into_iter().try_for_each(|(i, gradient)| give(i, gradient))?;
            }
            Ok(give(0, grad)?)
        })
    }
}

type Give<'a> = &'a mut dyn FnMut(usize, Tensor) -> candle_core::Result<()>;

impl<T: GpuFloat> Backward for Node<T> {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(&self, grad: &Tensor, needed: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        let mut all = vec![None; needed.len()];
        self.backward_each(grad, needed, &mut |index, gradient| {
            all[index] = Some(gradient);
            Ok(())
        })?;
        Ok(all)
    }
    fn backward_each(&self, grad: &Tensor, _: &[bool], give: Give<'_>) -> candle_core::Result<()> {
        Ok(self.gradients(grad, give)?)
    }
}
