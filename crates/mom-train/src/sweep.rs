//! The paper's comparison: runs of settings, variants and seeds side by side, one report.
//!
//! A sweep lives in a folder: `data/SETTING/` (tokenizers and tokens), `runs/SETTING-SCALE-VARIANT-seedS/` (see [`crate::run`]), and the report's files. Started again it takes what
//! is done as it is and goes on with what is not; the report is written anew after every run.
//!
//! Every variant of a setting and seed sees the same documents in the same order, the same noise, and starts from the same
//! values in every parameter that it shares with another.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mom_data::scenes::SceneSource;
use mom_data::{DataError, ImageConfig, SourceConfig, TextConfig, TokenizerConfig};
use mom_models::{Scale, Setting, Variant};

use crate::config::{DataSection, DeviceKind, Graph, ModelSection, OptimizerSection, Recompute, TrainSection};
use crate::error::require;
use crate::files::At;
use crate::prepare::same_sources;
use crate::report::{self, ReportHeader, RunResult};
use crate::run::{self, FolderLock, Observer, Pace};
use crate::speed::{self, SpeedOptions};
use crate::{Error, Prepared, Result, RunConfig, peak};

/// Which variants are compared.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Variants {
    /// Dense and Mixture-of-Mamba, and in the three-modality setting each projection alone.
    #[default]
    Default,
    /// These, in every setting.
    List(Vec<Variant>),
}

impl Variants {
    fn of(&self, setting: Setting) -> Vec<Variant> {
        match self {
            Self::List(list) => list.clone(),
            Self::Default => {
                let mut list = vec![Variant::Dense, Variant::Mom];
                if setting == Setting::ThreeModality {
                    let single = |untied: &mom_core::Untied| {
                        mom_core::Projection::ALL.into_iter().filter(|&p| untied.contains(p)).count() == 1
                    };
                    list.extend(mom_core::Untied::every().filter(single).map(Variant::of));
                }
                list
            }
        }
    }
}

/// `all16`, or names joined by commas: `dense,mom,in+out,published`.
impl FromStr for Variants {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut list = Vec::new();
        for name in text.split(',') {
            match name {
                "all16" => list.extend(Variant::all16()),
                name => list.push(name.parse()?),
            }
        }
        let mut seen = std::collections::HashSet::new();
        list.retain(|variant| seen.insert(*variant));
        Ok(Self::List(list))
    }
}

/// What a sweep is made of. [`SweepOptions::default`] ends within ten minutes on two cores.
#[derive(Debug, Clone)]
pub struct SweepOptions {
    /// Settings, in this order.
    pub settings: Vec<Setting>,
    /// Variants of each.
    pub variants: Variants,
    /// Size of the models.
    pub scale: Scale,
    /// Optimiser steps of each run.
    pub steps: u64,
    /// Seeds of weights, data order and noise.
    pub seeds: Vec<u64>,
    /// The user's data: a file or folder of any format, or a TOML file whose section `[data]` is taken (`sources`, and
    /// what else of it is not a flag here). Scenes are generated if there are none.
    pub data: Option<PathBuf>,
    /// Folder of the sweep.
    pub out: PathBuf,
    /// Where it runs.
    pub device: DeviceKind,
    /// Generated documents.
    pub documents: usize,
    /// Sequences in a batch.
    pub batch: usize,
    /// Positions in a sequence.
    pub seqlen: usize,
    /// Time after which the sweep stops where it is; started again it goes on.
    pub limit: Option<Duration>,
    /// `key=value` overrides of every run's configuration.
    pub overrides: Vec<String>,
}

impl Default for SweepOptions {
    fn default() -> Self {
        Self {
            settings: Setting::ALL.to_vec(),
            variants: Variants::Default,
            scale: mom_models::TINY,
            steps: 480,
            seeds: vec![0],
            data: None,
            out: PathBuf::from("runs/ablation"),
            device: DeviceKind::Cpu,
            documents: 6000,
            batch: 2,
            seqlen: 1024,
            limit: None,
            overrides: Vec::new(),
        }
    }
}

