//! Metrics as JSON lines.
//!
//! `metrics.jsonl` holds what is a function of configuration and data: two runs with one seed write the same bytes.
//! `timing.jsonl` holds what is not: wall-clock time and speed. `tensorboard/` holds both for TensorBoard.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use mom_models::ModalityLoss;
use serde::Serialize;

use super::tensorboard::EventFile;
use crate::files::At;

use crate::{Error, Result, Skipped, StepReport, Validation};

const METRICS: &str = "metrics.jsonl";
const TIMING: &str = "timing.jsonl";
const TENSORBOARD: &str = "tensorboard";

/// The two files of a run folder.
#[derive(Debug)]
pub(crate) struct Metrics {
    metrics: Lines,
    timing: Lines,
    events: EventFile,
    modalities: &'static [&'static str],
}

/// Lengths of the two files in bytes: what a checkpoint remembers, so that a resumed run goes on from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lengths {
    metrics: u64,
    timing: u64,
}

/// What TensorBoard shows or plays.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Exhibit<'a> {
    Text(&'a str),
    /// A PNG file.
    Image(&'a [u8]),
    /// A WAV file of one channel and 16 bits.
    Speech {
        wav: &'a [u8],
        sample_rate: u32,
    },
}

/// How fast a run is, since the start of its process but for what is said to be a step's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Pace {
    /// Training positions.
    pub tokens_per_sec: f64,
    /// The model's operations, see [`mom_models::flops`].
    pub flops_per_sec: f64,
    /// The same as a share of what the device can do at most in the run's element type (model FLOPs utilisation), where
    /// that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mfu: Option<f64>,
    /// Time that this step waited for its batches.
    pub data_wait_secs: f64,
    /// Time that the run stood still for checkpoints since the step before: copying them to the host, and waiting where the
    /// one before was not written yet.
    pub checkpoint_secs: f64,
    /// Of the device, or of the heap.
    pub peak_memory_bytes: u64,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Line<'a> {
    Step {
        step: u64,
        tokens: u64,
        loss: f64,
        by_modality: BTreeMap<&'a str, Option<f64>>,
        grad_norm: f64,
        learning_rate: f64,
    },
    Skipped {
        /// The step that was made of the next batches instead.
        step: u64,
        what: &'a str,
        /// `null` where it is not finite.
        value: f64,
        #[serde(skip_serializing_if = "Option::is_none")]
        operation: Option<&'a str>,
        documents: &'a [String],
    },
    Validation(ValidationLine<'a>),
    /// Of the average of the weights.
    ValidationEma(ValidationLine<'a>),
    /// At an end that the run was brought to on the way.
    Horizon(ValidationLine<'a>),
    Timing {
        step: u64,
        wall_secs: f64,
        #[serde(flatten)]
        pace: Pace,
    },
}

#[derive(Serialize)]
struct ValidationLine<'a> {
    step: u64,
    tokens: u64,
    by_modality: BTreeMap<&'a str, Option<f64>>,
    joint: f64,
    /// Of text, see [`Validation::bits_per_byte`].
    #[serde(skip_serializing_if = "Option::is_none")]
    bits_per_byte: Option<f64>,
}

impl Metrics {
    /// Opens the files of a run folder and cuts off what lies behind the given lengths. What is missing is told: somebody
    /// removed it, and the run does not depend on it.
    pub fn open(folder: &Path, modalities: &'static [&'static str], lengths: Lengths) -> Result<(Self, Vec<String>)> {
        let mut lost = Vec::new();
        let metrics = Self {
            metrics: Lines::open(folder.join(METRICS), lengths.metrics, &mut lost)?,
            timing: Lines::open(folder.join(TIMING), lengths.timing, &mut lost)?,
            events: EventFile::create(&folder.join(TENSORBOARD))?,
            modalities,
        };
        Ok((metrics, lost))
    }

    pub fn step(&mut self, report: &StepReport, tokens: u64) -> Result<()> {
        let by_modality = self.means(&report.by_modality);
        let losses = tagged("train", &by_modality);
        let values = [("train/loss", report.loss), ("grad_norm", report.grad_norm), ("lr", report.learning_rate)];
        self.events.scalars(report.step, losses.iter().map(|(tag, loss)| (tag.as_str(), *loss)).chain(values))?;
        self.metrics.write(&Line::Step {
            step: report.step,
            tokens,
            loss: report.loss,
            by_modality,
            grad_norm: report.grad_norm,
            learning_rate: report.learning_rate,
        })
    }

    pub fn skipped(&mut self, skipped: &Skipped) -> Result<()> {
        let Skipped { step, what, value, origin } = skipped;
        let (operation, documents) = (origin.operation.as_deref(), &origin.documents[..]);
        self.metrics.write(&Line::Skipped { step: *step, what, value: *value, operation, documents })
    }

    pub fn validation(&mut self, validation: &Validation, tokens: u64) -> Result<()> {
        let line = self.validation_line("validation", validation, tokens)?;
        self.metrics.write(&Line::Validation(line))
    }

    /// A validation of the average of the weights.
    pub fn validation_ema(&mut self, validation: &Validation, tokens: u64) -> Result<()> {
        let line = self.validation_line("validation_ema", validation, tokens)?;
        self.metrics.write(&Line::ValidationEma(line))
    }

    /// A validation at a horizon.
    pub fn horizon(&mut self, validation: &Validation, tokens: u64) -> Result<()> {
        let line = self.validation_line("horizon", validation, tokens)?;
        self.metrics.write(&Line::Horizon(line))
    }

    /// Tells TensorBoard, and gives the line.
    fn validation_line(
        &mut self,
        group: &str,
        validation: &Validation,
        tokens: u64,
    ) -> Result<ValidationLine<'static>> {
        let by_modality = self.means(&validation.by_modality);
        let mut values = tagged(group, &by_modality);
        values.extend(validation.bits_per_byte.map(|bits| (format!("{group}/bits_per_byte"), bits)));
        values.push((format!("{group}/joint"), validation.joint));
        self.events.scalars(validation.step, values.iter().map(|(tag, value)| (tag.as_str(), *value)))?;
        let Validation { step, joint, bits_per_byte, .. } = *validation;
        Ok(ValidationLine { step, tokens, by_modality, joint, bits_per_byte })
    }

    /// Something to be looked at or listened to, for TensorBoard alone: a run's folder has it as a file.
    pub fn exhibit(&mut self, step: u64, tag: &str, exhibit: Exhibit<'_>) -> Result<()> {
        match exhibit {
            Exhibit::Text(text) => self.events.text(step, tag, text),
            Exhibit::Image(png) => self.events.image(step, tag, png),
            Exhibit::Speech { wav, sample_rate } => self.events.audio(step, tag, wav, sample_rate),
        }
    }

    pub fn timing(&mut self, step: u64, wall_secs: f64, pace: Pace) -> Result<()> {
        let values = [
            ("speed/tokens_per_sec", pace.tokens_per_sec),
            ("speed/tflops_per_sec", 1e-12 * pace.flops_per_sec),
            ("speed/data_wait_secs", pace.data_wait_secs),
            ("speed/checkpoint_secs", pace.checkpoint_secs),
            ("speed/peak_memory_gib", pace.peak_memory_bytes as f64 / f64::from(1 << 30)),
        ];
        self.events.scalars(step, values.into_iter().chain(pace.mfu.map(|mfu| ("speed/mfu", mfu))))?;
        self.timing.write(&Line::Timing { step, wall_secs, pace })
    }

    /// Means by modality; `null` where there was no target.
    fn means(&self, losses: &[ModalityLoss]) -> BTreeMap<&'static str, Option<f64>> {
        let means = losses.iter().map(|loss| (loss.count > 0).then(|| loss.mean()));
        self.modalities.iter().copied().zip(means).collect()
    }

    /// Where the files end now.
    pub fn ends(&self) -> Result<Ends> {
        let lengths = Lengths { metrics: self.metrics.length, timing: self.timing.length };
        Ok(Ends { lengths, files: [self.metrics.handle()?, self.timing.handle()?] })
    }
}

