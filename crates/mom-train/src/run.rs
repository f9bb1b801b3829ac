//! A whole run in a folder of its own.
//!
//! | file | what it is |
//! | --- | --- |
//! | `config.toml` | the resolved configuration |
//! | `model.json` | the model it made, with vocabulary and counts |
//! | `tokenizers/`, `tokens/` | tokenizers; tokenised samples, unless several runs share them |
//! | `metrics.jsonl`, `timing.jsonl` | every step and validation; wall-clock time apart |
//! | `tensorboard/` | the same for TensorBoard |
//! | `checkpoints/` | the newest few |
//! | `result.json` | the outcome, once the run is done |

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use crate::checkpoint::{self, State};
use crate::files::{self, At};
use crate::metrics::{Lengths, Metrics};
use crate::report::{EvalPoint, ModalityInfo, RunResult};
use crate::{DeviceKind, Error, Prepared, Result, RunConfig, Trainer, Validation, memory, peak};

pub use crate::metrics::Pace;

const CONFIG: &str = "config.toml";
const MODEL: &str = "model.json";
const RESULT: &str = "result.json";

/// What a run tells while it goes on. Every method does nothing unless it is written.
pub trait Observer {
    /// The run goes on from a step; 0 is its start.
    fn started(&mut self, _from_step: u64, _steps: u64) {}
    /// A step is done.
    fn stepped(&mut self, _step: u64, _loss: f64, _pace: &Pace) {}
    /// Asked after every step but the last: where it says no, the run writes a checkpoint and ends with
    /// [`Error::Stopped`].
    fn goes_on(&mut self) -> bool {
        true
    }
    /// A validation is done: names and losses.
    fn validated(&mut self, _step: u64, _losses: &BTreeMap<String, f64>) {}
}

/// Tells nobody.
#[derive(Debug, Default)]
pub struct Silent;

impl Observer for Silent {}

/// An exclusive hold on a folder, for as long as it lives.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Creates the folder where absent and locks it against other processes.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process holds it.
    pub fn new(folder: &Path) -> Result<Self> {
        files::create_folder(folder)?;
        let path = folder.join(".lock");
        let file = File::create(&path).at("create", &path)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(fs::TryLockError::WouldBlock) => Err(Error::Locked { path: folder.into() }),
            Err(fs::TryLockError::Error(source)) => Err(source).at("lock", &path).map_err(Error::from),
        }
    }
}

/// The outcome of a run that is done; `None` where it is not.
///
/// # Errors
/// [`Error::OtherConfig`] if the folder's run has another configuration; a file that cannot be read.
pub fn finished(folder: &Path, config: &RunConfig) -> Result<Option<RunResult>> {
    check_config(folder, config)?;
    let path = folder.join(RESULT);
    if !path.is_file() {
        return Ok(None);
    }
    let text = fs::read(&path).at("read", &path)?;
    serde_json::from_slice(&text).map(Some).map_err(|error| Error::Content { path, reason: error.to_string() })
}

/// Trains to the end, from the newest checkpoint of the folder where there is one.
///
/// # Errors
/// [`Error::OtherConfig`] if the folder's run has another configuration or other data; [`Error::NonFinite`] where training
/// diverges, naming the checkpoint to go on from; [`Error::Stopped`] where the observer wants no more; a file that cannot be
/// read or written. Checkpoints stay as they are.
pub fn train(config: &RunConfig, folder: &Path, prepared: &Prepared, observer: &mut dyn Observer) -> Result<RunResult> {
    let _lock = FolderLock::new(folder)?;
    if let Some(result) = finished(folder, config)? {
        return Ok(result);
    }
    memory::reset_peak();
    let mut run = Run::open(config, folder, prepared)?;
    if config.train.device == DeviceKind::Cuda {
        memory::reset(config.train.device)?;
    }
    observer.started(run.trainer.steps_done(), config.train.steps);
    let outcome = run.go(observer);
    // Where a step failed while the checkpoint of one before was written: that one is known now, or it failed first.
    run.checkpoints.wait().and(outcome).map_err(|error| match error {
        Error::NonFinite { step, tensor, value, .. } => {
            Error::NonFinite { step, tensor, value, checkpoint: run.checkpoints.last().cloned() }
        }
        other => other,
    })
}