/// One run of a sweep.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// Its configuration.
    pub config: RunConfig,
    /// Its folder.
    pub folder: PathBuf,
}

impl Planned {
    /// Setting, variant and seed in words.
    pub fn name(&self) -> String {
        let model = &self.config.model;
        format!("{} {} seed {}", model.setting, model.variant, self.config.train.seed)
    }
}

/// What a sweep tells while it goes on.
pub trait SweepObserver: Observer {
    /// Work before the runs: "tokenising scenes"; `total` is 0 where it is not known.
    fn preparing(&mut self, _what: &str, _done: u64, _total: u64) {}
    /// A run is next; `index` counts from 0.
    fn run_started(&mut self, _index: usize, _total: usize, _planned: &Planned) {}
    /// A run is done, was done before, or failed.
    fn run_ended(&mut self, _planned: &Planned, _outcome: &Result<RunResult>) {}
    /// Something that the user should know.
    fn note(&mut self, _text: &str) {}
}

impl SweepObserver for run::Silent {}

impl SweepOptions {
    /// The data of a TOML file.
    fn data_of_file(&self) -> Result<Option<toml::Table>> {
        let Some(path) = self.data.as_ref().filter(|path| path.extension().is_some_and(|e| e == "toml")) else {
            return Ok(None);
        };
        let text = std::fs::read_to_string(path).at("read", path)?;
        let origin = Some(path.display().to_string());
        let table: toml::Table =
            toml::from_str(&text).map_err(|source| Error::Toml { origin, source: Box::new(source) })?;
        match table.get("data").and_then(toml::Value::as_table) {
            Some(data) => Ok(Some(data.clone())),
            None => Err(Error::Content { path: path.clone(), reason: "it has no section [data]".to_owned() }),
        }
    }

    /// Where the samples of all runs come from.
    fn sources(&self) -> Vec<SourceConfig> {
        match &self.data {
            Some(path) => vec![SourceConfig::at(path)],
            None => {
                vec![SourceConfig::generated(SceneSource { documents: self.documents, ..SceneSource::default() })]
            }
        }
    }

    /// Tokenizers and tokens of a setting: in `data.prepared` where a file of data names one.
    fn prepared(&self, config: &RunConfig) -> PathBuf {
        let folder = config.data.prepared.clone().unwrap_or_else(|| self.out.join("data"));
        folder.join(config.model.setting.name())
    }

    /// All runs in their order.
    ///
    /// # Errors
    /// An option out of range, an override that does not fit.
    pub fn plan(&self) -> Result<Vec<Planned>> {
        require(!self.settings.is_empty(), "settings", "at least one", 0)?;
        require(!self.seeds.is_empty(), "seeds", "at least one", 0)?;
        require(self.documents > 0, "documents", "at least 1", self.documents)?;
        for key in ["model.setting", "model.variant", "train.seed", "data.shards", "data.sources"] {
            let text = self.overrides.iter().find(|text| text.split('=').next().is_some_and(|k| k.trim() == key));
            let expected = format!("anything but {key}, which has a flag of its own");
            require(text.is_none(), "override", &expected, text.map_or("", String::as_str))?;
        }
        let mut planned: Vec<Planned> = Vec::new();
        for &setting in &self.settings {
            for &seed in &self.seeds {
                for variant in self.variants.of(setting) {
                    let next = self.planned(setting, variant, seed)?;
                    // A name given twice is one run.
                    if !planned.contains(&next) {
                        planned.push(next);
                    }
                }
            }
        }
        Ok(planned)
    }

    fn planned(&self, setting: Setting, variant: Variant, seed: u64) -> Result<Planned> {
        let config = self.run_config(setting, variant, seed)?;
        let scale = config.model.scale;
        let folder = self.out.join("runs").join(format!("{setting}-{scale}-{variant}-seed{seed}"));
        Ok(Planned { config, folder })
    }

