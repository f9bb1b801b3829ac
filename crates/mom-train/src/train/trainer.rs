//! Steps and validations of one model.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::Tensor;
use mom_data::{Position, Share};
use mom_models::{Model, Normaliser, Parameters, flops};

use super::engine::{Engine, StepControl};
use super::feed::Feed;
use super::snapshot::Snapshot;
use super::validation::{self, HeldOut};
use super::work::{Content, Input, Mode, Work};
use super::{Skipped, StepReport, Validation};
use crate::config::{OptimizerSection, TrainSection};
use crate::data::view;
use crate::dist::{Patience, World};
use crate::error::require;
use crate::optim::{Average, Moments, Norms, Optimiser, Stretch, learning_rate};
use crate::{DeviceKind, Error, Graph, OnSpike, Origin, Prepared, Result, RunConfig};

/// Model, optimiser and place in the data.
#[derive(Debug)]
pub struct Trainer {
    config: RunConfig,
    engine: Engine,
    world: Arc<World>,
    feed: Feed,
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
    /// What this rank has to say at the next exchange, and what all said at the last one.
    own: Word,
    heard: Word,
    /// Whether this process has taken a step.
    has_stepped: bool,
}

/// What ranks tell each other once a step, beside counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Word {
    /// Somebody wants the run to end: of all, whether anybody does.
    pub stops: bool,
    /// The checkpoint is on the disk, as far as it is this rank's: of all, whether it is everybody's.
    pub has_written: bool,
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
        Self::in_world(config, prepared, Arc::new(World::alone()))
    }

    /// As [`Self::new`], as one of several ranks. Every rank makes its trainer and calls the same methods in the same order.
    ///
    /// # Errors
    /// As there; a step that cannot be shared out evenly.
    pub fn in_world(config: &RunConfig, prepared: &Prepared, world: Arc<World>) -> Result<Self> {
        config.validate()?;
        let pieces = world.pieces(config)?;
        let of = config.train.dist.context;
        let chunk = Share { rank: world.rank() % of, of };
        let model_config = prepared.resolved(config)?.model_config(&prepared.tokenizers);
        let TrainSection { device, recompute, .. } = config.train;
        let mode = Mode { dtype: config.precision().dtype(), device, recompute, captures: captures(config, &world)? };
        let (seed, dist) = (config.train.seed_of_weights(), &config.train.dist);
        let engine = Engine::in_world(&model_config, seed, mode, world.clone(), dist)?;
        Ok(Self {
            average: average(&engine, config, None)?,
            engine,
            feed: Feed::new(prepared.train_loader(config)?, pieces, chunk, config.train.seed),
            world,
            prefetched: None,
            data_wait: Duration::ZERO,
            validation: validation::batches(config, prepared)?,
            counters: Counters::default(),
            norms: Norms::default(),
            skipped: Vec::new(),
            own: Word::default(),
            heard: Word::default(),
            has_stepped: false,
            config: config.clone(),
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        self.engine.settle();
        &self.engine.model
    }

    /// Its variables.
    pub fn parameters(&self) -> &Parameters {
        self.engine.settle();
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
            self.feed.seek(before)?;
            let (what, value) = match &error {
                Error::NonFinite { tensor, value, .. } => (tensor.clone(), *value),
                Error::Spike { norm, .. } => ("the gradient's norm".to_owned(), *norm),
                _ => return Err(error),
            };
            let (what, value, origin) = self.origin_of_all(step, what, value)?;
            let after = self.feed.position();
            // A weight that is not finite stays so, whatever comes next.
            let of_weights = self.parameters().get(&what).is_some();
            if self.config.train.on_spike == OnSpike::Stop || of_weights || skips == Self::MOST_SKIPS {
                // What was read for this step is read again.
                self.feed.seek(before)?;
                return Err(error.with_origin(origin));
            }
            self.feed.seek(after)?;
            skips += 1;
            self.counters.skipped += 1;
            self.skipped.push(Skipped { step, what, value, origin });
        }
    }

    /// Steps that are skipped one after the other before training stops all the same.
    pub const MOST_SKIPS: u32 = 10;

    /// What is wrong with a step, and where it comes from: of all ranks, that of the first one whose own batches lead to it.
    fn origin_of_all(&mut self, step: u64, what: String, value: f64) -> Result<(String, f64, Origin)> {
        let own = self.origin(step)?;
        let all =
            self.world.gather("a step that cannot be taken", (what, value.to_bits(), own.operation, own.documents))?;
        // Ranks that share sequences have the same ones.
        let of_groups = all.iter().step_by(self.config.train.dist.context);
        let documents: Vec<String> = of_groups.flat_map(|(.., documents)| documents.clone()).collect();
        let first = all.iter().position(|(_, _, operation, _)| operation.is_some()).unwrap_or(0);
        let (what, value, operation, of_rank) = all[first].clone();
        let documents = if operation.is_some() { of_rank } else { documents };
        Ok((what, f64::from_bits(value), Origin { operation, documents }))
    }

    /// Where this rank's batches of the next step lead to what is not finite. The feed goes on behind them.
    fn origin(&mut self, step: u64) -> Result<Origin> {
        self.world.progress("a search for what is not finite", Patience::Open);
        let before = self.feed.position();
        let documents = self.feed.keys()?;
        self.feed.seek(before)?;
        // Chunks are looked at each by itself: ranks do not come to the same places here.
        let model = &self.model().clone().with_context(None)?;
        let mut operation = None;
        for i in 0..self.feed.n_pieces() {
            let Input { batch, noise } = self.feed.piece(step, i)?;
            if operation.is_none() {
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
        // The first step of a process loads kernels, which may take longer than any other.
        let patience = if self.has_stepped { Patience::Step } else { Patience::Beside };
        self.world.progress("a step", patience);
        let n_pieces = self.feed.n_pieces();
        let work = match self.prefetched.take() {
            Some((work, _)) => work,
            None => {
                let first = self.feed.piece(step, 0)?;
                let rest = (1..n_pieces).map(|i| self.feed.piece(step, i)).collect::<Result<_>>()?;
                let of_all = |own| exchange(&self.world, own, self.own, &mut self.heard);
                Work::new(&self.engine.model, &first, rest, self.engine.mode, of_all)?
            }
        };
        let mut waited = start.elapsed();
        let control = StepControl {
            learning_rate: learning_rate(optimizer, step, train.steps),
            skip_above: self.norms.limit(train.spike_factor),
        };
        let (n_tokens, counts, mode) = (work.n_tokens, work.counts, self.engine.mode);
        let (feed, prefetched, world) = (&mut self.feed, &mut self.prefetched, &self.world);
        let (own, heard) = (self.own, &mut self.heard);
        let place = feed.position();
        let mut first = None;
        let mut rest = Vec::new();
        let result = self.engine.step(work, control, optimizer, |model, i| {
            world.progress("a step", patience);
            if step == train.steps {
                return Ok(());
            }
            let start = Instant::now();
            let next = feed.piece(step + 1, i)?;
            match &first {
                None => first = Some(next),
                Some(_) => rest.push(next),
            }
            if i + 1 == n_pieces
                && let Some(first) = first.take()
            {
                let of_all = |content| exchange(world, content, own, heard);
                *prefetched = Some((Work::new(model, &first, std::mem::take(&mut rest), mode, of_all)?, place));
            }
            // The processor does nothing else meanwhile.
            if train.device == DeviceKind::Cpu {
                waited += start.elapsed();
            }
            Ok(())
        });
        let report = result?;
        self.has_stepped = true;
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
        self.world.progress("a validation", Patience::Beside);
        let validation = validation::shared(
            &self.world,
            &self.engine.model,
            &self.validation,
            self.config.train.dist.context,
            step,
        )?;
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
        self.engine.settle();
        let run =
            |average: &Average| average.in_place(&self.engine.optimiser, &self.engine.parameters, || self.validate());
        self.average.as_ref().map(run).transpose()
    }

    /// Where the next step's batches begin.
    pub(crate) fn position(&self) -> Position {
        self.prefetched.as_ref().map_or_else(|| self.feed.position(), |(_, place)| *place)
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    /// Weights whose state this process holds.
    pub(crate) fn n_own(&self) -> usize {
        self.engine.optimiser.n_own(&self.engine.parameters)
    }

    /// What this rank owns of the weights; `None` of a process that owns all.
    pub(crate) fn stretches(&self) -> Option<&[Stretch]> {
        self.engine.optimiser.stretches()
    }

    /// The other ranks.
    pub fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// What this rank says to the others from its next step on.
    pub(crate) fn says(&mut self, word: Word) {
        self.own = word;
    }

    /// What all ranks said since this was last asked: the same on each.
    pub(crate) fn heard(&mut self) -> Word {
        std::mem::take(&mut self.heard)
    }

    /// Whether any rank wanted no more at the last step.
    pub(crate) fn heard_to_stop(&self) -> bool {
        self.heard.stops
    }

    /// Values of [`Self::copy_state`].
    pub(crate) fn state_len(&self) -> usize {
        self.n_own() * if self.average.is_some() { 4 } else { 3 }
    }

    /// Weights, first and second moments, and the weights' average where there is one: f32, each in the order of the parameters,
    /// end to end.
    pub(crate) fn copy_state(&mut self, to: &mut [f32]) -> Result<()> {
        let (state, averages) = to.split_at_mut(3 * self.n_own());
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
        while self.steps_done() < end {
            if self.world.any("the wish to end", !goes_on())? {
                break;
            }
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
        if outcome.is_err() && self.world.is_shared() {
            // The others may not have it, and would not come to put anything back.
            return outcome;
        }
        // In place: a captured step goes on with the same memory.
        snapshot.put_back(self)?;
        outcome
    }

    /// Puts back what [`Self::copy_state`] copied of a rank's share; `false` where this process holds all.
    pub(super) fn put_back_share(&mut self, step: u64, values: &[f32]) -> Result<bool> {
        let n = 3 * self.n_own();
        let (state, averages) = values.split_at(n.min(values.len()));
        match &mut self.engine.optimiser {
            Optimiser::Sharded(adamw) => adamw.put_back(&self.engine.parameters, step, state)?,
            #[cfg(feature = "cuda")]
            Optimiser::ShardedOnDevice(sharded) => sharded.put_back(step, state)?,
            _ => return Ok(false),
        }
        if let Some(average) = &mut self.average {
            average.put_back_share(averages)?;
        }
        Ok(true)
    }

    /// Puts back weights and moments, see [`Optimiser::restore`].
    ///
    /// # Errors
    /// As there.
    pub(crate) fn restore_optimiser(
        &mut self,
        path: &Path,
        steps: u64,
        weights: &[Tensor],
        moments: impl FnMut(&str) -> Result<Moments>,
    ) -> Result<()> {
        self.engine.optimiser.restore(path, steps, &self.engine.parameters, weights, moments)
    }

    pub(crate) fn restore(&mut self, position: Position, counters: Counters, norms: Norms) -> Result<()> {
        self.prefetched = None;
        self.feed.seek(position)?;
        self.counters = counters;
        self.norms = norms;
        Ok(())
    }
}

/// Whether a step is a captured graph: that of a rank, where it has one piece of each.
fn captures(config: &RunConfig, world: &World) -> Result<bool> {
    if !world.is_shared() {
        return config.captures();
    }
    let RunConfig { model, data, train, .. } = config;
    let own = world.pieces(config)?.own;
    let is_asked = train.graph == Graph::Always && train.dist.context > 1;
    require(!is_asked, "train.graph", "auto or never where ranks have chunks of a sequence", "always")?;
    let sequences = own.first().map_or(0, |piece| piece.sequences.len());
    let elements = sequences.saturating_mul(data.seqlen).saturating_mul(model.scale.d_model);
    let captures = train.graph.captures(train.device, (model.setting, model.variant), own.len(), elements)?;
    Ok(captures && train.dist.context == 1)
}

fn average(engine: &Engine, config: &RunConfig, values: Option<&[Tensor]>) -> Result<Option<Average>> {
    let average = || Average::new(&engine.optimiser, &engine.parameters, values);
    config.train.ema.map(|_| average()).transpose()
}

/// Tells the other ranks what this one has, and hears what all have together.
fn exchange(world: &World, own: Content, says: Word, heard: &mut Word) -> Result<Content> {
    if !world.is_shared() {
        return Ok(own);
    }
    let counts = (own.counts.n_targets, own.counts.n_patches, own.n_tokens);
    let all = world.gather("the counts of a step", (counts, says))?;
    heard.stops = all.iter().any(|(_, word)| word.stops);
    heard.has_written = all.iter().all(|(_, word)| word.has_written);
    let content =
        |((n_targets, n_patches, n_tokens), _)| Content { counts: Normaliser { n_targets, n_patches }, n_tokens };
    Ok(all.into_iter().map(content).sum())
}
