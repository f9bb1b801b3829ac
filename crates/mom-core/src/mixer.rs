//! The Mixture-of-Mamba mixer as one node of the tape.
//!
//! The whole mixer is one forward and one backward call of [`mom_kernels::mixer`]: it saves in_proj's and x_proj's outputs
//! and every 16th state, and computes conv and delta again. [`MixtureOfMamba::forward_by_operations`] is the same thing
//! from the operations of [`crate::ops`], and the test of this one.

use std::sync::Arc;

use candle_core::{DType, Storage, Tensor};
use candle_nn::VarBuilder;
use mom_kernels::mixer::{self, MixerSaved, MixerWeights};
use mom_kernels::selective_scan::DeltaActivation;
use mom_kernels::{ModalityPlan, Rows};

use crate::autograd::{Backward, record, record_forward_only, tracks};
use crate::error::{expect_shape, require};
use crate::host::{Float, Host, contiguous, dispatch, tensor};
use crate::init::Init;
use crate::ops::{self, GroupedLinear, SelectiveScan, grouped_linear};
use crate::state::{MixerState, StateFloat};
use crate::weights::Weights;
use crate::{MixerConfig, Plan, Result, to_positions, to_rows};

const OP: &str = "mixer";

/// As errors name what has no backward pass.
const FORWARD_FROM: &str = "forward_from";
const STEP: &str = "step";

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

impl MixtureOfMamba {
    /// A mixer with the parameters of `vb`; those that a builder over a `VarMap` does not have yet are drawn from `init`.
    ///
    /// Draws: Linear and Conv1d as PyTorch's defaults, U(-fan_in^-1/2, fan_in^-1/2); dt_proj.weight
    /// U(-dt_rank^-1/2, dt_rank^-1/2); dt_proj.bias, A_log and D as Mamba has them; out_proj scaled by `init`.
    ///
    /// # Errors
    /// An invalid configuration; a parameter that is missing, of another shape, or not finite.
    pub fn new(config: &MixerConfig, init: &Init, vb: VarBuilder) -> Result<Self> {
        config.validate()?;
        Ok(Self { config: config.clone(), weights: Arc::new(Weights::new(config, init, &vb)?) })
    }

    /// The configuration.
    pub fn config(&self) -> &MixerConfig {
        &self.config
    }

    #[cfg(feature = "cuda")]
    pub(crate) fn weights(&self) -> &Arc<Weights> {
        &self.weights
    }

    /// Element type of the projections, which is that of the activations. The smaller parameters may be wider, see
    /// [`Init::precise`].
    pub fn dtype(&self) -> DType {
        self.weights.dtype()
    }

    /// The mixer over rows in modality order, every document from a zero state. Over a plan of chunks ([`Plan::of_chunk`]) documents go
    /// on from the chunk before; all ranks then call this together, and come by in their backward passes.
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
        if self.weights.device().is_cuda() {
            return crate::cuda::initial_state(&self.weights, batch);
        }
        dispatch!(OP, "parameters", self.weights, T => {
            let hosts = self.weights.hosts::<T>()?;
            Ok(T::wrap(batch, mixer::MixerState::zeros(&hosts.weights()?, batch)))
        })
    }

    /// As [`Self::forward`], from `state` on, which is left as it is after the last position. For decoding: where something
    /// is tracked, a backward pass through the result is an error ([`crate::Error::NoGradient`]).
    ///
    /// # Errors
    /// As [`Self::forward`], and a state of another element type, device or batch. The state is then as it was.
    pub fn forward_from(&self, x: &Tensor, plan: &Plan, state: &mut MixerState) -> Result<Tensor> {
        plan.expect_whole(FORWARD_FROM)?;
        let x = contiguous(x)?;
        self.check(&x, plan)?;
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            return crate::cuda::mixer_from(FORWARD_FROM, &x, &self.weights, plan, state);
        }
        dispatch!(OP, "x", x, T => self.run::<T>(FORWARD_FROM, &x, plan, state, mixer::forward))
    }

    /// One position of every sequence: `x` is `(batch, d_model)`, rows in modality order of a plan of seqlen 1. Without a
    /// backward pass, as [`Self::forward_from`].
    ///
    /// # Errors
    /// As [`Self::forward_from`], and a plan of another seqlen.
    pub fn step(&self, x: &Tensor, plan: &Plan, state: &mut MixerState) -> Result<Tensor> {
        plan.expect_whole(STEP)?;
        let x = contiguous(x)?;
        self.check(&x, plan)?;
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            require(plan.seqlen() == 1, "plan.seqlen", "1 for a step", plan.seqlen())?;
            return crate::cuda::mixer_from(STEP, &x, &self.weights, plan, state);
        }
        dispatch!(OP, "x", x, T => {
            self.run::<T>(STEP, &x, plan, state, |plan, x, weights, state| match state {
                Some(state) => mixer::step(plan, x, weights, state),
                None => mixer::forward(plan, x, weights, None),
            })
        })
    }

    pub(crate) fn check(&self, x: &Tensor, plan: &ModalityPlan) -> Result<()> {
        let n_modalities = self.config.n_modalities;
        let expected = format!("{n_modalities}, as in the mixer");
        require(plan.n_modalities() == n_modalities, "plan.n_modalities", &expected, plan.n_modalities())?;
        expect_shape(OP, "x", &[plan.n_rows(), self.config.d_model], x)?;
        self.weights.expect_beside(x)
    }

    fn forward_as<T: StateFloat>(&self, x: Tensor, plan: &Plan) -> Result<Tensor> {
        let shape = x.shape().clone();
        let inputs: Vec<_> = std::iter::once(&x).chain(self.weights.tensors()).cloned().collect();
        let hosts = self.weights.hosts::<T>()?;
        let weights = hosts.weights()?;
        let host = Host::<T>::of(OP, "x", &x)?;
        let rows = Rows::new("x", host.slice()?, self.config.d_model)?;
        if tracks(&inputs) {
            let (out, saved) = match plan.context() {
                Some(context) => mixer::forward_chunk_saving(plan, rows, &weights, context)?,
                None => mixer::forward_saving(plan, rows, &weights)?,
            };
            let node = Node { x: x.clone(), weights: self.weights.clone(), plan: plan.clone(), saved };
            Ok(record(inputs, out, shape, node)?)
        } else {
            let out = match plan.context() {
                Some(context) => mixer::forward_chunk(plan, rows, &weights, context)?,
                None => mixer::forward(plan, rows, &weights, None)?,
            };
            tensor(out, shape)
        }
    }

    fn run<T: StateFloat>(
        &self,
        name: &'static str,
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
        let storage = Storage::Cpu(T::to_cpu_storage_owned(out));
        Ok(record_forward_only(name, self.weights.tensors().chain([x]), storage, x.shape())?)
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
        let (plan, weights) = (&self.plan, hosts.weights()?);
        let grads = match plan.context() {
            Some(context) => mixer::backward_chunk(plan, x, &weights, &self.saved, grad, context)?,
            None => mixer::backward(plan, x, &weights, &self.saved, grad)?,
        };
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
