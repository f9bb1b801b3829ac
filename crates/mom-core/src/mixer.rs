//! The Mixture-of-Mamba mixer as one node of the tape.
//!
//! The whole mixer is one forward and one backward call of [`mom_kernels::mixer`]: it saves in_proj's and x_proj's outputs
//! and every 16th state, and computes conv and delta again. [`MixtureOfMamba::forward_by_operations`] is the same thing
//! from the operations of [`crate::ops`], and the test of this one.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use mom_kernels::mixer::{self, MixerSaved, MixerWeights};
use mom_kernels::selective_scan::DeltaActivation;
use mom_kernels::{ModalityPlan, Rows};

use crate::autograd::{Backward, record, tracks};
use crate::error::{expect_shape, require};
use crate::host::{Float, Host, contiguous, dispatch, tensor};
use crate::init::{Draw, Init};
use crate::ops::{self, GroupedLinear, SelectiveScan, grouped_linear};
use crate::state::{MixerState, StateFloat};
use crate::{MixerConfig, Plan, Projection, Result, to_positions, to_rows};

const OP: &str = "mixer";

/// Class `MixtureOfMamba` of the published code: a Mamba mixer whose projections may have weights for each modality.
///
/// Parameters have the names of the published state dict: `local_experts_in_proj.M.weight` where a projection is per
/// modality, `in_proj.weight` where it is shared, likewise `x_proj`, `dt_proj` (with `bias`), `out_proj`;
/// `conv1d.weight` (d_inner, 1, d_conv), `conv1d.bias`, `A_log` (d_inner, d_state), `D` (d_inner).
///
/// Per-modality weights start from draws of their own, as in the published code; a shared weight starts as modality 0's.
#[derive(Debug, Clone)]
pub struct MixtureOfMamba {
    config: MixerConfig,
    weights: Arc<Weights>,
}

#[derive(Debug)]
pub(crate) struct Weights {
    pub in_proj: GroupedLinear,
    pub conv_weight: Tensor,
    pub conv_bias: Option<Tensor>,
    pub x_proj: GroupedLinear,
    pub dt_proj: GroupedLinear,
    pub a_log: Tensor,
    pub d_skip: Tensor,
    pub out_proj: GroupedLinear,
}

impl MixtureOfMamba {
    /// A mixer with the parameters of `vb`; those that a builder over a `VarMap` does not have yet are drawn from `init`.
    ///
    /// Draws: Linear and Conv1d as PyTorch's defaults, U(-fan_in^-1/2, fan_in^-1/2); dt_proj.weight
    /// U(-dt_rank^-1/2, dt_rank^-1/2); dt_proj.bias, A_log and D as Mamba has them; out_proj scaled by `init`.
    ///
    /// # Errors
    /// An invalid configuration; a parameter that is missing or of another shape.
    pub fn new(config: &MixerConfig, init: &Init, vb: VarBuilder) -> Result<Self> {
        config.validate()?;
        let (d_inner, d_state, d_conv) = (config.d_inner(), config.d_state, config.d_conv);
        let conv_draw = Draw::Uniform((d_conv as f64).powf(-0.5));
        let get = |shape: &[usize], name: &str, draw| init.precise(&vb, shape, name, name, draw);
        let conv_bias = config.conv_bias.then(|| get(&[d_inner], "conv1d.bias", conv_draw)).transpose()?;
        let weights = Weights {
            in_proj: projection(config, Projection::In, init, &vb)?,
            conv_weight: get(&[d_inner, 1, d_conv], "conv1d.weight", conv_draw)?,
            conv_bias,
            x_proj: projection(config, Projection::X, init, &vb)?,
            dt_proj: projection(config, Projection::Dt, init, &vb)?,
            a_log: get(&[d_inner, d_state], "A_log", Draw::LogRange(d_state))?,
            d_skip: get(&[d_inner], "D", Draw::Constant(1.0))?,
            out_proj: projection(config, Projection::Out, init, &vb)?,
        };
        Ok(Self { config: config.clone(), weights: Arc::new(weights) })
    }

    /// The configuration.
    pub fn config(&self) -> &MixerConfig {
        &self.config
    }

    #[cfg(feature = "cuda")]
    pub(crate) fn weights(&self) -> &Arc<Weights> {
        &self.weights
    }

    /// Element type of the projections.
    pub fn dtype(&self) -> DType {
        self.weights.a_log.dtype()
    }

