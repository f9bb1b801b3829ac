//! Model and optimiser: a step over batches that somebody else provides.

use candle_core::{DType, Device, Tensor};
use mom_core::autograd::Sink;
use mom_data::Batch;
use mom_models::diffusion::Noise;
use mom_models::{Inputs, Losses, ModalityLoss, Model, ModelConfig, Normaliser, Parameters};

use crate::adamw::{global_norm, squares};
use crate::config::OptimizerSection;
use crate::optimiser::Optimiser;
use crate::prepare::view;
use crate::{DeviceKind, Error, Result, StepReport};

const GIB: f64 = (1u64 << 30) as f64;

/// A batch and its noise.
#[derive(Debug)]
pub(crate) struct Input {
    pub batch: Batch,
    pub noise: Option<Noise>,
}

/// The batches of a step where the model is.
#[derive(Debug)]
pub(crate) struct Work {
    inputs: Vec<Inputs>,
    /// What their losses are divided by.
    pub counts: Normaliser,
    /// Positions of all batches.
    pub n_tokens: usize,
}

impl Work {
    /// Checks batches and brings them to where the model is. On a device this waits for nothing.
    ///
    /// # Errors
    /// A batch that does not fit the model, out of memory.
    pub fn new(model: &Model, inputs: &[Input]) -> Result<Self> {
        let counts = inputs.iter().map(|input| Normaliser::of(&view(&input.batch)));
        Ok(Self {
            counts: counts.fold(Normaliser::default(), |a, b| a + b),
            n_tokens: inputs.iter().map(|input| input.batch.batch * input.batch.seqlen).sum(),
            inputs: inputs
                .iter()
                .map(|Input { batch, noise }| model.inputs(&view(batch), noise.as_ref()))
                .collect::<std::result::Result<_, _>>()?,
        })
    }
}

/// Model, optimiser and, on a device, what takes the gradients.
#[derive(Debug)]
pub(crate) struct Engine {
    pub model: Model,
    pub parameters: Parameters,
    pub optimiser: Optimiser,
    sink: Option<Sink>,
}

impl Engine {
    /// A new model.
    ///
    /// # Errors
    /// A configuration, device or element type that cannot be had.
    pub fn new(config: &ModelConfig, seed: u64, dtype: DType, device: DeviceKind, recompute: bool) -> Result<Self> {
        Self::try_new(config, seed, dtype, device, recompute).map_err(|error| {
            error.or_out_of_memory(|| {
                // Weights of 16 bits have masters beside them; all have two moments.
                let bytes = if dtype == DType::F32 { 12 } else { 14 };
                let gib = bytes as f64 * (config.total_parameters() + config.patcher_parameters()) as f64 / GIB;
                format!("the weights and their optimiser take {gib:.2} GiB; choose a smaller model.scale")
            })
        })
    }

    fn try_new(config: &ModelConfig, seed: u64, dtype: DType, device: DeviceKind, recompute: bool) -> Result<Self> {
        let device = match device {
            DeviceKind::Cpu => Device::Cpu,
            DeviceKind::Cuda => mom_core::cuda_device(0)?,
        };
        let (model, parameters) = Model::seeded(config, seed, dtype, &device)?;
        let variables = parameters.iter().map(|(_, variable)| variable);
        let sink = device.is_cuda().then(|| Sink::new(variables, &device)).transpose()?;
        let optimiser = Optimiser::new(&parameters)?;
        Ok(Self { model: model.with_recompute(recompute), parameters, optimiser, sink })
    }

    /// One optimiser step over batches whose gradients are summed. `meanwhile` runs once everything is on its way to the
    /// device, before the host waits for it; what it sends there itself comes behind.
    ///
    /// # Errors
    /// [`Error::NonFinite`] where the loss or a gradient is not finite, before any weight is touched.
    pub fn step(
        &mut self,
        work: &Work,
        learning_rate: f64,
        config: &OptimizerSection,
        meanwhile: impl FnOnce(&Model) -> Result<()>,
    ) -> Result<StepReport> {
        self.try_step(work, learning_rate, config, meanwhile).map_err(|error| {
            error.or_out_of_memory(|| {
                let less = "lower data.batch or data.seqlen and raise train.accumulate";
                format!("{less}, or set train.recompute=block")
            })
        })
    }