    /// Results of variants that are not in the plan but were finished here before with the same options: a second call
    /// with other variants adds to the comparison.
    fn finished_siblings(&self, plan: &[Planned]) -> Vec<RunResult> {
        let mut results = Vec::new();
        for (setting, seed) in
            plan.iter().map(|p| (p.config.model.setting, p.config.train.seed)).collect::<BTreeSet<_>>()
        {
            for variant in Variant::all16().chain([Variant::Published]) {
                // What does not fit is another sweep's, and no part of this report.
                if let Ok(sibling) = self.planned(setting, variant, seed)
                    && !plan.contains(&sibling)
                    && let Ok(Some(result)) = run::finished(&sibling.folder, &sibling.config)
                {
                    results.push(result);
                }
            }
        }
        results
    }

    fn run_config(&self, setting: Setting, variant: Variant, seed: u64) -> Result<RunConfig> {
        // A run of a few minutes wants a higher rate than the paper's long ones, and losses often.
        let config = RunConfig {
            model: ModelSection {
                setting,
                variant,
                scale: self.scale,
                d_state: 16,
                z_loss: None,
                diffusion_weight: None,
            },
            data: DataSection {
                shards: None,
                batch: self.batch,
                seqlen: self.seqlen,
                prepared: None,
                forms: None,
                tokenizers: self.tokenizer_config(setting),
                sources: self.sources(),
            },
            train: TrainSection {
                steps: self.steps,
                accumulate: 1,
                seed,
                eval_every: (self.steps / 24).max(1),
                eval_batches: 8,
                checkpoint_every: (self.steps / 4).max(1),
                keep_checkpoints: 1,
                device: self.device,
                dtype: None,
                recompute: Recompute::None,
                graph: Graph::Auto,
            },
            optimizer: OptimizerSection {
                learning_rate: if self.scale.d_model <= 128 { 5e-3 } else { 1e-3 },
                final_learning_rate: 1e-4,
                warmup_steps: self.steps / 10,
                ..OptimizerSection::default()
            },
        };
        let Some(data) = self.data_of_file()? else {
            return RunConfig::from_toml(&config.to_toml()?, &self.overrides);
        };
        // The file's section over ours; batch and seqlen are flags of the sweep.
        let content = |reason: String| Error::Content { path: self.data.clone().unwrap_or_default(), reason };
        let mut table = toml::Table::try_from(&config).map_err(|error| content(error.to_string()))?;
        if let Some(ours) = table.get_mut("data").and_then(toml::Value::as_table_mut) {
            for key in ["shards", "sources", "tokenizers"] {
                ours.remove(key);
            }
            let flags = ["batch", "seqlen"];
            ours.extend(data.into_iter().filter(|(key, _)| !flags.contains(&key.as_str())));
        }
        RunConfig::from_toml(&toml::to_string(&table).map_err(|error| content(error.to_string()))?, &self.overrides)
    }

    /// Generated documents have short captions and simple images: with few merges a caption has about as many tokens as its
    /// image, as in Chameleon's mix, which is half text and half image.
    /// Of the user's data they have the size that the scale asks for.
    fn tokenizer_config(&self, setting: Setting) -> TokenizerConfig {
        let defaults = TokenizerConfig::default();
        match self.data {
            Some(_) if self.scale.paper.is_empty() => defaults,
            Some(_) => TokenizerConfig::paper(crate::config::needs(setting)),
            None => TokenizerConfig {
                text: TextConfig { vocab_size: 300, ..defaults.text },
                image: ImageConfig { codes: 128, ..defaults.image },
                ..defaults
            },
        }
    }

