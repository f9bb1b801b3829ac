//! One run as TOML: strict, with defaults from the paper.

mod data;
mod device;
mod dist;
mod horizons;
mod identity;
mod model;
mod optimizer;
mod overrides;
mod train;

use std::path::Path;

use mom_data::{Forms, ImageNeed, Needs, Tokenizers};
use mom_models::{Architecture, ModelConfig, PatcherKind};
use serde::{Deserialize, Serialize};

pub(crate) use data::section_of;
pub use data::{DataSection, sources_at};
pub(crate) use device::pick_gpu;
pub use device::{DeviceKind, Graph, Precision, Recompute};
pub use dist::{DistSection, Reduce};
pub(crate) use identity::{Difference, Identity, differences};
pub use model::ModelSection;
pub(crate) use model::needs;
pub use optimizer::{OptimizerSection, Schedule};
pub(crate) use overrides::tokenizers_of;
pub use train::{CANDIDATES, OnSpike, TrainSection};
pub(crate) use train::{Keep, check_downstream};

use crate::error::require;
use crate::files::At;
use crate::{Error, Result};

/// Name of the validation loss of all modalities together: what is trained on.
pub(crate) const JOINT: &str = "joint";

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

impl RunConfig {
    /// Reads TOML, then applies overrides such as `train.steps=200` in their order.
    ///
    /// A value is read as TOML; what is no TOML value is taken as a string, so that `model.scale=94M` needs no quotes.
    ///
    /// # Errors
    /// [`Error::Toml`] for text that does not parse, an unknown key or a missing one; [`Error::Override`];
    /// [`Error::Config`] for a value out of range.
    pub fn from_toml(text: &str, overrides: &[String]) -> Result<Self> {
        let config = Self::parse(text, overrides, None)?;
        config.validate()?;
        Ok(config)
    }

    /// As [`Self::from_toml`], but for the range of values.
    fn parse(text: &str, overrides: &[String], own: Option<&Path>) -> Result<Self> {
        let toml = |origin: Option<&str>, source: toml::de::Error| Error::Toml {
            origin: origin.map(str::to_owned),
            source: source.into(),
        };
        let mut table: toml::Table = toml::from_str(text).map_err(|source| toml(None, source))?;
        for text in overrides {
            overrides::apply_override(&mut table, text)?;
        }
        overrides::fill_in_scale(&mut table)?;
        overrides::fill_in_tokenizers(&mut table, own)?;
        let origin = (!overrides.is_empty()).then(|| format!("(with {})", overrides.join(" ")));
        table.try_into().map_err(|source| toml(origin.as_deref(), source))
    }

    /// Reads a TOML file, see [`Self::from_toml`].
    ///
    /// # Errors
    /// As [`Self::from_toml`], naming the file, and [`Error::File`].
    pub fn read(path: &Path, overrides: &[String]) -> Result<Self> {
        let config = Self::parse_file(path, overrides, None)?;
        config.validate()?;
        Ok(config)
    }

