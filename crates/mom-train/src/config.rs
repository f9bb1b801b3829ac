//! One run as TOML: strict, with defaults from the paper.

use std::path::{Path, PathBuf};

use mom_data::{Forms, ImageNeed, Needs, SourceConfig, TokenizerConfig, Tokenizers};
use mom_models::{ModelConfig, Scale, Setting, Variant};
use serde::{Deserialize, Serialize};

use crate::error::require;
use crate::files::At;
use crate::{Error, Result};

/// Everything that a run depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// What is trained.
    pub model: ModelSection,
    /// What it is trained on.
    pub data: DataSection,
    /// How long, from which seed, and what is measured on the way.
    pub train: TrainSection,
    /// The optimiser.
    #[serde(default)]
    pub optimizer: OptimizerSection,
}

/// The model; sizes that follow from the data are not in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// transfusion, chameleon or three-modality.
    pub setting: Setting,
    /// dense, mom, published, or some of in, x, dt, out joined by +.
    pub variant: Variant,
    /// Size of the backbone by name.
    pub scale: Scale,
    /// States of a channel.
    #[serde(default = "defaults::d_state")]
    pub d_state: usize,
    /// Weight of the z-loss; the setting's own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub z_loss: Option<f64>,
    /// Weight of the diffusion loss; the paper's 5 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diffusion_weight: Option<f64>,
}

/// The data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSection {
    /// File or folder of the only source, with all defaults; or else `sources`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards: Option<PathBuf>,
    /// Sequences in a batch.
    pub batch: usize,
    /// Positions in a sequence.
    pub seqlen: usize,
    /// Folder of tokenizers and tokens that several runs share; a run's own folder if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepared: Option<PathBuf>,
    /// How samples become documents; the setting's own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forms: Option<Forms>,
    /// How tokenizers are fitted. Defaults follow the scale: small ones below 37M, then the paper's.
    #[serde(default)]
    pub tokenizers: TokenizerConfig,
    /// Where samples come from, and how much of each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceConfig>,
}

impl DataSection {
    /// Where samples come from.
    pub fn sources(&self) -> Vec<SourceConfig> {
        match &self.shards {
            Some(path) => vec![SourceConfig::at(path)],
            None => self.sources.clone(),
        }
    }

    /// Everything but where files lie: what two runs of the same data agree in.
    pub(crate) fn without_paths(&self) -> Self {
        let mut data = self.clone();
        data.shards = data.shards.map(|_| PathBuf::new());
        data.prepared = None;
        for source in &mut data.sources {
            // A name that is not given is the path's last part, which is compared.
            source.name = Some(source.name());
            source.path = source.path.as_ref().map(|_| PathBuf::new());
        }
        data
    }
}

/// What a setting takes from a sample.
pub(crate) const fn needs(setting: Setting) -> Needs {
    match setting {
        Setting::Transfusion => Needs::PATCHES,
        Setting::Chameleon => Needs::CODES,
        Setting::ThreeModality => Needs::CODES_AND_UNITS,
    }
}

/// The course of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSection {
    /// Optimiser steps.
    pub steps: u64,
    /// Batches whose gradients make a step.
    #[serde(default = "defaults::one")]
    pub accumulate: usize,
    /// Seed of weights, data order and noise.
    #[serde(default)]
    pub seed: u64,
    /// Steps from one validation to the next; the last step has one in any case.
    #[serde(default = "defaults::eval_every")]
    pub eval_every: u64,
    /// Batches of the held-out split that a validation looks at.
    #[serde(default = "defaults::eval_batches")]
    pub eval_batches: usize,
    /// Steps from one checkpoint to the next; the last step has one in any case.
    #[serde(default = "defaults::checkpoint_every")]
    pub checkpoint_every: u64,
    /// Checkpoints that are kept.
    #[serde(default = "defaults::keep_checkpoints")]
    pub keep_checkpoints: usize,
    /// Where it runs.
    #[serde(default)]
    pub device: DeviceKind,
    /// Element type of projections and activations: f32, or bf16 on a GPU, where it is the default. Masters, moments,
    /// states, losses and sums are f32 in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<Precision>,
    /// What the backward pass computes again instead of keeping it, on a GPU.
    #[serde(default, skip_serializing_if = "Recompute::is_none")]
    pub recompute: Recompute,
    /// Whether a step on a GPU is a captured graph.
    #[serde(default, skip_serializing_if = "Graph::is_auto")]
    pub graph: Graph,
}

