//! A whole run in a folder of its own.
//!
//! | file | what it is |
//! | --- | --- |
//! | `config.toml` | the resolved configuration, as of the last start |
//! | `starts.jsonl` | every start: when, from which step, on what, and what was changed |
//! | `model.json` | the model it made, with vocabulary and counts |
//! | `tokenizers/`, `tokens/` | tokenizers; tokenised samples, unless several runs share them |
//! | `metrics.jsonl`, `timing.jsonl` | every step and validation; wall-clock time apart |
//! | `tensorboard/` | the same for TensorBoard |
//! | `samples/` | what the model makes of held-out documents, where `train.sample_every` asks for it |
//! | `checkpoints/` | the newest few, and what else is to be kept |
//! | `result.json` | the outcome, once the run is done |

mod downstream;
mod finish;
mod folder;
mod horizons;
mod observer;
mod sampler;
mod warnings;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use mom_models::Architecture;

use crate::checkpoint::{self, Check, State};
use crate::config::Identity;
use crate::dist::{Patience, World};
use crate::error::require;
use crate::telemetry::{EvalPoint, Lengths, Metrics, RunResult, best_step, memory, peak};
use crate::train::Word;
use crate::trained::{self, Trained};
use crate::{DeviceKind, Error, Prepared, Result, RunConfig, Trainer, Validation};

pub use crate::lock::FolderLock;
pub use crate::telemetry::Pace;
pub use folder::{RunFolder, finished};
pub use observer::{Observer, Silent};
use sampler::Sampler;

/// Trains in a folder to the end, from its newest whole checkpoint where there is one: [`RunFolder::open`], then
/// [`train_in`].
///
/// # Errors
/// Those of both.
pub fn train(config: &RunConfig, folder: &Path, prepared: &Prepared, observer: &mut dyn Observer) -> Result<RunResult> {
    train_in(&RunFolder::open(folder, config)?, config, prepared, observer)
}

/// Trains to the end, from the newest whole checkpoint of the folder where there is one. A damaged one that is newer is
/// told, and moved aside.
///
/// The learning rate of a step is that of the schedule over the steps that are asked for now: a run that is lengthened under a
/// constant rate is the run that had been asked for so many steps from the start.
///
/// # Errors
/// [`Error::OtherConfig`] if the folder's run began with other data; [`Error::NonFinite`] and [`Error::Spike`] where training
/// diverges, naming the checkpoint to go on from; [`Error::Stopped`] where the observer wants no more; a file that cannot be read or
/// written. Checkpoints stay as they are.
pub fn train_in(
    folder: &RunFolder,
    config: &RunConfig,
    prepared: &Prepared,
    observer: &mut dyn Observer,
) -> Result<RunResult> {
    train_in_world(folder, config, prepared, observer, &Arc::new(World::alone()))
}

/// As [`train_in`], as one of several ranks, of which the folder is held by rank 0 alone ([`RunFolder::beside_root`]). All get the same
/// result. Rank 0 writes what the run tells, each rank its part of checkpoints. An observer of any rank may end the run.
///
/// # Errors
/// As there; [`Error::Rank`] where another rank failed; [`Error::World`] for ranks whose configurations, programs or data differ.
pub fn train_in_world(
    folder: &RunFolder,
    config: &RunConfig,
    prepared: &Prepared,
    observer: &mut dyn Observer,
    world: &Arc<World>,
) -> Result<RunResult> {
    if world.is_shared() {
        world.same("configuration", config.to_toml()?)?;
        world.same("the program", program())?;
        world.same("the data (a hash of all documents)", format!("{:016x}", prepared.fingerprint()))?;
    }
    if let Some(result) = folder.finished(config) {
        return if !world.is_root() || result.has_downstream(config) {
            Ok(result.clone())
        } else {
            world.progress("questions", Patience::Open);
            downstream::add(folder, config, prepared)
        };
    }
    memory::reset_peak();
    let config = &resolved(config, folder, prepared)?;
    let mut run = Run::open(config, folder, prepared, observer, world)?;
    if config.train.device == DeviceKind::Cuda {
        memory::reset(config.train.device)?;
    }
    if world.is_root() {
        warnings::of(config, prepared).iter().for_each(|warning| observer.note(warning));
    }
    observer.started(run.trainer.steps_done(), config.train.steps);
    let outcome = run.go(observer);
    // Where a step failed while the checkpoint of one before was written: that one is known now, or it failed first.
    // Of several ranks where all have this outcome.
    let is_shared_by_all = matches!(outcome, Ok(_) | Err(Error::NonFinite { .. } | Error::Spike { .. }));
    let last = if is_shared_by_all || !world.is_shared() { run.checkpoints.wait() } else { Ok(()) };
    let outcome = last.and(outcome).map_err(|error| error.with_checkpoint(run.checkpoints.last()));
    world.ends(outcome)
}