/// Makes sure that a folder's run began with the sources that a configuration names, as far as names and sizes of files tell.
///
/// # Errors
/// [`Error::OtherData`].
pub fn same_data(folder: &Path, config: &RunConfig) -> Result<()> {
    crate::prepare::same_sources(&config.data.sources(), folder)
}

fn check_config(folder: &Path, config: &RunConfig) -> Result<()> {
    let path = folder.join(CONFIG);
    if !path.is_file() {
        return Ok(());
    }
    let stored = RunConfig::read(&path, &[])?;
    same_config(folder, &stored, config)
}

fn same_config(path: &Path, stored: &RunConfig, config: &RunConfig) -> Result<()> {
    // Where the data lie does not matter; what they hold is compared apart.
    let [stored, now] =
        [stored, config].map(|config| RunConfig { data: config.data.without_paths(), ..config.clone() });
    let differences = stored.differences(&now)?;
    if differences.is_empty() { Ok(()) } else { Err(Error::OtherConfig { path: path.into(), differences }) }
}

/// A run in progress.
struct Run<'a> {
    config: &'a RunConfig,
    folder: &'a Path,
    trainer: Trainer,
    metrics: Metrics,
    curve: Vec<EvalPoint>,
    data: String,
    /// Seconds of training before this process, and its highest memory.
    wall_secs: f64,
    peak_memory_bytes: u64,
    checkpoints: checkpoint::Writer,
}

impl<'a> Run<'a> {
    fn open(config: &'a RunConfig, folder: &'a Path, prepared: &Prepared) -> Result<Self> {
        let mut trainer = Trainer::new(config, prepared)?;
        let modalities = config.model.setting.modalities();
        let data = format!("{:016x}", prepared.fingerprint());
        let writer =
            |trainer: &Trainer, last| checkpoint::Writer::new(folder, trainer, config.train.keep_checkpoints, last);
        let Some(newest) = checkpoint::list(folder)?.pop() else {
            write_heads(config, folder, &trainer)?;
            // A run that is copied elsewhere can still be decoded.
            let tokenizers = folder.join("tokenizers");
            if !tokenizers.join("tokenizers.json").is_file() {
                prepared.tokenizers.save(&tokenizers)?;
            }
            let metrics = Metrics::open(folder, modalities, Lengths::default())?;
            return Ok(Self {
                config,
                folder,
                checkpoints: writer(&trainer, None)?,
                trainer,
                metrics,
                curve: Vec::new(),
                data,
                wall_secs: 0.0,
                peak_memory_bytes: 0,
            });
        };
        let state = checkpoint::read_state(&newest)?;
        same_config(&newest, &state.config, config)?;
        if state.data != data {
            let differences = vec![format!("data (a hash of all documents) = {} (now {data})", state.data)];
            return Err(Error::OtherConfig { path: newest, differences });
        }
        checkpoint::restore(&newest, &state, &mut trainer)?;
        Ok(Self {
            config,
            folder,
            checkpoints: writer(&trainer, Some(newest))?,
            trainer,
            metrics: Metrics::open(folder, modalities, state.metrics)?,
            curve: state.curve,
            data,
            wall_secs: state.wall_secs,
            peak_memory_bytes: state.peak_memory_bytes,
        })
    }

    fn go(&mut self, observer: &mut dyn Observer) -> Result<RunResult> {
        let train = &self.config.train;
        let (tokens_before, flops_before) = (self.trainer.tokens_seen(), self.trainer.counters().flops);
        let peak = peak::flops_per_sec(train.device, self.config.precision())?;
        let (mut secs_here, mut checkpoint_secs) = (0.0, 0.0);
        while self.trainer.steps_done() < train.steps {
            self.checkpoints.poll()?;
            let start = Instant::now();
            let report = self.trainer.step()?;
            secs_here += start.elapsed().as_secs_f64();
            let (step, tokens) = (report.step, self.trainer.tokens_seen());
            self.metrics.step(&report, tokens)?;
            let flops_per_sec = (self.trainer.counters().flops - flops_before) / secs_here;
            let pace = Pace {
                tokens_per_sec: (tokens - tokens_before) as f64 / secs_here,
                flops_per_sec,
                mfu: peak.map(|peak| flops_per_sec / peak),
                data_wait_secs: self.trainer.data_wait().as_secs_f64(),
                checkpoint_secs: std::mem::take(&mut checkpoint_secs),
                peak_memory_bytes: memory::peak(train.device)?,
            };
            self.metrics.timing(step, self.wall_secs + secs_here, pace)?;
            observer.stepped(step, report.loss, &pace);
            let last = step == train.steps;
            if last || step.is_multiple_of(train.eval_every) {
                let validation = self.trainer.validate()?;
                self.metrics.validation(&validation, tokens)?;
                let point = self.point(&validation, self.wall_secs + secs_here);
                observer.validated(step, &point.loss);
                self.curve.push(point);
            }
            let stops = !last && !observer.goes_on();
            if last || stops || step.is_multiple_of(train.checkpoint_every) {
                let start = Instant::now();
                self.save(self.wall_secs + secs_here)?;
                checkpoint_secs = start.elapsed().as_secs_f64();
            }
            if stops {
                self.checkpoints.wait()?;
                return Err(Error::Stopped { step });
            }
        }
        // Only then is the run done. A process killed between the last checkpoint and the result comes here without a step.
        self.checkpoints.wait()?;
        self.finish(self.wall_secs + secs_here)
    }