/// Whether a step on a GPU is captured once, as a CUDA graph, and replayed for other batches: it then costs the host one
/// launch instead of hundreds. Not where a batch has continuous patches (Transfusion), whose number varies, nor where
/// gradients are accumulated.
///
/// Its grouped products find their rows on the device, which for large ones is up to a tenth slower than the library; a step
/// of a graph is not, to the last bit, that of a run without graphs. While a step is captured, one of the first of a trainer,
/// no other thread of the process may use the device: what it put there would become a part of the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Graph {
    /// Where it can be and the residual stream of a step has at most [`Self::AUTO_ELEMENTS`] elements: up to there the
    /// launches cost more than a graph's memory, which no other step can use, is worth.
    #[default]
    Auto,
    /// In any case; an error where it cannot be.
    Always,
    /// Never.
    Never,
}

impl Graph {
    /// Positions of a step times d_model up to which [`Self::Auto`] captures.
    pub const AUTO_ELEMENTS: usize = 1 << 24;

    fn is_auto(&self) -> bool {
        *self == Self::Auto
    }

    /// Whether a step is captured.
    ///
    /// # Errors
    /// [`Self::Always`], and it cannot be: which of the others stands against it.
    pub(crate) fn captures(
        self,
        device: DeviceKind,
        setting: Setting,
        accumulate: usize,
        elements: usize,
    ) -> Result<bool> {
        let checks = [
            ("train.device", device == DeviceKind::Cuda, "cuda for a captured step", device.name().to_owned()),
            (
                "model.setting",
                setting != Setting::Transfusion,
                "one without continuous patches for a captured step",
                setting.name().to_owned(),
            ),
            ("train.accumulate", accumulate == 1, "1 for a captured step", accumulate.to_string()),
        ];
        match self {
            Self::Never => Ok(false),
            Self::Auto => Ok(checks.iter().all(|(_, fits, ..)| *fits) && elements <= Self::AUTO_ELEMENTS),
            Self::Always => {
                checks.into_iter().try_for_each(|(field, fits, expected, got)| require(fits, field, expected, got))?;
                Ok(true)
            }
        }
    }
}

impl std::str::FromStr for Graph {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(Self::Auto),
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            other => require(false, "graph", "auto, always or never", other).map(|()| Self::Auto),
        }
    }
}

/// Element type of projections and activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// IEEE single precision.
    F32,
    /// bfloat16.
    Bf16,
}

impl Precision {
    /// What a device computes with unless it is told: f32 on the CPU, bf16 on a GPU.
    pub const fn of(device: DeviceKind) -> Self {
        match device {
            DeviceKind::Cpu => Self::F32,
            DeviceKind::Cuda => Self::Bf16,
        }
    }

    /// Name: `f32` or `bf16`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// candle's name of it.
    pub const fn dtype(self) -> candle_core::DType {
        match self {
            Self::F32 => candle_core::DType::F32,
            Self::Bf16 => candle_core::DType::BF16,
        }
    }
}

/// What the backward pass computes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recompute {
    /// Conv, delta and norms alone, inside of each block.
    #[default]
    None,
    /// Each block's whole forward pass: nothing but the residual stream is kept.
    Block,
}

impl Recompute {
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// Where a run computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceKind {
    /// The processor.
    #[default]
    Cpu,
    /// The first GPU that the driver shows (`CUDA_VISIBLE_DEVICES`), in a build with the feature `cuda`.
    Cuda,
}

impl std::str::FromStr for Precision {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            other => Err(crate::error::config("dtype", "f32 or bf16", other)),
        }
    }
}

impl std::str::FromStr for DeviceKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda),
            other => require(false, "device", "cpu or cuda", other).map(|()| Self::Cpu),
        }
    }
}

impl DeviceKind {
    /// Name: `cpu` or `cuda`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }

    /// The device.
    pub(crate) fn open(self) -> Result<candle_core::Device> {
        Ok(match self {
            Self::Cpu => candle_core::Device::Cpu,
            Self::Cuda => mom_core::cuda_device(0)?,
        })
    }
}

/// AdamW with warm-up and cosine. Weight decay is decoupled and spares A_log, D, biases and norms.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerSection {
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Learning rate of the last step.
    pub final_learning_rate: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Largest global norm of the gradient.
    pub clip_norm: f64,
}

impl Default for OptimizerSection {
    /// Those of the Transfusion setting in the paper's table.
    fn default() -> Self {
        Self {
            learning_rate: 3e-4,
            final_learning_rate: 1.5e-5,
            warmup_steps: 4000,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            clip_norm: 1.0,
        }
    }
}

mod defaults {
    pub(super) const fn d_state() -> usize {
        16
    }
    pub(super) const fn one() -> usize {
        1
    }
    pub(super) const fn eval_every() -> u64 {
        100
    }
    pub(super) const fn eval_batches() -> usize {
        8
    }
    pub(super) const fn checkpoint_every() -> u64 {
        500
    }
    pub(super) const fn keep_checkpoints() -> usize {
        2
    }
}

impl RunConfig {
    /// Reads TOML, then applies overrides such as `train.steps=200` in their order.
    ///
    /// A value is read as TOML; what is no TOML value is taken as a string, so that `model.scale=94M` needs no quotes.
    ///
    /// # Errors
    /// [`Error::Toml`] for text that does not parse, an unknown key or a missing one; [`Error::Override`];
    /// [`Error::Config`] for a value out of range.
    pub fn from_toml(text: &str, overrides: &[String]) -> Result<Self> {
        let toml =
            |origin: Option<&str>, source| Error::Toml { origin: origin.map(str::to_owned), source: Box::new(source) };
        let mut table: toml::Table = toml::from_str(text).map_err(|source| toml(None, source))?;
        for text in overrides {
            apply_override(&mut table, text)?;
        }
        fill_in_tokenizers(&mut table);
        let origin = (!overrides.is_empty()).then(|| format!("(with {})", overrides.join(" ")));
        let config: Self = table.try_into().map_err(|source| toml(origin.as_deref(), source))?;
        config.validate()?;
        Ok(config)
    }

    /// Reads a TOML file, see [`Self::from_toml`].
    ///
    /// # Errors
    /// As [`Self::from_toml`], naming the file, and [`Error::File`].
    pub fn read(path: &Path, overrides: &[String]) -> Result<Self> {
        let text = std::fs::read_to_string(path).at("read", path)?;
        Self::from_toml(&text, overrides).map_err(|error| match error {
            Error::Toml { origin, source } => {
                let origin = format!("{}{}", path.display(), origin.map(|o| format!(" {o}")).unwrap_or_default());
                Error::Toml { origin: Some(origin), source }
            }
            other => other,
        })
    }