/// A hash of the program: ranks of one run compute alike.
fn program() -> String {
    let bytes = std::env::current_exe().and_then(std::fs::read).unwrap_or_default();
    let hash = crc32c::crc32c(&bytes);
    format!("{} {} ({hash:08x})", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
}

/// The configuration with what it leaves to the data: as the run began with it, or as the model that it starts from has it.
fn resolved(config: &RunConfig, folder: &RunFolder, prepared: &Prepared) -> Result<RunConfig> {
    let mut config = config.clone();
    let is_transformer = matches!(config.model.variant.architecture(), Architecture::Transformer(_));
    if is_transformer && config.model.mean_keys.is_none() {
        let origin = config.train.init_from.as_deref().filter(|origin| !origin.is_file());
        config.model.mean_keys = match (folder.began_with()?, origin) {
            (Some(began_with), _) => began_with.model.mean_keys,
            (None, Some(origin)) => Some(Trained::open(origin)?.config().mean_keys),
            (None, None) => None,
        };
    }
    prepared.resolved(&config)
}

/// A run in progress.
struct Run<'a> {
    config: &'a RunConfig,
    folder: &'a Path,
    world: Arc<World>,
    trainer: Trainer,
    prepared: &'a Prepared,
    /// Of rank 0.
    metrics: Option<Metrics>,
    curve: Vec<EvalPoint>,
    horizons: Vec<EvalPoint>,
    data: String,
    /// Seconds of training before this process, and its highest memory.
    wall_secs: f64,
    peak_memory_bytes: u64,
    checkpoints: checkpoint::Writer,
    /// What samples are taken with, where they are asked for.
    sampler: Option<Sampler>,
}

impl<'a> Run<'a> {
    fn open(
        config: &'a RunConfig,
        folder: &'a RunFolder,
        prepared: &'a Prepared,
        observer: &mut dyn Observer,
        world: &Arc<World>,
    ) -> Result<Self> {
        let path = folder.path();
        let mut trainer = Trainer::in_world(config, prepared, world.clone())?;
        let modalities = config.model.setting.modalities();
        let data = format!("{:016x}", prepared.fingerprint());
        // The others find what rank 0 has set aside gone, and what it has read through whole.
        let check = if world.is_root() { Check::Sums } else { Check::Lengths };
        let newest = world.root_first("the newest checkpoint", || {
            let newest = checkpoint::newest(path, check)?;
            if let Some(newest) = &newest {
                let (at, state) = (&newest.loaded.path, &newest.loaded.state);
                folder::same_config(at, &state.config, config, Identity::OfRun)?;
                if state.data != data {
                    let differences = vec![format!("data (a hash of all documents) = {} (now {data})", state.data)];
                    return Err(Error::OtherConfig { path: at.clone(), differences });
                }
                let expected = format!("at least {}, which {} has done", state.step, at.display());
                require(config.train.steps >= state.step, "train.steps", &expected, config.train.steps)?;
                newest.loaded.restore(&mut trainer)?;
                for (path, what) in newest.set_aside()? {
                    observer.note(&format!("a checkpoint is damaged ({what}) and was set aside as {}", path.display()));
                }
            }
            Ok(newest)
        })?;
        world
            .same("the newest checkpoint", newest.as_ref().map_or(0, |newest| newest.loaded.state.step).to_string())?;
        let begins_anew = folder.changes().iter().any(|change| change.starts_with("train.init_from"));
        match (&newest, &config.train.init_from, folder.steps_of_result()) {
            (None, _, Some(steps)) => {
                let reason = format!("{steps} steps are done, but there is no checkpoint to go on from");
                return Err(Error::Content { path: path.into(), reason });
            }
            (None, Some(origin), None) => trained::start(&mut trainer, origin)?,
            (Some(_), Some(_), _) if begins_anew => {
                observer.note("train.init_from changes nothing: this run has begun");
            }
            _ => {}
        }
        world.root_first("the run's folder", || {
            if !world.is_root() {
                return Ok(());
            }
            folder.record(config, &trainer, trainer.steps_done())?;
            save_tokenizers(config, path, prepared, newest.is_none())
        })?;
        if world.is_root() {
            folder
                .changes()
                .iter()
                .for_each(|change| observer.note(&format!("changed since the last start: {change}")));
        }
        let state = newest.map(|newest| (newest.loaded.path, newest.loaded.state));
        let (last, state) = state.map_or((None, None), |(path, state)| (Some(path), Some(state)));
        let lengths = state.as_ref().map_or(Lengths::default(), |state| state.metrics);
        let metrics = if world.is_root() {
            let (metrics, lost) = Metrics::open(path, modalities, lengths)?;
            lost.iter().for_each(|note| observer.note(note));
            Some(metrics)
        } else {
            None
        };
        Ok(Self {
            sampler: if world.is_root() { Sampler::of(config, prepared, &trainer, observer)? } else { None },
            world: world.clone(),
            config,
            prepared,
            folder: path,
            checkpoints: checkpoint::Writer::new(path, &trainer, config.train.keep(), last)?,
            trainer,
            metrics,
            data,
            wall_secs: state.as_ref().map_or(0.0, |state| state.wall_secs),
            peak_memory_bytes: state.as_ref().map_or(0, |state| state.peak_memory_bytes),
            horizons: state.as_ref().map(|state| state.horizons.clone()).unwrap_or_default(),
            curve: state.map(|state| state.curve).unwrap_or_default(),
        })
    }

