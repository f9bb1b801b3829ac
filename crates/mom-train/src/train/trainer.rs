//! Steps and validations of one model.

use std::time::{Duration, Instant};

use candle_core::Tensor;
use mom_data::{Loader, Position};
use mom_models::diffusion::Timesteps;
use mom_models::{Model, Parameters, flops};

use super::engine::{Engine, StepControl};
use super::snapshot::Snapshot;
use super::validation::{self, HeldOut, noise};
use super::work::{Input, Mode, Work};
use super::{Skipped, StepReport, Validation};
use crate::config::{OptimizerSection, TrainSection};
use crate::data::view;
use crate::optim::{Average, Norms, Optimiser, learning_rate};
use crate::{DeviceKind, Error, OnSpike, Origin, Prepared, Result, RunConfig};

/// Model, optimiser and place in the data.
#[derive(Debug)]
pub struct Trainer {
    config: RunConfig,
    engine: Engine,
    loader: Loader,
    /// The next step's batches, made and sent while the device was busy, and the loader's place before them.
    prefetched: Option<(Work, Position)>,
    data_wait: Duration,
    validation: Vec<HeldOut>,
    counters: Counters,
    norms: Norms,
    /// Where `train.ema` asks for it.
    average: Option<Average>,
    /// Since [`Self::take_skipped`].
    skipped: Vec<Skipped>,
}

/// What has been seen so far.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Counters {
    /// Training positions.
    pub tokens: u64,
    /// Floating-point operations of training.
    pub flops: f64,
    /// Steps whose batches were passed over.
    pub skipped: u64,
}