    /// The configuration as TOML, every default written out.
    ///
    /// # Errors
    /// A value that TOML cannot hold, such as a seed above 2^63.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|error| Error::Content { path: "config.toml".into(), reason: error.to_string() })
    }

    /// Checks every value that does not depend on the data.
    ///
    /// # Errors
    /// [`Error::Config`], naming the field.
    pub fn validate(&self) -> Result<()> {
        let Self { data, train, optimizer, .. } = self;
        let at_least_one = |field, value: u64| require(value > 0, field, "at least 1", value);
        at_least_one("train.steps", train.steps)?;
        at_least_one("train.accumulate", train.accumulate as u64)?;
        at_least_one("train.eval_every", train.eval_every)?;
        at_least_one("train.eval_batches", train.eval_batches as u64)?;
        at_least_one("train.checkpoint_every", train.checkpoint_every)?;
        at_least_one("train.keep_checkpoints", train.keep_checkpoints as u64)?;
        at_least_one("data.batch", data.batch as u64)?;
        at_least_one("data.seqlen", data.seqlen as u64)?;
        // TOML has no larger integers, and the resolved configuration is written as TOML.
        require(i64::try_from(train.seed).is_ok(), "train.seed", "below 2^63", train.seed)?;
        let positive = |field, value: f64| require(value.is_finite() && value > 0.0, field, "positive", value);
        let not_negative =
            |field, value: f64| require(value.is_finite() && value >= 0.0, field, "finite and not negative", value);
        positive("optimizer.learning_rate", optimizer.learning_rate)?;
        not_negative("optimizer.final_learning_rate", optimizer.final_learning_rate)?;
        for (field, beta) in [("optimizer.beta1", optimizer.beta1), ("optimizer.beta2", optimizer.beta2)] {
            require((0.0..1.0).contains(&beta), field, "in [0, 1)", beta)?;
        }
        positive("optimizer.eps", optimizer.eps)?;
        not_negative("optimizer.weight_decay", optimizer.weight_decay)?;
        positive("optimizer.clip_norm", optimizer.clip_norm)?;
        self.forms().validate()?;
        let one = data.shards.is_some() == data.sources.is_empty();
        require(
            one,
            "data.sources",
            "given, or else data.shards",
            if data.shards.is_some() { "both" } else { "neither" },
        )?;
        mom_data::check_sources(&data.sources())?;
        data.tokenizers.validate()?;
        // What depends on the vocabulary alone is not known yet; all else of a model is, before anything is read.
        self.model_with(1 << 10).validate()?;
        let image = &data.tokenizers.image;
        if needs(self.model.setting).image == ImageNeed::Patches && image.kind == mom_data::CodeKind::Fitted {
            let n_positions = mom_data::pixels::n_patches(image.size, image.patch)? + 2;
            let expected = format!("at least {n_positions}, the patches of an image and two markers");
            require(data.seqlen >= n_positions, "data.seqlen", &expected, data.seqlen)?;
        }
        let built = train.device == DeviceKind::Cpu || cfg!(feature = "cuda");
        require(built, "device", "cpu: this program was built without the feature \"cuda\"", train.device.name())?;
        let on_gpu = train.device == DeviceKind::Cuda;
        let fits = on_gpu || train.dtype != Some(Precision::Bf16);
        require(fits, "train.dtype", "f32 on the CPU", "bf16")?;
        require(on_gpu || train.recompute.is_none(), "train.recompute", "none on the CPU", "block")?;
        self.captures().map(drop)
    }

    /// Whether a step is a captured graph.
    pub(crate) fn captures(&self) -> Result<bool> {
        let Self { data, train, .. } = self;
        let elements = data.batch.saturating_mul(data.seqlen).saturating_mul(self.model.scale.d_model);
        train.graph.captures(train.device, self.model.setting, train.accumulate, elements)
    }

    /// Element type of projections and activations.
    pub fn precision(&self) -> Precision {
        self.train.dtype.unwrap_or(Precision::of(self.train.device))
    }

    /// How samples become documents: the paper's orders unless the configuration has its own.
    pub fn forms(&self) -> Forms {
        let text_first = if self.model.setting == Setting::Transfusion { 0.8 } else { 0.5 };
        self.data.forms.unwrap_or(Forms { text_first, ..Forms::default() })
    }

    /// What the setting takes from a sample.
    pub fn needs(&self) -> Needs {
        needs(self.model.setting)
    }

    /// The model for a vocabulary that was fitted.
    pub fn model_config(&self, tokenizers: &Tokenizers) -> ModelConfig {
        self.model_with(tokenizers.vocabulary().size())
    }

    fn model_with(&self, vocab_size: usize) -> ModelConfig {
        let ModelSection { setting, variant, scale, d_state, z_loss, diffusion_weight } = self.model;
        let defaults = ModelConfig::new(setting, variant, scale, vocab_size);
        let patched = self.needs().image == ImageNeed::Patches;
        ModelConfig {
            patch_dim: if patched { self.data.tokenizers.image.patch_dim() } else { 0 },
            z_loss: z_loss.unwrap_or(defaults.z_loss),
            diffusion_weight: diffusion_weight.unwrap_or(defaults.diffusion_weight),
            d_state,
            ..defaults
        }
    }

    /// Every field in which `new` differs, as `name = value here (now value there)`.
    pub(crate) fn differences(&self, new: &Self) -> Result<Vec<String>> {
        let value = |config: &Self| {
            toml::Value::try_from(config)
                .map_err(|error| Error::Content { path: "config.toml".into(), reason: error.to_string() })
        };
        let mut found = Vec::new();
        collect_differences("", Some(&value(self)?), Some(&value(new)?), &mut found);
        Ok(found)
    }
}