/// Where the files of a run ended at a step.
#[derive(Debug)]
pub(crate) struct Ends {
    pub lengths: Lengths,
    files: [(PathBuf, File); 2],
}

impl Ends {
    /// Waits until the files are on the disk, so far at least.
    pub fn sync(&self) -> Result<()> {
        self.files.iter().try_for_each(|(path, file)| Ok(file.sync_data().at("write", path)?))
    }
}

/// Losses with tags as TensorBoard groups them.
fn tagged(group: &str, losses: &BTreeMap<&str, Option<f64>>) -> Vec<(String, f64)> {
    losses.iter().filter_map(|(name, loss)| Some((format!("{group}/{name}"), (*loss)?))).collect()
}

#[derive(Debug)]
struct Lines {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Lines {
    fn open(path: PathBuf, length: u64, lost: &mut Vec<String>) -> Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(&path).at("open", &path)?;
        let have = file.metadata().at("read", &path)?.len();
        if have < length {
            lost.push(format!("{} lacks {} bytes of what was written before", path.display(), length - have));
        }
        let length = length.min(have);
        file.set_len(length).at("cut", &path)?;
        Ok(Self { path, file, length })
    }

    fn write(&mut self, line: &Line<'_>) -> Result<()> {
        let mut text = serde_json::to_vec(line)
            .map_err(|error| Error::Content { path: self.path.clone(), reason: error.to_string() })?;
        text.push(b'\n');
        self.file.write_all(&text).at("write", &self.path)?;
        self.length += text.len() as u64;
        Ok(())
    }

    fn handle(&self) -> Result<(PathBuf, File)> {
        Ok((self.path.clone(), self.file.try_clone().at("open", &self.path)?))
    }
}