    fn header(&self, command: &str, missing: Vec<String>) -> Result<ReportHeader> {
        let seeds: Vec<String> = self.seeds.iter().map(u64::to_string).collect();
        let data = match &self.data {
            Some(path) => path.display().to_string(),
            None => format!("{} generated scenes: image, caption and the caption spoken", self.documents),
        };
        let config = [
            ("scale", format!("{} (d_model {}, {} blocks)", self.scale, self.scale.d_model, self.scale.n_blocks())),
            ("steps", self.steps.to_string()),
            ("batch", format!("{} sequences of {} positions", self.batch, self.seqlen)),
            ("seeds", seeds.join(", ")),
            ("data", data),
            ("overrides", if self.overrides.is_empty() { "none".to_owned() } else { self.overrides.join(" ") }),
        ];
        Ok(ReportHeader {
            title: "Mixture-of-Mamba against dense Mamba".to_owned(),
            command: command.to_owned(),
            commit: commit(),
            machine: machine(),
            device: peak::name(self.device)?.unwrap_or_else(|| self.device.name().to_owned()),
            threads: rayon::current_num_threads(),
            created_unix_secs: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs()),
            notes: vec![
                "Every variant of a seed sees the same documents in the same order and the same diffusion noise, and \
                 starts from the same values in every parameter that it shares with another variant."
                    .to_owned(),
                "Per-modality weights start from draws of their own, as in the published code; the weights of the first \
                 modality (text) start as the dense model's."
                    .to_owned(),
                "Wall-clock time is that of the training steps, without validation, checkpoints and data preparation."
                    .to_owned(),
            ],
            missing,
            config: config.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        })
    }
}

/// What a sweep left behind.
#[derive(Debug)]
pub struct Outcome {
    /// Finished runs: those that were there before, then those of the plan in its order.
    pub results: Vec<RunResult>,
    /// Runs that failed, with their errors.
    pub failed: Vec<(Planned, Error)>,
    /// Files of the report.
    pub files: Vec<PathBuf>,
    /// Whether time was up before everything was done.
    pub stopped: bool,
}

/// Tells a run's observer everything, and ends the run when time is up.
struct Limited<'a> {
    observer: &'a mut dyn Observer,
    deadline: Option<Instant>,
}

impl Observer for Limited<'_> {
    fn started(&mut self, from_step: u64, steps: u64) {
        self.observer.started(from_step, steps);
    }
    fn stepped(&mut self, step: u64, loss: f64, pace: &Pace) {
        self.observer.stepped(step, loss, pace);
    }
    fn goes_on(&mut self) -> bool {
        !is_over(self.deadline) && self.observer.goes_on()
    }
    fn validated(&mut self, step: u64, losses: &BTreeMap<String, f64>) {
        self.observer.validated(step, losses);
    }
}