/// Tokenizers at the size that the scale asks for, under what the user says of them.
fn fill_in_tokenizers(table: &mut toml::Table) {
    // What is missing or wrong here is told when the whole is read.
    let word = |section: &str, key: &str| table.get(section)?.as_table()?.get(key)?.as_str().map(str::to_owned);
    let scale = word("model", "scale").and_then(|name| name.parse::<Scale>().ok());
    let setting = word("model", "setting").and_then(|name| name.parse::<Setting>().ok());
    let (Some(scale), Some(setting)) = (scale, setting) else { return };
    let defaults =
        if scale.paper.is_empty() { TokenizerConfig::default() } else { TokenizerConfig::paper(needs(setting)) };
    let (Ok(mut filled), Some(data)) =
        (toml::Table::try_from(defaults), table.get_mut("data").and_then(toml::Value::as_table_mut))
    else {
        return;
    };
    match data.get("tokenizers") {
        Some(toml::Value::Table(given)) => merge(&mut filled, given),
        Some(_) => return,
        None => {}
    }
    data.insert("tokenizers".to_owned(), toml::Value::Table(filled));
}

/// Lays one table over another.
fn merge(under: &mut toml::Table, over: &toml::Table) {
    for (key, value) in over {
        match (under.get_mut(key), value) {
            (Some(toml::Value::Table(under)), toml::Value::Table(over)) => merge(under, over),
            _ => {
                under.insert(key.clone(), value.clone());
            }
        }
    }
}

fn collect_differences(name: &str, old: Option<&toml::Value>, new: Option<&toml::Value>, found: &mut Vec<String>) {
    if let (Some(toml::Value::Table(old)), Some(toml::Value::Table(new))) = (old, new) {
        let keys: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        for key in keys {
            let dotted = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
            collect_differences(&dotted, old.get(key), new.get(key), found);
        }
    } else if old != new {
        let show = |value: Option<&toml::Value>| value.map_or("absent".to_owned(), toml::Value::to_string);
        found.push(format!("{name} = {} (now {})", show(old), show(new)));
    }
}

fn apply_override(table: &mut toml::Table, text: &str) -> Result<()> {
    let wrong = |reason: String| Error::Override { text: text.to_owned(), reason };
    let (key, value) = text.split_once('=').ok_or_else(|| wrong("there is no =".to_owned()))?;
    let mut parts: Vec<&str> = key.trim().split('.').collect();
    let last = parts.pop().unwrap_or_default();
    if last.is_empty() || parts.contains(&"") {
        return Err(wrong("a part of the key is empty".to_owned()));
    }
    let parsed = toml::from_str::<toml::Table>(&format!("value = {value}"));
    let value = match parsed.ok().and_then(|mut table| table.remove("value")) {
        Some(value) => value,
        None => toml::Value::String(value.trim().to_owned()),
    };
    let mut at = toml::Value::Table(std::mem::take(table));
    let set = set_at(&mut at, &parts, last, value);
    if let toml::Value::Table(filled) = at {
        *table = filled;
    }
    set.map_err(wrong)
}