    /// The mixer over rows in modality order, every document from a zero state.
    ///
    /// `x`: `(n_rows, d_model)`. Returns `(n_rows, d_model)`.
    ///
    /// # Errors
    /// A plan of another number of modalities, shapes that disagree, an element type that the device's operations do not
    /// have (f32 and f64 on the CPU; bf16, f16 and f32 on a GPU), tensors on several devices.
    pub fn forward(&self, x: &Tensor, plan: &Plan) -> Result<Tensor> {
        let x = contiguous(x)?;
        self.check(&x, plan)?;
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            return crate::cuda::mixer(x, &self.weights, plan);
        }
        dispatch!(OP, "x", x, T => self.forward_as::<T>(x, plan))
    }

    /// As [`Self::forward`] over `(batch, seqlen, d_model)`.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_positions(&self, x: &Tensor, plan: &Plan) -> Result<Tensor> {
        to_positions(&self.forward(&to_rows(x, plan)?, plan)?, plan)
    }

    /// The same computation as [`Self::forward`] from the operations of [`crate::ops`], a node of the tape each.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_by_operations(&self, x: &Tensor, plan: &Plan) -> Result<Tensor> {
        self.forward_watched(x, plan, &mut |_, _| Ok(()))
    }

    /// As [`Self::forward_by_operations`]; `watch` sees what each operation gives, by the operation's name, before the next one
    /// reads it.
    ///
    /// # Errors
    /// As [`Self::forward`], and those of `watch`.
    pub fn forward_watched(
        &self,
        x: &Tensor,
        plan: &Plan,
        watch: &mut dyn FnMut(&'static str, &Tensor) -> Result<()>,
    ) -> Result<Tensor> {
        self.check(x, plan)?;
        let Weights { in_proj, conv_weight, conv_bias, x_proj, dt_proj, a_log, d_skip, out_proj } = &*self.weights;
        let (d_inner, d_state, dt_rank) = (self.config.d_inner(), self.config.d_state, self.config.dt_rank());
        let mut seen = |name, tensor: Tensor| watch(name, &tensor).map(|()| tensor);
        let xz = seen("in_proj", grouped_linear(x, in_proj, plan)?)?;
        let conv_in = xz.narrow(1, 0, d_inner)?;
        let u = seen("conv1d", ops::causal_conv1d(&conv_in, conv_weight, conv_bias.as_ref(), plan)?)?;
        let x_dbl = seen("x_proj", grouped_linear(&u, x_proj, plan)?)?;
        let low = x_dbl.narrow(1, 0, dt_rank)?;
        let unbiased =
            GroupedLinear::new(dt_proj.in_features(), dt_proj.out_features(), dt_proj.weights().to_vec(), Vec::new())?;
        let dt_bias = match dt_proj.biases() {
            [] => None,
            biases => Some(Tensor::stack(biases, 0)?),
        };
        let scan = SelectiveScan {
            u,
            dt: seen("dt_proj", grouped_linear(&low, &unbiased, plan)?)?,
            dt_bias,
            a: seen("A", a_log.exp()?.neg()?)?,
            b: x_dbl.narrow(1, dt_rank, d_state)?,
            c: x_dbl.narrow(1, dt_rank + d_state, d_state)?,
            d_skip: Some(d_skip.clone()),
            z: Some(xz.narrow(1, d_inner, d_inner)?),
            delta_activation: DeltaActivation::Softplus,
        };
        let y = seen("selective_scan", ops::selective_scan(scan, plan)?)?;
        seen("out_proj", grouped_linear(&y, out_proj, plan)?)
    }

    /// The state before a sequence, for decoding `batch` of them.
    ///
    /// # Errors
    /// Parameters of an unsupported element type; a GPU that is out of memory.
    pub fn initial_state(&self, batch: usize) -> Result<MixerState> {
        #[cfg(feature = "cuda")]
        if self.weights.a_log.device().is_cuda() {
            return crate::cuda::initial_state(&self.weights, batch);
        }
        dispatch!(OP, "parameters", self.weights.a_log, T => {
            let hosts = self.weights.hosts::<T>()?;
            Ok(T::wrap(batch, mixer::MixerState::zeros(&hosts.weights()?, batch)))
        })
    }

    /// As [`Self::forward`], from `state` on, which is left as it is after the last position. Not differentiable.
    ///
    /// # Errors
    /// As [`Self::forward`], and a state of another element type or batch. The state is then as it was.
    pub fn forward_from(&self, x: &Tensor, plan: &Plan, state: &mut MixerState) -> Result<Tensor> {
        let x = contiguous(x)?;
        self.check(&x, plan)?;
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            return crate::cuda::mixer_from(&x, &self.weights, plan, state);
        }
        dispatch!(OP, "x", x, T => self.run::<T>(&x, plan, state, mixer::forward))
    }

    /// One position of every sequence: `x` is `(batch, d_model)`, rows in modality order of a plan of seqlen 1. Not
    /// differentiable.
    ///
    /// # Errors
    /// As [`Self::forward_from`], and a plan of another seqlen.
    pub fn step(&self, x: &Tensor, plan: &Plan, state: &mut MixerState) -> Result<Tensor> {
        let x = contiguous(x)?;
        self.check(&x, plan)?;
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            require(plan.seqlen() == 1, "plan.seqlen", "1 for a step", plan.seqlen())?;
            return crate::cuda::mixer_from(&x, &self.weights, plan, state);
        }
        dispatch!(OP, "x", x, T => {
            self.run::<T>(&x, plan, state, |plan, x, weights, state| match state {
                Some(state) => mixer::step(plan, x, weights, state),
                None => mixer::forward(plan, x, weights, None),
            })
        })
    }

    pub(crate) fn check(&self, x: &Tensor, plan: &ModalityPlan) -> Result<()> {
        let n_modalities = self.config.n_modalities;
        let expected = format!("{n_modalities}, as in the mixer");
        require(plan.n_modalities() == n_modalities, "plan.n_modalities", &expected, plan.n_modalities())?;
        expect_shape(OP, "x", &[plan.n_rows(), self.config.d_model], x)
    }

    fn forward_as<T: StateFloat>(&self, x: Tensor, plan: &Plan) -> Result<Tensor> {
        let shape = x.shape().clone();
        let inputs: Vec<_> = std::iter::once(&x).chain(self.weights.tensors()).cloned().collect();
        let hosts = self.weights.hosts::<T>()?;
        let weights = hosts.weights()?;
        let host = Host::<T>::of(OP, "x", &x)?;
        let rows = Rows::new("x", host.slice()?, self.config.d_model)?;
        if tracks(&inputs) {
            let (out, saved) = mixer::forward_saving(plan, rows, &weights)?;
            let node = Node { x: x.clone(), weights: self.weights.clone(), plan: plan.clone(), saved };
            Ok(record(inputs, out, shape, node)?)
        } else {
            tensor(mixer::forward(plan, rows, &weights, None)?, shape)
        }
    }

    fn run<T: StateFloat>(
        &self,
        x: &Tensor,
        plan: &ModalityPlan,
        state: &mut MixerState,
        function: impl Fn(
            &ModalityPlan,
            Rows<'_, T>,
            &MixerWeights<'_, T>,
            Option<&mut mixer::MixerState<T>>,
        ) -> mom_kernels::Result<Vec<T>>,
    ) -> Result<Tensor> {
        let state = state.of::<T>(OP, plan.batch())?;
        let hosts = self.weights.hosts::<T>()?;
        let host = Host::<T>::of(OP, "x", x)?;
        let rows = Rows::new("x", host.slice()?, self.config.d_model)?;
        let out = function(plan, rows, &hosts.weights()?, Some(state))?;
        Ok(Tensor::from_vec(out, x.shape(), &Device::Cpu)?)
    }
}