fn is_over(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

/// Runs everything that is not done yet and writes the report; `command` is printed in it.
///
/// A run that fails is told to the observer, and the others go on; only what concerns all of them ends the sweep.
///
/// # Errors
/// Options out of range; data that cannot be prepared; runs of other options in the same folder; a full disk.
pub fn run(options: &SweepOptions, command: &str, observer: &mut dyn SweepObserver) -> Result<Outcome> {
    let deadline = options.limit.map(|limit| Instant::now() + limit);
    let plan = options.plan()?;
    let _lock = FolderLock::new(&options.out)?;
    // Before hours of work, not after: a folder of other options or other data is refused at once.
    for planned in &plan {
        run::finished(&planned.folder, &planned.config)?;
    }
    if let Some(first) = plan.first() {
        same_sources(&first.config.data.sources(), &options.out.join("data"))?;
    }
    let mut outcome =
        Outcome { results: options.finished_siblings(&plan), failed: Vec::new(), files: Vec::new(), stopped: false };
    let mut prepared: Option<(Setting, Prepared)> = None;
    let mut unfinished = Vec::new();
    for (index, planned) in plan.iter().enumerate() {
        let setting = planned.config.model.setting;
        observer.run_started(index, plan.len(), planned);
        let mut unprepared = None;
        let result = match run::finished(&planned.folder, &planned.config)? {
            Some(result) => Ok(result),
            None if is_over(deadline) => Err(Error::Stopped { step: 0 }),
            None => {
                if prepared.as_ref().is_none_or(|(of, _)| *of != setting) {
                    // The old setting's documents go before the new one's come.
                    drop(prepared.take());
                    let tell = |p: mom_data::Progress<'_>| observer.preparing(p.what, p.done, p.total);
                    match Prepared::new(&planned.config, &options.prepared(&planned.config), tell) {
                        Ok(new) => {
                            new.notes().iter().for_each(|note| observer.note(&format!("{setting}: {note}")));
                            prepared = Some((setting, new));
                        }
                        Err(error) => unprepared = Some(error),
                    }
                }
                match (&prepared, unprepared) {
                    (Some((_, prepared)), None) => {
                        let mut observer = Limited { observer: as_run(observer), deadline };
                        run::train(&planned.config, &planned.folder, prepared, &mut observer)
                    }
                    (_, Some(error)) => Err(error),
                    (None, None) => continue,
                }
            }
        };
        observer.run_ended(planned, &result);
        match result {
            Ok(result) => outcome.results.push(result),
            Err(Error::Stopped { .. }) => {
                outcome.stopped = true;
                unfinished.push(planned.name());
            }
            // These concern every run: a disk that is full, a folder that is not ours.
            Err(
                error @ (Error::File(_)
                | Error::Data(DataError::Io { .. })
                | Error::Locked { .. }
                | Error::OtherConfig { .. }
                | Error::OtherData { .. }
                | Error::Report(_)),
            ) => return Err(error),
            Err(error) => outcome.failed.push((planned.clone(), error)),
        }
        let missing = unfinished.iter().cloned().chain(plan[index + 1..].iter().map(Planned::name));
        let failed = outcome.failed.iter().map(|(planned, error)| format!("{}: {error}", planned.name()));
        let header = options.header(command, failed.chain(missing).collect())?;
        outcome.files = report::write(&options.out, &header, &outcome.results)?;
    }
    Ok(outcome)
}

/// The part of a sweep's observer that a single run knows.
fn as_run(observer: &mut dyn SweepObserver) -> &mut dyn Observer {
    observer
}

/// Seconds that each run of a plan will take, from timing a step of each size on this machine.
///
/// # Errors
/// What a model reports.
pub fn estimate_secs(plan: &[Planned]) -> Result<Vec<f64>> {
    let mut timed: Vec<(RunConfig, f64)> = Vec::new();
    let mut secs = Vec::new();
    for Planned { config, .. } in plan {
        let same = |other: &RunConfig| {
            other.model.scale == config.model.scale
                && (other.data.batch, other.data.seqlen) == (config.data.batch, config.data.seqlen)
        };
        let of_step = match timed.iter().find(|(other, _)| same(other)) {
            Some(&(_, of_step)) => of_step,
            None => {
                let of_step = time_step(config)?;
                timed.push((config.clone(), of_step));
                of_step
            }
        };
        // A validation batch has no backward pass: about a third of a step.
        let train = &config.train;
        let validations = train.steps.div_ceil(train.eval_every) as f64 * train.eval_batches as f64 / 3.0;
        secs.push(of_step * (train.steps as f64 * train.accumulate as f64 + validations));
    }
    Ok(secs)
}

/// Seconds of a step over made-up tokens of two modalities, where the run computes.
fn time_step(config: &RunConfig) -> Result<f64> {
    let ModelSection { variant, scale, .. } = config.model;
    let speed = speed::measure(&SpeedOptions {
        // The speed of a discrete setting stands for all: heads differ little at these sizes.
        setting: Setting::Chameleon,
        variant,
        scale,
        vocab_size: 900,
        batch: config.data.batch,
        seqlen: config.data.seqlen,
        // A captured step is replayed from the fourth on.
        warmup: if config.train.device == DeviceKind::Cuda { 3 } else { 1 },
        steps: 2,
        device: config.train.device,
        precision: config.train.dtype,
        recompute: config.train.recompute,
        graph: config.train.graph,
        profile: false,
    })?;
    Ok(speed.step_secs.first().copied().unwrap_or(f64::NAN))
}

/// Commit of the sources, marked where they have changes; `None` where they are no repository (any more).
fn commit() -> Option<String> {
    // The repository that this program was built from, not the one that the user stands in.
    let git = |args: &[&str]| {
        let mut git = std::process::Command::new("git");
        let output = git.arg("-C").arg(env!("CARGO_MANIFEST_DIR")).args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let head = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| !text.is_empty());
    Some(if changed { format!("{head} with local changes") } else { head })
}

/// Processor, vector instructions and system.
fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let cpu = cpu.unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let vectors = mom_kernels::simd::instruction_set();
    format!("{cpu}, {cores} cores, {vectors}, {}", std::env::consts::OS)
}