    fn go(&mut self, observer: &mut dyn Observer) -> Result<RunResult> {
        let train = &self.config.train;
        let (tokens_before, flops_before) = (self.trainer.tokens_seen(), self.trainer.counters().flops);
        let peak = peak::flops_per_sec(train.device, self.config.precision())?;
        let (mut secs_here, mut checkpoint_secs) = (0.0, 0.0);
        // A run that was stopped in such a branch goes on with it.
        if !self.branches(self.wall_secs, observer)? {
            return Err(Error::Stopped { step: self.trainer.steps_done() });
        }
        while self.trainer.steps_done() < train.steps {
            let heard = self.trainer.heard();
            self.checkpoints.poll(heard.has_written)?;
            let has_written = self.checkpoints.has_written();
            self.trainer.says(Word { stops: self.world.is_shared() && !observer.goes_on(), has_written });
            let start = Instant::now();
            let report = self.trainer.step();
            for skipped in self.trainer.take_skipped() {
                self.tell(|metrics| metrics.skipped(&skipped))?;
                observer.note(&skipped.to_string());
            }
            let report = report?;
            secs_here += start.elapsed().as_secs_f64();
            let (step, tokens) = (report.step, self.trainer.tokens_seen());
            self.tell(|metrics| metrics.step(&report, tokens))?;
            let flops_per_sec = (self.trainer.counters().flops - flops_before) / secs_here;
            let pace = Pace {
                tokens_per_sec: (tokens - tokens_before) as f64 / secs_here,
                flops_per_sec,
                mfu: peak.map(|peak| flops_per_sec / peak),
                data_wait_secs: self.trainer.data_wait().as_secs_f64(),
                checkpoint_secs: std::mem::take(&mut checkpoint_secs),
                peak_memory_bytes: memory::peak(train.device)?,
            };
            let wall_secs = self.wall_secs + secs_here;
            self.tell(|metrics| metrics.timing(step, wall_secs, pace))?;
            observer.stepped(step, report.loss, &pace);
            let last = step == train.steps;
            let mut is_best = false;
            if last || step.is_multiple_of(train.eval_every) {
                let validation = self.trainer.validate()?;
                self.tell(|metrics| metrics.validation(&validation, tokens))?;
                if let Some(of_average) = self.trainer.validate_average()? {
                    self.tell(|metrics| metrics.validation_ema(&of_average, tokens))?;
                }
                let point = self.point(&validation, self.wall_secs + secs_here);
                observer.validated(step, &point.loss);
                self.curve.push(point);
                is_best = self.is_best();
            }
            if train.sample_every.is_some_and(|every| last || step.is_multiple_of(every)) {
                self.sample(step, observer)?;
            }
            let is_whole = last || self.branches(self.wall_secs + secs_here, observer)?;
            // Of several ranks all have heard in the same step that one wants no more.
            let wants_more = if self.world.is_shared() { !self.trainer.heard_to_stop() } else { observer.goes_on() };
            let stops = !is_whole || (!last && !wants_more);
            if last || stops || is_best || step.is_multiple_of(train.checkpoint_every) {
                let start = Instant::now();
                self.save(self.wall_secs + secs_here)?;
                observer.saved(step);
                // What was heard is of the one before.
                self.trainer.heard();
                checkpoint_secs = start.elapsed().as_secs_f64();
            }
            if stops {
                self.checkpoints.wait()?;
                return Err(Error::Stopped { step });
            }
        }
        // Only then is the run done. A process killed between the last checkpoint and the result comes here without a step.
        self.checkpoints.wait()?;
        if self.curve.last().is_none_or(|point| point.step < train.steps) {
            // Fewer steps are asked for than before, just those that are done.
            let validation = self.trainer.validate()?;
            let tokens = self.trainer.tokens_seen();
            self.tell(|metrics| metrics.validation(&validation, tokens))?;
            self.curve.push(self.point(&validation, self.wall_secs + secs_here));
        }
        self.finish(self.wall_secs + secs_here)
    }