    /// As [`Self::read`], for a run in `folder`: where it started from a model, its tokenizers are those that it has.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_for(folder: &Path, path: &Path, overrides: &[String]) -> Result<Self> {
        let config = Self::parse_file(path, overrides, Some(folder))?;
        config.validate()?;
        Ok(config)
    }

    /// The configuration that a run's folder holds: it was valid where the run began, which may have had another device than
    /// this program can use.
    ///
    /// # Errors
    /// As [`Self::read`], but for the range of values.
    pub(crate) fn stored(path: &Path) -> Result<Self> {
        Self::parse_file(path, &[], path.parent())
    }

    fn parse_file(path: &Path, overrides: &[String], own: Option<&Path>) -> Result<Self> {
        let text = std::fs::read_to_string(path).at("read", path)?;
        Self::parse(&text, overrides, own).map_err(|error| match error {
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
        at_least_one("train.keep_every", train.keep_every.unwrap_or(1))?;
        at_least_one("train.sample_every", train.sample_every.unwrap_or(1))?;
        check_downstream("train.downstream", train.downstream)?;
        train.dist.validate()?;
        if let Some(decay) = train.ema {
            require(decay > 0.0 && decay < 1.0, "train.ema", "above 0 and below 1", decay)?;
        }
        if let Some(factor) = train.spike_factor {
            require(factor > 1.0 && factor.is_finite(), "train.spike_factor", "finite and above 1", factor)?;
        }
        if let Some(name) = &train.keep_best {
            let names = self.model.setting.modalities();
            let expected = format!("joint, {}", names.join(", "));
            require(name == JOINT || names.contains(&name.as_str()), "train.keep_best", &expected, name)?;
        }
        at_least_one("data.batch", data.batch as u64)?;
        at_least_one("data.seqlen", data.seqlen as u64)?;
        // TOML has no larger integers, and the resolved configuration is written as TOML.
        for (field, seed) in [("train.seed", train.seed), ("train.init_seed", train.seed_of_weights())] {
            require(i64::try_from(seed).is_ok(), field, "below 2^63", seed)?;
        }
        let positive = |field, value: f64| require(value.is_finite() && value > 0.0, field, "positive", value);
        let not_negative =
            |field, value: f64| require(value.is_finite() && value >= 0.0, field, "finite and not negative", value);
        positive("optimizer.learning_rate", optimizer.learning_rate)?;
        not_negative("optimizer.final_learning_rate", optimizer.final_learning_rate)?;
        let falls = optimizer.final_learning_rate <= optimizer.learning_rate;
        let expected = format!("at most optimizer.learning_rate ({})", optimizer.learning_rate);
        require(falls, "optimizer.final_learning_rate", &expected, optimizer.final_learning_rate)?;
        for (field, beta) in [("optimizer.beta1", optimizer.beta1), ("optimizer.beta2", optimizer.beta2)] {
            require((0.0..1.0).contains(&beta), field, "in [0, 1)", beta)?;
        }
        positive("optimizer.eps", optimizer.eps)?;
        not_negative("optimizer.weight_decay", optimizer.weight_decay)?;
        positive("optimizer.clip_norm", optimizer.clip_norm)?;
        let decays = optimizer.schedule == Schedule::Wsd || optimizer.decay_steps.is_none();
        require(decays, "optimizer.decay_steps", "absent but for optimizer.schedule = \"wsd\"", "a number")?;
        self.check_horizons()?;
        require(train.accumulate <= 1 << 20, "train.accumulate", "at most 2^20", train.accumulate)?;
        let positions = data.batch.checked_mul(data.seqlen).filter(|&n| u32::try_from(n).is_ok_and(|n| n < u32::MAX));
        let got = format!("{} * {}", data.batch, data.seqlen);
        require(positions.is_some(), "data.batch * data.seqlen", "below 2^32 - 1", got)?;
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
        data.tokenizers.validate_for(self.needs())?;
        self.model.unet(&data.tokenizers.image)?;
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
        let (recomputes, variant) = (self.model.variant.architecture() == Architecture::Mamba, self.model.variant);
        require(recomputes || train.recompute.is_none(), "train.recompute", &format!("none for {variant}"), "block")?;
        self.check_chunks()?;
        self.captures().map(drop)
    }

    /// Refuses chunks of sequences (`train.dist.context`) that cannot be.
    fn check_chunks(&self) -> Result<()> {
        let Self { data, train, model, .. } = self;
        let n = train.dist.context;
        if n == 1 {
            return Ok(());
        }
        let (is_mamba, variant) = (model.variant.architecture() == Architecture::Mamba, model.variant);
        require(is_mamba, "train.dist.context", &format!("1 for {variant}, which sees beyond a chunk"), n)?;
        let is_linear = model.patcher == PatcherKind::Linear;
        require(is_linear, "train.dist.context", "1 for model.patcher = \"unet\", which sees whole pictures", n)?;
        require(train.graph != Graph::Always, "train.graph", "auto or never for chunks of sequences", "always")?;
        let window = mom_kernels::causal_conv1d::MAX_D_CONV - 1;
        let fits = data.seqlen.is_multiple_of(n) && data.seqlen / n >= window;
        let expected = format!("a multiple of train.dist.context, {n}, with at least {window} positions for each");
        require(fits, "data.seqlen", &expected, data.seqlen)
    }

    /// Whether a step is a captured graph.
    pub(crate) fn captures(&self) -> Result<bool> {
        let Self { data, train, .. } = self;
        let elements = data.batch.saturating_mul(data.seqlen).saturating_mul(self.model.scale.d_model);
        let model = (self.model.setting, self.model.variant);
        train.graph.captures(train.device, model, train.accumulate, elements)
    }

    /// Element type of projections and activations.
    pub fn precision(&self) -> Precision {
        self.train.dtype.unwrap_or(Precision::of(self.train.device))
    }

    /// How samples become documents: the paper's orders unless the configuration has its own.
    pub fn forms(&self) -> Forms {
        let text_first = self.model.setting.text_first();
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
        let ModelSection { setting, variant, scale, d_state, d_conv, expand, dt_rank, .. } = self.model;
        let ModelSection { z_loss, diffusion_weight, mean_keys, .. } = self.model;
        // Before the data have told there are none.
        let mean_keys = match variant.architecture() {
            Architecture::Transformer(_) => mean_keys.unwrap_or(0),
            Architecture::Mamba | Architecture::Routed(_) => 0,
        };
        let defaults = ModelConfig::new(setting, variant, scale, vocab_size);
        let patched = self.needs().image == ImageNeed::Patches;
        ModelConfig {
            patch_dim: if patched { self.data.tokenizers.image.patch_dim() } else { 0 },
            // Whatever does not fit was refused by `validate`.
            unet: self.model.unet(&self.data.tokenizers.image).unwrap_or_default(),
            z_loss: z_loss.unwrap_or(defaults.z_loss),
            diffusion_weight: diffusion_weight.unwrap_or(defaults.diffusion_weight),
            d_state,
            d_conv,
            expand,
            dt_rank,
            mean_keys,
            ..defaults
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mom_models::Scale;

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
    }

    #[test]
    fn a_size_is_a_name_or_ones_own() {
        let scale = |overrides: &[&str]| parse(overrides).unwrap().model.scale;
        assert_eq!(scale(&["model.n_layers=5"]), Scale::own(64, 5));
        assert_eq!(scale(&["model.scale=94M", "model.d_model=320"]), Scale::own(320, 8));
        assert_eq!(scale(&["model.scale=94M", "model.d_model=512"]).name, "94M");
        let text = TEXT.replace("scale = \"tiny\"", "d_model = 320, n_layers = 6, expand = 3, d_conv = 3, dt_rank = 7");
        let config = RunConfig::from_toml(&text, &[]).unwrap();
        assert_eq!(config.model.scale, Scale::own(320, 6));
        assert_eq!(config.data.tokenizers.text.vocab_size, 65_536 - 8192 - 506, "as for the paper's sizes");
        let again = RunConfig::from_toml(&config.to_toml().unwrap(), &[]).unwrap();
        assert_eq!(again, config);
        let mixer = config.model_with(1 << 10).block().mixer;
        assert_eq!((mixer.d_model, mixer.d_inner(), mixer.d_conv, mixer.dt_rank()), (320, 960, 3, 7));
        let text = TEXT.replace("scale = \"tiny\"", "d_model = 320");
        let message = RunConfig::from_toml(&text, &[]).unwrap_err().to_string();
        assert!(message.contains("model.n_layers must be given, or model.scale"), "{message}");
    }

    #[test]
    fn what_is_unknown_missing_or_out_of_range_is_named() {
        for (overrides, expected) in [
            (&["train.stepz=1"][..], "stepz"),
            (&["optimiser.lr=1"], "optimiser"),
            (&["model.scale=2B"], "one of nano, tiny"),
            (&["model.variant=moe"], "got moe"),
            (&["train.steps=0"], "train.steps must be at least 1, got 0"),
            (&["optimizer.final_learning_rate=1"], "at most optimizer.learning_rate (0.0003)"),
            (&["train.keep_best=speach"], "train.keep_best must be joint, text, image, speech"),
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
            (&["model.d_model=0"], "model.d_model must be a whole number, at least 1, got 0"),
            (&["model.n_layers=x"], "model.n_layers must be a whole number, at least 1, got \"x\""),
            (&["model.d_conv=9"], "d_conv"),
            (&["model.expand=0"], "expand"),
            (&["model.dt_rank=0"], "dt_rank"),
            (&["model.z_loss=-5"], "z_loss"),
            (&["model.setting=transfusion", "data.seqlen=10"], "data.seqlen must be at least 66"),
            (&["model.setting=transfusion", "data.tokenizers.image.patch=3"], "patch"),
            (&["model.patcher=unet"], "model.patcher must be linear in the setting three-modality, got unet"),
            (
                &["model.setting=transfusion", "model.patcher=unet", "model.unet_width=12"],
                "model.unet_width must be a multiple of 8",
            ),
            (
                &["model.setting=transfusion", "model.patcher=unet", "data.tokenizers.image.kind=precomputed"],
                "data.tokenizers.image.square must be true for model.patcher = \"unet\"",
            ),
            (&["model.unet_width=16"], "model.unet_width must be absent but for model.patcher = \"unet\", got 16"),
            (
                &[
                    "model.setting=transfusion",
                    "model.patcher=unet",
                    "data.tokenizers.image.size=33",
                    "data.tokenizers.image.patch=3",
                ],
                "data.tokenizers.image.patch must be even",
            ),
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
        assert_eq!(names.len(), 11);
        let mix = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/three-modality-mix.toml");
        let read = |text: &str| RunConfig::read(&mix, &[text.to_owned()]);
        assert_eq!(read("data.sources.2.path=/data/pairs").unwrap().data.sources[2].name(), "pairs");
        let message = read("data.sources.3.path=a").unwrap_err().to_string();
        assert!(message.contains("sources has no 3, only 0 to 2"), "{message}");
    }
}