fn projection(config: &MixerConfig, projection: Projection, init: &Init, vb: &VarBuilder) -> Result<GroupedLinear> {
    let (n_in, n_out) = config.features(projection);
    let base = format!("{}_proj", projection.name());
    let bound = (n_in as f64).powf(-0.5);
    let scale = if projection == Projection::Out { init.residual_scale() } else { 1.0 };
    let bias_draw = if projection == Projection::Dt { Draw::DtBias } else { Draw::Uniform(bound) };
    let (mut weights, mut biases) = (Vec::new(), Vec::new());
    let untied = config.untied.contains(projection);
    for modality in 0..if untied { config.n_modalities } else { 1 } {
        let prefix = if untied { format!("local_experts_{base}.{modality}") } else { base.clone() };
        let names = |part: &str| (format!("{prefix}.{part}"), format!("{base}.{modality}.{part}"));
        let (name, key) = names("weight");
        weights.push(init.parameter(vb, &[n_out, n_in], &name, &key, Draw::Uniform(bound * scale))?);
        if config.has_bias(projection) {
            let (name, key) = names("bias");
            biases.push(init.precise(vb, &[n_out], &name, &key, bias_draw)?);
        }
    }
    GroupedLinear::new(n_in, n_out, weights, biases)
}

impl Weights {
    /// Every parameter; [`Node::gradients`] keeps this order.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let conv = std::iter::once(&self.conv_weight).chain(&self.conv_bias);
        self.in_proj
            .tensors()
            .chain(conv)
            .chain(self.x_proj.tensors())
            .chain(self.dt_proj.tensors())
            .chain([&self.a_log, &self.d_skip])
            .chain(self.out_proj.tensors())
    }

    fn hosts<T: Float>(&self) -> Result<Hosts<'_, T>> {
        Ok(Hosts {
            in_proj: self.in_proj.hosts()?,
            conv_weight: Host::of(OP, "conv1d.weight", &self.conv_weight)?,
            conv_bias: self.conv_bias.as_ref().map(|bias| Host::of(OP, "conv1d.bias", bias)).transpose()?,
            x_proj: self.x_proj.hosts()?,
            dt_proj: self.dt_proj.hosts()?,
            a_log: Host::of(OP, "A_log", &self.a_log)?,
            d_skip: Host::of(OP, "D", &self.d_skip)?,
            out_proj: self.out_proj.hosts()?,
        })
    }
}