    fn point(&self, validation: &Validation, wall_secs: f64) -> EvalPoint {
        let names = self.config.model.setting.modalities();
        let losses = names.iter().zip(&validation.by_modality).filter(|(_, loss)| loss.count > 0);
        EvalPoint {
            step: validation.step,
            tokens: self.trainer.tokens_seen(),
            wall_secs,
            loss: losses.map(|(name, loss)| ((*name).to_owned(), loss.mean())).collect(),
        }
    }

    fn save(&mut self, wall_secs: f64) -> Result<()> {
        let metrics = self.metrics.ends()?;
        let state = State {
            config: self.config.clone(),
            data: self.data.clone(),
            step: self.trainer.steps_done(),
            position: self.trainer.position(),
            counters: self.trainer.counters(),
            curve: self.curve.clone(),
            wall_secs,
            peak_memory_bytes: self.peak_memory_bytes.max(memory::peak(self.config.train.device)?),
            metrics: metrics.lengths,
        };
        self.checkpoints.save(&mut self.trainer, state, metrics)
    }

    fn finish(&self, wall_secs: f64) -> Result<RunResult> {
        let model = self.trainer.model().config();
        let setting = model.setting;
        let result = RunResult {
            setting: setting.name().to_owned(),
            variant: model.variant.to_string(),
            seed: self.config.train.seed,
            scale: model.scale.name.to_owned(),
            modalities: setting
                .modalities()
                .iter()
                .map(|&name| ModalityInfo { name: name.to_owned(), loss: loss_in_words(setting, name).to_owned() })
                .collect(),
            curve: self.curve.clone(),
            steps: self.trainer.steps_done(),
            tokens: self.trainer.tokens_seen(),
            active_flops_per_token: self.trainer.active_flops_per_token(),
            wall_secs,
            peak_memory_bytes: self.peak_memory_bytes.max(memory::peak(self.config.train.device)?),
            total_parameters: (model.total_parameters() + model.patcher_parameters()) as u64,
            active_parameters: (model.active_parameters() + model.patcher_parameters()) as u64,
        };
        write_json(&self.folder.join(RESULT), &result)?;
        Ok(result)
    }
}

fn loss_in_words(setting: mom_models::Setting, modality: &str) -> &'static str {
    match (setting, modality) {
        (mom_models::Setting::Transfusion, "image") => "diffusion (mean squared error of the noise)",
        _ => "cross-entropy (nats per token)",
    }
}

fn write_heads(config: &RunConfig, folder: &Path, trainer: &Trainer) -> Result<()> {
    #[derive(Serialize)]
    struct Head<'a> {
        model: &'a mom_models::ModelConfig,
        total_parameters: usize,
        active_parameters: usize,
        patcher_parameters: usize,
    }
    let model = trainer.model().config();
    let head = Head {
        model,
        total_parameters: model.total_parameters(),
        active_parameters: model.active_parameters(),
        patcher_parameters: model.patcher_parameters(),
    };
    write_json(&folder.join(MODEL), &head)?;
    Ok(files::replace(&folder.join(CONFIG), config.to_toml()?.as_bytes())?)
}

pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut json = serde_json::to_vec_pretty(value)
        .map_err(|error| Error::Content { path: path.into(), reason: error.to_string() })?;
    json.push(b'\n');
    Ok(files::replace(path, &json)?)
}