    fn try_step(
        &mut self,
        work: &Work,
        learning_rate: f64,
        config: &OptimizerSection,
        meanwhile: impl FnOnce(&Model) -> Result<()>,
    ) -> Result<StepReport> {
        let step = self.optimiser.steps() + 1;
        let mut losses = Vec::new();
        let mut gradients: Option<Vec<Tensor>> = None;
        for inputs in &work.inputs {
            let forward = || self.model.loss_of(inputs, work.counts);
            let of_batch = match &self.sink {
                Some(sink) => sink.scope(forward)?,
                None => forward()?,
            };
            // On a device reading the loss would wait for it; the gradients are not finite either then.
            if self.sink.is_none() {
                self.finite(step, "the loss", value(&of_batch)?)?;
            }
            let of_batch_gradients = self.gradients(&of_batch)?;
            gradients = Some(match gradients {
                None => of_batch_gradients,
                Some(sums) => {
                    let pairs = sums.iter().zip(&of_batch_gradients);
                    pairs.map(|(a, b)| sum(a, b)).collect::<candle_core::Result<_>>()?
                }
            });
            losses.push(of_batch.detached());
        }
        let gradients = gradients.unwrap_or_default();
        let grad_norm = self.update(step, &gradients, learning_rate, config, meanwhile)?;
        let (mut loss, mut by_modality) = (0.0, self.no_losses());
        for of_batch in losses {
            loss += value(&of_batch)?;
            add(&mut by_modality, of_batch.by_modality()?);
        }
        self.finite(step, "the loss", loss)?;
        Ok(StepReport { step, loss, by_modality, grad_norm, learning_rate })
    }

    /// Gradients of a loss, in the order of the parameters; zero where the loss does not depend on one.
    fn gradients(&self, losses: &Losses) -> Result<Vec<Tensor>> {
        let mut store = losses.total.backward()?;
        let gradients = self.parameters.iter().map(|(_, variable)| {
            let sunk = self.sink.as_ref().and_then(|sink| sink.take(variable));
            match (sunk, store.remove(variable)) {
                (Some(sunk), Some(taped)) => sunk + taped,
                (Some(gradient), None) | (None, Some(gradient)) => Ok(gradient),
                (None, None) => variable.zeros_like(),
            }
        });
        Ok(gradients.collect::<candle_core::Result<_>>()?)
    }

    /// Clips and updates, unless a gradient is not finite; returns their norm.
    fn update(
        &mut self,
        step: u64,
        gradients: &[Tensor],
        learning_rate: f64,
        config: &OptimizerSection,
        meanwhile: impl FnOnce(&Model) -> Result<()>,
    ) -> Result<f64> {
        let norm = match &mut self.optimiser {
            Optimiser::Host(adamw) => {
                let norm = global_norm(gradients)?;
                if norm.is_finite() {
                    let factor = if norm > config.clip_norm { config.clip_norm / norm } else { 1.0 };
                    adamw.step(gradients, factor, learning_rate, config)?;
                }
                norm
            }
            #[cfg(feature = "cuda")]
            Optimiser::Device(adamw) => {
                adamw.step(gradients, learning_rate, config)?;
                meanwhile(&self.model)?;
                return self.checked_norm(step, gradients);
            }
        };
        meanwhile(&self.model)?;
        if norm.is_finite() {
            return Ok(norm);
        }
        Err(self.non_finite_gradient(step, gradients, norm)?)
    }

    /// The norm of the gradients of a step on the device; the step was taken if it is finite.
    #[cfg(feature = "cuda")]
    fn checked_norm(&mut self, step: u64, gradients: &[Tensor]) -> Result<f64> {
        let Optimiser::Device(adamw) = &mut self.optimiser else { return Ok(f64::NAN) };
        let norm = adamw.norm()?;
        if norm.is_finite() {
            return Ok(norm);
        }
        adamw.untake_step();
        Err(self.non_finite_gradient(step, gradients, norm)?)
    }

    fn non_finite_gradient(&self, step: u64, gradients: &[Tensor], norm: f64) -> Result<Error> {
        for ((name, _), gradient) in self.parameters.iter().zip(gradients) {
            if !squares(gradient)?.is_finite() {
                return self.non_finite(step, format!("the gradient of {name}"), norm);
            }
        }
        self.non_finite(step, "the gradient's norm".to_owned(), norm)
    }

    /// Fails with the cause where a value is not finite.
    pub fn finite(&self, step: u64, what: &str, value: f64) -> Result<()> {
        if value.is_finite() { Ok(()) } else { Err(self.non_finite(step, what.to_owned(), value)?) }
    }

