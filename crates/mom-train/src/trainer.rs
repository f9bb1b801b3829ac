//! Steps and validations of one model.

use candle_core::{DType, Device, Tensor};
use mom_data::{Batch, Loader, Position};
use mom_models::diffusion::{Noise, Timesteps};
use mom_models::{ModalityLoss, Model, Normaliser, Parameters, flops};

use crate::adamw::{AdamW, global_norm, squares};
use crate::prepare::view;
use crate::schedule::learning_rate;
use crate::{Error, Prepared, Result, RunConfig};

/// Seed of the noise in validations: the same in every run.
const VALIDATION_SEED: u64 = 0x5eed;

/// Model, optimiser and place in the data.
#[derive(Debug)]
pub struct Trainer {
    config: RunConfig,
    model: Model,
    parameters: Parameters,
    optimiser: AdamW,
    loader: Loader,
    validation: Vec<Batch>,
    counters: Counters,
}

/// What has been seen so far.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Counters {
    /// Training positions.
    pub tokens: u64,
    /// Floating-point operations of training.
    pub flops: f64,
}

/// One optimiser step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// Its number, counted from 1.
    pub step: u64,
    /// What was trained on: all parts, weighted.
    pub loss: f64,
    /// By modality of the target.
    pub by_modality: Vec<ModalityLoss>,
    /// Global norm of the gradient, before clipping.
    pub grad_norm: f64,
    /// Learning rate.
    pub learning_rate: f64,
}

/// One validation.
#[derive(Debug, Clone, PartialEq)]
pub struct Validation {
    /// Steps done.
    pub step: u64,
    /// By modality of the target.
    pub by_modality: Vec<ModalityLoss>,
}