    /// Tells what is to be told, on the rank that tells.
    fn tell(&mut self, what: impl FnOnce(&mut Metrics) -> Result<()>) -> Result<()> {
        self.metrics.as_mut().map_or(Ok(()), what)
    }

    /// Whether the last validation is the best so far, by the loss that checkpoints are kept by.
    fn is_best(&self) -> bool {
        let steps: Vec<u64> = self.curve.iter().map(|point| point.step).collect();
        let best = self.config.train.keep_best.as_deref().and_then(|name| best_step(&self.curve, name, &steps));
        best.is_some() && best == steps.last().copied()
    }

    fn point(&self, validation: &Validation, wall_secs: f64) -> EvalPoint {
        let names = self.config.model.setting.modalities();
        let losses = names.iter().zip(&validation.by_modality).filter(|(_, loss)| loss.count > 0);
        EvalPoint {
            step: validation.step,
            tokens: self.trainer.tokens_seen(),
            wall_secs,
            joint: validation.joint,
            loss: losses.map(|(name, loss)| ((*name).to_owned(), loss.mean())).collect(),
            bits_per_byte: validation.bits_per_byte,
        }
    }

    fn save(&mut self, wall_secs: f64) -> Result<()> {
        self.world.progress("a checkpoint", Patience::Beside);
        let metrics = self.metrics.as_ref().map(Metrics::ends).transpose()?;
        let state = State {
            config: self.config.clone(),
            data: self.data.clone(),
            step: self.trainer.steps_done(),
            position: self.trainer.position(),
            counters: self.trainer.counters(),
            norms: self.trainer.norms().clone(),
            curve: self.curve.clone(),
            horizons: self.horizons.clone(),
            wall_secs,
            peak_memory_bytes: self.peak_memory_bytes.max(memory::peak(self.config.train.device)?),
            metrics: metrics.as_ref().map_or(Lengths::default(), |metrics| metrics.lengths),
        };
        self.checkpoints.save(&mut self.trainer, state, metrics)
    }
}

/// Keeps the tokenizers with the run: one that is copied elsewhere can still be decoded.
fn save_tokenizers(config: &RunConfig, path: &Path, prepared: &Prepared, is_new: bool) -> Result<()> {
    let tokenizers = path.join("tokenizers");
    let have = tokenizers.join("tokenizers.json").is_file();
    // Without a checkpoint nothing was trained with those that are there.
    if !have || (is_new && Prepared::folder_of(config, path) != path) {
        prepared.tokenizers.save(&tokenizers)?;
    }
    Ok(())
}