/// Sets a value behind a path of keys; the parts of an array have their numbers, from 0, for keys.
fn set_at(at: &mut toml::Value, parts: &[&str], last: &str, value: toml::Value) -> Result<(), String> {
    let mut at = at;
    let mut name = "the configuration";
    for &part in parts {
        at = match at {
            toml::Value::Table(table) => table.entry(part).or_insert_with(|| toml::Value::Table(toml::Table::new())),
            toml::Value::Array(array) => {
                let n = array.len();
                let found = part.parse().ok().and_then(|index: usize| array.get_mut(index));
                found.ok_or_else(|| format!("{name} has no {part}, only 0 to {}", n.saturating_sub(1)))?
            }
            _ => return Err(format!("{name} is no table")),
        };
        name = part;
    }
    match at {
        toml::Value::Table(table) => {
            table.insert(last.to_owned(), value);
            Ok(())
        }
        _ => Err(format!("{name} is no table")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        model = { setting = "three-modality", variant = "in+x", scale = "tiny" }
        data = { shards = "shards", batch = 4, seqlen = 128 }
        train = { steps = 10 }
    "#;

    fn parse(overrides: &[&str]) -> Result<RunConfig> {
        RunConfig::from_toml(TEXT, &overrides.iter().map(|&text| text.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn overrides_take_effect_and_the_resolved_text_reads_back() {
        let config =
            parse(&["train.steps=20", "model.scale=94M", "optimizer.learning_rate=1e-3", "data.shards=a b"]).unwrap();
        assert_eq!((config.train.steps, config.model.scale.name), (20, "94M"));
        assert_eq!((config.optimizer.learning_rate, config.data.shards.as_deref()), (1e-3, Some(Path::new("a b"))));
        let again = RunConfig::from_toml(&config.to_toml().unwrap(), &[]).unwrap();
        assert_eq!(again, config);
        assert!(config.differences(&again).unwrap().is_empty());
        let differences = config.differences(&parse(&["train.steps=20", "model.scale=94M"]).unwrap()).unwrap();
        let expected = ["data.shards = \"a b\" (now \"shards\")", "optimizer.learning_rate = 0.001 (now 0.0003)"];
        assert_eq!(differences, expected);
    }

    #[test]
    fn what_is_unknown_missing_or_out_of_range_is_named() {
        for (overrides, expected) in [
            (&["train.stepz=1"][..], "stepz"),
            (&["optimiser.lr=1"], "optimiser"),
            (&["model.scale=2B"], "one of nano, tiny"),
            (&["model.variant=moe"], "got moe"),
            (&["train.steps=0"], "train.steps must be at least 1, got 0"),
            (&["optimizer.beta2=1.0"], "optimizer.beta2 must be in [0, 1), got 1"),
            (&["data.tokenizers.speech.units=900"], "tokenizers.speech.units must be 2 to 500"),
            (&["train.device=cuda"], "device must be cpu"),
            (&["train.dtype=bf16"], "train.dtype must be f32 on the CPU"),
            (&["train.recompute=block"], "train.recompute must be none on the CPU"),
            (&["train"], "there is no ="),
            (&[".a=1"], "empty"),
            (&["train.steps.more=1"], "steps is no table"),
            (&["data.forms.text_first=2"], "forms.text_first must be a probability"),
            (&["data.sources=[{ path = \"a\" }]"], "data.sources must be given, or else data.shards, got both"),
            (&["model.d_state=0"], "d_state"),
            (&["model.z_loss=-5"], "z_loss"),
            (&["model.setting=transfusion", "data.seqlen=10"], "data.seqlen must be at least 66"),
            (&["model.setting=transfusion", "data.tokenizers.image.patch=3"], "patch"),
        ] {
            if cfg!(feature = "cuda") && overrides == ["train.device=cuda"] {
                continue;
            }
            let message = parse(overrides).unwrap_err().to_string();
            assert!(message.contains(expected), "{overrides:?}: {message}");
        }
        let message = RunConfig::from_toml("train = { steps = 1 }", &[]).unwrap_err().to_string();
        assert!(message.contains("missing field `model`"), "{message}");
    }

    #[test]
    fn the_configurations_that_are_shipped_are_valid() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let config = RunConfig::read(&path, &[]).unwrap();
            assert!(path.file_stem().unwrap().to_str().unwrap().starts_with(config.model.setting.name()));
            names.push(config.model.setting.name());
        }
        assert_eq!(names.len(), 6);
        let mix = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/three-modality-mix.toml");
        let read = |text: &str| RunConfig::read(&mix, &[text.to_owned()]);
        assert_eq!(read("data.sources.2.path=/data/pairs").unwrap().data.sources[2].name(), "pairs");
        let message = read("data.sources.3.path=a").unwrap_err().to_string();
        assert!(message.contains("sources has no 3, only 0 to 2"), "{message}");
    }
}