    /// The error of a step that failed; a weight that is not finite itself is the cause, and is named.
    fn non_finite(&self, step: u64, tensor: String, value: f64) -> Result<Error> {
        for (name, variable) in self.parameters.iter() {
            let squares = squares(variable.as_tensor())?;
            if !squares.is_finite() {
                return Ok(Error::NonFinite { step, tensor: name.to_owned(), value: squares, checkpoint: None });
            }
        }
        Ok(Error::NonFinite { step, tensor, value, checkpoint: None })
    }

    /// A loss of zero for each modality.
    pub fn no_losses(&self) -> Vec<ModalityLoss> {
        vec![ModalityLoss::default(); self.model.config().setting.n_modalities()]
    }
}

/// Gradients of two batches together, in f32 where theirs have 16 bits: those would lose what many batches add.
fn sum(a: &Tensor, b: &Tensor) -> candle_core::Result<Tensor> {
    let wide = match a.dtype() {
        DType::BF16 | DType::F16 => DType::F32,
        dtype => dtype,
    };
    a.to_dtype(wide)? + b.to_dtype(wide)?
}

fn value(losses: &Losses) -> Result<f64> {
    Ok(f64::from(losses.total.to_vec1::<f32>()?[0]))
}

/// Adds losses by modality.
pub(crate) fn add(sums: &mut [ModalityLoss], losses: Vec<ModalityLoss>) {
    for (sum, loss) in sums.iter_mut().zip(losses) {
        *sum += loss;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mom_data::NO_TARGET;
    use mom_models::{Setting, Variant};

    const SEQLEN: usize = 8;

    /// A document, or padding alone.
    fn input(padding: bool) -> Input {
        let at = |p: usize| (p * 5 % 11) as u32;
        let batch = Batch {
            batch: 1,
            seqlen: SEQLEN,
            tokens: (0..SEQLEN).map(|p| if padding { 0 } else { at(p) }).collect(),
            targets: (0..SEQLEN).map(|p| if padding { NO_TARGET } else { at(p + 1) }).collect(),
            modality_ids: (0..SEQLEN).map(|p| u8::from(!padding && p > 3)).collect(),
            target_modality_ids: vec![0; SEQLEN],
            document_starts: (0..SEQLEN).map(|p| p == 0).collect(),
            ..Batch::default()
        };
        Input { batch, noise: None }
    }

    /// An engine wherever there is one.
    fn engines() -> Vec<Engine> {
        let config = ModelConfig::new(Setting::Chameleon, Variant::Mom, "nano".parse().unwrap(), 11);
        let mut engines = vec![Engine::new(&config, 3, DType::F32, DeviceKind::Cpu, false).unwrap()];
        match mom_core::cuda_device(0) {
            Ok(_) => engines.extend(
                [DType::BF16, DType::F32].map(|dtype| Engine::new(&config, 3, dtype, DeviceKind::Cuda, false).unwrap()),
            ),
            Err(error) => assert!(
                std::env::var_os("MOM_REQUIRE_GPU").is_none() || cfg!(not(feature = "cuda")),
                "MOM_REQUIRE_GPU is set, but {error}"
            ),
        }
        engines
    }

    fn step(engine: &mut Engine, inputs: &[Input]) -> StepReport {
        // Without clipping: gradients of 16 bits and their sums in f32 have norms that differ in the last bit.
        let config = OptimizerSection { weight_decay: 0.0, clip_norm: 1e9, ..OptimizerSection::default() };
        let work = Work::new(&engine.model, inputs).unwrap();
        engine.step(&work, 1e-2, &config, |_| Ok(())).unwrap()
    }

    fn weights(engine: &Engine) -> Vec<Vec<f32>> {
        let values = |tensor: &Tensor| tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        engine.parameters.tensors().map(|(_, tensor)| values(tensor).unwrap()).collect()
    }

    #[test]
    fn a_step_without_a_target_has_no_loss_and_changes_nothing() {
        for mut engine in engines() {
            let before = weights(&engine);
            let report = step(&mut engine, &[input(true)]);
            assert_eq!((report.loss, report.grad_norm), (0.0, 0.0));
            assert!(report.by_modality.iter().all(|loss| loss.count == 0));
            assert!(weights(&engine) == before);
        }
    }

    #[test]
    fn a_batch_without_a_target_adds_nothing_to_another() {
        for (mut one, mut two) in engines().into_iter().zip(engines()) {
            let (alone, with) = (step(&mut one, &[input(false)]), step(&mut two, &[input(false), input(true)]));
            assert_eq!((alone.loss, alone.by_modality), (with.loss, with.by_modality));
            assert!(alone.loss > 0.0 && (alone.grad_norm / with.grad_norm - 1.0).abs() < 1e-6);
            assert!(weights(&one) == weights(&two));
        }
    }
}