impl Trainer {
    /// A new model at the start of the data.
    ///
    /// # Errors
    /// A configuration that does not fit the data, or that this build cannot run.
    pub fn new(config: &RunConfig, prepared: &Prepared) -> Result<Self> {
        config.validate()?;
        let model_config = config.model_config(&prepared.tokenizers);
        let (model, parameters) = Model::seeded(&model_config, config.train.seed, DType::F32, &Device::Cpu)?;
        let mut validation = prepared.validation_loader(config)?;
        // One pass over the held-out split at most.
        let n_batches = config.train.eval_batches.min(validation.n_sequences().div_ceil(config.data.batch));
        Ok(Self {
            optimiser: AdamW::new(&parameters)?,
            loader: prepared.train_loader(config)?,
            validation: (0..n_batches).map(|_| validation.next_batch()).collect::<std::result::Result<_, _>>()?,
            counters: Counters::default(),
            config: config.clone(),
            model,
            parameters,
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Its variables.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Optimiser steps taken.
    pub fn steps_done(&self) -> u64 {
        self.optimiser.steps()
    }

    /// Training positions seen.
    pub fn tokens_seen(&self) -> u64 {
        self.counters.tokens
    }

    /// Floating-point operations for each training position so far, forward and backward, see [`flops`].
    pub fn active_flops_per_token(&self) -> f64 {
        self.counters.flops / self.counters.tokens.max(1) as f64
    }

    /// One optimiser step over the next batches.
    ///
    /// # Errors
    /// [`Error::NonFinite`] where the loss or a gradient is not finite, before any weight is touched.
    pub fn step(&mut self) -> Result<StepReport> {
        let step = self.steps_done() + 1;
        let batches: Vec<Batch> = (0..self.config.train.accumulate)
            .map(|_| self.loader.next_batch())
            .collect::<std::result::Result<_, _>>()?;
        let counts = batches.iter().map(|batch| Normaliser::of(&view(batch))).fold(Normaliser::default(), |a, b| a + b);
        let mut loss = 0.0;
        let mut by_modality = vec![ModalityLoss::default(); self.model.config().setting.n_modalities()];
        let mut gradients: Option<Vec<Tensor>> = None;
        for (i, batch) in batches.iter().enumerate() {
            let index = (step - 1) * batches.len() as u64 + i as u64;
            let noise = noise(batch, self.config.train.seed, index, Timesteps::Independent);
            let losses = self.model.loss(&view(batch), noise.as_ref(), counts)?;
            loss += f64::from(losses.total.to_vec1::<f32>()?[0]);
            if !loss.is_finite() {
                return Err(self.non_finite(step, "the loss".to_owned(), loss)?);
            }
            for (sum, of_batch) in by_modality.iter_mut().zip(losses.by_modality) {
                *sum += of_batch;
            }
            let mut store = losses.total.backward()?;
            let of_batch = self.parameters.iter().map(|(_, variable)| match store.remove(variable) {
                Some(gradient) => Ok(gradient),
                None => variable.zeros_like(),
            });
            let of_batch = of_batch.collect::<candle_core::Result<Vec<Tensor>>>()?;
            gradients = Some(match gradients {
                None => of_batch,
                Some(sums) => sums.iter().zip(&of_batch).map(|(a, b)| a + b).collect::<candle_core::Result<_>>()?,
            });
            self.counters.tokens += (batch.batch * batch.seqlen) as u64;
        }
        let gradients = gradients.unwrap_or_default();
        let n_tokens = self.config.data.batch * self.config.data.seqlen * batches.len();
        self.counters.flops += flops::training_step(self.model.config(), n_tokens, counts);

        let grad_norm = global_norm(&gradients)?;
        if !grad_norm.is_finite() {
            for ((name, _), gradient) in self.parameters.iter().zip(&gradients) {
                if !squares(gradient)?.is_finite() {
                    return Err(self.non_finite(step, format!("the gradient of {name}"), grad_norm)?);
                }
            }
            return Err(self.non_finite(step, "the gradient's norm".to_owned(), grad_norm)?);
        }
        let clip = self.config.optimizer.clip_norm;
        let factor = if grad_norm > clip { clip / grad_norm } else { 1.0 };
        let learning_rate = learning_rate(&self.config.optimizer, step, self.config.train.steps);
        self.optimiser.step(&gradients, factor, learning_rate, &self.config.optimizer)?;
        Ok(StepReport { step, loss, by_modality, grad_norm, learning_rate })
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

    /// Losses on the held-out split: the same batches and the same noise in every run.
    ///
    /// # Errors
    /// [`Error::NonFinite`] where a loss is not finite.
    pub fn validate(&self) -> Result<Validation> {
        let mut by_modality = vec![ModalityLoss::default(); self.model.config().setting.n_modalities()];
        for (index, batch) in self.validation.iter().enumerate() {
            let noise = noise(batch, VALIDATION_SEED, index as u64, Timesteps::Stratified);
            let losses = self.model.loss(&view(batch), noise.as_ref(), Normaliser::of(&view(batch)))?;
            for (sum, of_batch) in by_modality.iter_mut().zip(losses.by_modality) {
                *sum += of_batch;
            }
        }
        let step = self.steps_done();
        for (loss, name) in by_modality.iter().zip(self.model.config().setting.modalities()) {
            if !loss.sum.is_finite() {
                return Err(self.non_finite(step, format!("the validation loss of {name}"), loss.sum)?);
            }
        }
        Ok(Validation { step, by_modality })
    }

    pub(crate) fn position(&self) -> Position {
        self.loader.position()
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    pub(crate) fn optimiser(&self) -> &AdamW {
        &self.optimiser
    }

    pub(crate) fn optimiser_mut(&mut self) -> &mut AdamW {
        &mut self.optimiser
    }

    pub(crate) fn restore(&mut self, position: Position, counters: Counters) -> Result<()> {
        self.loader.seek(position)?;
        self.counters = counters;
        Ok(())
    }
}

fn noise(batch: &Batch, seed: u64, index: u64, timesteps: Timesteps) -> Option<Noise> {
    (batch.n_patches() > 0).then(|| Noise::draw(seed, index, batch.n_images(), batch.patches.len(), timesteps))
}