/// [`Weights`] read as slices.
struct Hosts<'a, T> {
    in_proj: ops::LinearHosts<'a, T>,
    conv_weight: Host<'a, T>,
    conv_bias: Option<Host<'a, T>>,
    x_proj: ops::LinearHosts<'a, T>,
    dt_proj: ops::LinearHosts<'a, T>,
    a_log: Host<'a, T>,
    d_skip: Host<'a, T>,
    out_proj: ops::LinearHosts<'a, T>,
}

impl<T: Float> Hosts<'_, T> {
    fn weights(&self) -> Result<MixerWeights<'_, T>> {
        Ok(MixerWeights {
            in_proj: self.in_proj.grouped()?,
            conv_weight: self.conv_weight.slice()?,
            conv_bias: self.conv_bias.as_ref().map(Host::slice).transpose()?,
            x_proj: self.x_proj.grouped()?,
            dt_proj: self.dt_proj.grouped()?,
            a_log: self.a_log.slice()?,
            d_skip: self.d_skip.slice()?,
            out_proj: self.out_proj.grouped()?,
        })
    }
}

struct Node<T> {
    x: Tensor,
    weights: Arc<Weights>,
    plan: Plan,
    saved: MixerSaved<T>,
}

impl<T: Float> Node<T> {
    fn gradients(&self, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let d_model = self.weights.in_proj.in_features();
        let hosts = self.weights.hosts::<T>()?;
        let (x, grad) = (Host::<T>::of(OP, "x", &self.x)?, Host::<T>::of(OP, "grad_output", grad)?);
        let (x, grad) = (Rows::new("x", x.slice()?, d_model)?, Rows::new("grad_output", grad.slice()?, d_model)?);
        let grads = mixer::backward(&self.plan, x, &hosts.weights()?, &self.saved, grad)?;
        let weights = &*self.weights;
        let like =
            |gradient: Vec<T>, parameter: &Tensor| Ok::<_, crate::Error>(Some(tensor(gradient, parameter.shape())?));
        let mut all = vec![like(grads.x, &self.x)?];
        all.extend(weights.in_proj.split_gradients(grads.in_proj.weights, grads.in_proj.biases)?);
        all.push(like(grads.conv_weight, &weights.conv_weight)?);
        if let Some(bias) = &weights.conv_bias {
            all.push(like(grads.conv_bias, bias)?);
        }
        all.extend(weights.x_proj.split_gradients(grads.x_proj.weights, grads.x_proj.biases)?);
        all.extend(weights.dt_proj.split_gradients(grads.dt_proj.weights, grads.dt_proj.biases)?);
        all.push(like(grads.a_log, &weights.a_log)?);
        all.push(like(grads.d_skip, &weights.d_skip)?);
        all.extend(weights.out_proj.split_gradients(grads.out_proj.weights, grads.out_proj.biases)?);
        Ok(all)
    }
}

impl<T: Float> Backward for Node<T> {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(&self, grad: &Tensor, _: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        Ok(self.gradients(grad)?)
    }
}