impl Trainer {
    /// A new model at the start of the data.
    ///
    /// # Errors
    /// A configuration that does not fit the data, or that this build cannot run.
    pub fn new(config: &RunConfig, prepared: &Prepared) -> Result<Self> {
        config.validate()?;
        let model_config = prepared.resolved(config)?.model_config(&prepared.tokenizers);
        let TrainSection { device, recompute, .. } = config.train;
        let mode = Mode { dtype: config.precision().dtype(), device, recompute, captures: config.captures()? };
        let engine = Engine::new(&model_config, config.train.seed_of_weights(), mode)?;
        Ok(Self {
            average: average(&engine, config, None)?,
            engine,
            loader: prepared.train_loader(config)?,
            prefetched: None,
            data_wait: Duration::ZERO,
            validation: validation::batches(config, prepared)?,
            counters: Counters::default(),
            norms: Norms::default(),
            skipped: Vec::new(),
            config: config.clone(),
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.engine.model
    }

    /// Its variables.
    pub fn parameters(&self) -> &Parameters {
        &self.engine.parameters
    }

    /// Optimiser steps taken.
    pub fn steps_done(&self) -> u64 {
        self.engine.optimiser.steps()
    }

    /// Training positions seen.
    pub fn tokens_seen(&self) -> u64 {
        self.counters.tokens
    }

    /// Floating-point operations for each training position so far, forward and backward, see [`flops`].
    pub fn active_flops_per_token(&self) -> f64 {
        self.counters.flops / self.counters.tokens.max(1) as f64
    }

    /// Time that the last step waited for its batches.
    pub fn data_wait(&self) -> Duration {
        self.data_wait
    }

    /// One optimiser step over the next batches. While a device works on one of them, one of the step after is made.
    ///
    /// Where the loss or the gradient is not finite, or the gradient's norm stands out (`train.spike_factor`), no weight is
    /// touched. With `train.on_spike = "skip"` these batches are then passed over and the step is made of the next ones, up to
    /// [`Self::MOST_SKIPS`] times in a row.
    ///
    /// # Errors
    /// [`Error::NonFinite`] and [`Error::Spike`], with the documents and the operation they come from.
    pub fn step(&mut self) -> Result<StepReport> {
        let step = self.steps_done() + 1;
        let mut skips = 0;
        loop {
            let (start, before) = (Instant::now(), self.position());
            let error = match self.try_step(step, start) {
                // Only what comes behind the update can fail then.
                Err(error) if self.steps_done() >= step => return Err(error),
                Err(error) => error,
                Ok(report) => {
                    self.norms.push(report.grad_norm);
                    if let (Some(average), Some(decay)) = (&mut self.average, self.config.train.ema) {
                        average.update(&self.engine.optimiser, &self.engine.parameters, decay)?;
                    }
                    return Ok(report);
                }
            };
            // What was made for the next step is made again.
            self.prefetched = None;
            self.loader.seek(before)?;
            let (what, value) = match &error {
                Error::NonFinite { tensor, value, .. } => (tensor.clone(), *value),
                Error::Spike { norm, .. } => ("the gradient's norm".to_owned(), *norm),
                _ => return Err(error),
            };
            let origin = self.origin(step)?;
            let after = self.loader.position();
            // A weight that is not finite stays so, whatever comes next.
            let of_weights = self.parameters().get(&what).is_some();
            if self.config.train.on_spike == OnSpike::Stop || of_weights || skips == Self::MOST_SKIPS {
                // What was read for this step is read again.
                self.loader.seek(before)?;
                return Err(error.with_origin(origin));
            }
            self.loader.seek(after)?;
            skips += 1;
            self.counters.skipped += 1;
            self.skipped.push(Skipped { step, what, value, origin });
        }
    }

    /// Steps that are skipped one after the other before training stops all the same.
    pub const MOST_SKIPS: u32 = 10;

    /// Where the next step's batches lead to what is not finite. The loader goes on behind them.
    fn origin(&mut self, step: u64) -> Result<Origin> {
        let before = self.loader.position();
        let mut documents = Vec::new();
        for _ in 0..self.config.train.accumulate {
            documents.extend(self.loader.next_keys()?);
        }
        self.loader.seek(before)?;
        let mut operation = None;
        for i in 0..self.config.train.accumulate {
            let Input { batch, noise } = input(&mut self.loader, &self.config, step, i)?;
            if operation.is_none() {
                let model = &self.engine.model;
                operation = model.first_not_finite(&model.inputs(&view(&batch), noise.as_ref())?)?;
            }
        }
        Ok(Origin { operation, documents })
    }

    /// What was passed over since this was last asked.
    pub fn take_skipped(&mut self) -> Vec<Skipped> {
        std::mem::take(&mut self.skipped)
    }

    pub(crate) fn norms(&self) -> &Norms {
        &self.norms
    }

    fn try_step(&mut self, step: u64, start: Instant) -> Result<StepReport> {
        let RunConfig { train, optimizer, .. } = &self.config;
        let work = match self.prefetched.take() {
            Some((work, _)) => work,
            None => {
                let first = input(&mut self.loader, &self.config, step, 0)?;
                let rest = 1..train.accumulate;
                let rest = rest.map(|i| input(&mut self.loader, &self.config, step, i)).collect::<Result<_>>()?;
                Work::new(&self.engine.model, &first, rest, self.engine.mode)?
            }
        };
        let mut waited = start.elapsed();
        let control = StepControl {
            learning_rate: learning_rate(optimizer, step, train.steps),
            skip_above: self.norms.limit(train.spike_factor),
        };
        let (n_tokens, counts, mode) = (work.n_tokens, work.counts, self.engine.mode);
        let (loader, prefetched, config) = (&mut self.loader, &mut self.prefetched, &self.config);
        let place = loader.position();
        let mut first = None;
        let mut rest = Vec::new();
        let result = self.engine.step(work, control, optimizer, |model, i| {
            if step == train.steps {
                return Ok(());
            }
            let start = Instant::now();
            let next = input(loader, config, step + 1, i)?;
            match &first {
                None => first = Some(next),
                Some(_) => rest.push(next),
            }
            if i + 1 == train.accumulate
                && let Some(first) = first.take()
            {
                *prefetched = Some((Work::new(model, &first, std::mem::take(&mut rest), mode)?, place));
            }
            // The processor does nothing else meanwhile.
            if train.device == DeviceKind::Cpu {
                waited += start.elapsed();
            }
            Ok(())
        });
        let report = result?;
        self.data_wait = waited;
        self.counters.tokens += n_tokens as u64;
        self.counters.flops += flops::training_step(self.engine.model.config(), n_tokens, counts);
        Ok(report)
    }

    /// Losses on the held-out split: the same batches and the same noise in every run.
    ///
    /// # Errors
    /// [`crate::Error::NonFinite`] where a loss is not finite.
    pub fn validate(&self) -> Result<Validation> {
        let step = self.steps_done();
        let validation = validation::validate(&self.engine.model, self.validation.iter().map(Ok), step)?;
        for (loss, name) in validation.by_modality.iter().zip(self.engine.model.config().setting.modalities()) {
            self.engine.finite(step, &format!("the validation loss of {name}"), loss.sum)?;
        }
        Ok(validation)
    }

    /// [`Self::validate`] with the average of the weights (`train.ema`); `None` where there is none.
    ///
    /// # Errors
    /// As there.
    pub fn validate_average(&self) -> Result<Option<Validation>> {
        let run = |average: &Average| average.in_place(&self.engine.parameters, || self.validate());
        self.average.as_ref().map(run).transpose()
    }

    /// Where the next step's batches begin.
    pub(crate) fn position(&self) -> Position {
        self.prefetched.as_ref().map_or_else(|| self.loader.position(), |(_, place)| *place)
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    /// Values of [`Self::copy_state`].
    pub(crate) fn state_len(&self) -> usize {
        self.parameters().n_elements() * if self.average.is_some() { 4 } else { 3 }
    }

    /// Weights, first and second moments, and the weights' average where there is one: f32, each in the order of the parameters,
    /// end to end.
    pub(crate) fn copy_state(&mut self, to: &mut [f32]) -> Result<()> {
        let (state, averages) = to.split_at_mut(3 * self.parameters().n_elements());
        self.engine.optimiser.copy_state(&self.engine.parameters, state)?;
        self.average.as_ref().map_or(Ok(()), |average| average.copy(&mut self.engine.optimiser, averages))
    }

    /// Begins the average of the weights anew: with the values of a checkpoint, or with the weights as they are.
    pub(crate) fn restart_average(&mut self, values: Option<&[Tensor]>) -> Result<()> {
        self.average = average(&self.engine, &self.config, values)?;
        Ok(())
    }

    /// Goes on to a step under another optimiser, validates, and puts everything back to where it was, to the bit: the losses and the
    /// positions seen there. `None` where `goes_on` says no on the way.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub(crate) fn branch(
        &mut self,
        optimizer: &OptimizerSection,
        end: u64,
        mut goes_on: impl FnMut() -> bool,
    ) -> Result<Option<(Validation, u64)>> {
        let snapshot = Snapshot::of(self)?;
        let n_skipped = self.skipped.len();
        let mut config = RunConfig { optimizer: *optimizer, ..self.config.clone() };
        config.train.steps = end;
        let trunk = std::mem::replace(&mut self.config, config);
        let mut outcome = Ok(None);
        while self.steps_done() < end && goes_on() {
            if let Err(error) = self.step() {
                outcome = Err(error);
                break;
            }
        }
        if outcome.is_ok() && self.steps_done() == end {
            outcome = self.validate().map(|validation| Some((validation, self.tokens_seen())));
        }
        self.config = trunk;
        self.skipped.truncate(n_skipped);
        // In place: a captured step goes on with the same memory.
        snapshot.put_back(self)?;
        outcome
    }

    pub(crate) fn optimiser_mut(&mut self) -> &mut Optimiser {
        &mut self.engine.optimiser
    }

    pub(crate) fn restore(&mut self, position: Position, counters: Counters, norms: Norms) -> Result<()> {
        self.prefetched = None;
        self.loader.seek(position)?;
        self.counters = counters;
        self.norms = norms;
        Ok(())
    }
}

fn average(engine: &Engine, config: &RunConfig, values: Option<&[Tensor]>) -> Result<Option<Average>> {
    let average = || Average::new(&engine.optimiser, &engine.parameters, values);
    config.train.ema.map(|_| average()).transpose()
}

/// Batch `i` of a step and its noise.
fn input(loader: &mut Loader, config: &RunConfig, step: u64, i: usize) -> Result<Input> {
    let batch = loader.next_batch()?;
    let index = (step - 1) * config.train.accumulate as u64 + i as u64;
    let noise = noise(&batch, config.train.seed, index, Timesteps::Independent);
    Ok(Input { batch, noise })
}
