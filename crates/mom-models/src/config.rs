//! Configuration of a model: everything that its parameters' shapes depend on, and its losses.

use std::fmt;
use std::str::FromStr;

use mom_core::{BlockConfig, MixerConfig};
use serde::{Deserialize, Serialize};

use crate::blocks::TransformerConfig;
use crate::blocks::transformer::Tying;
use crate::error::require;
use crate::{Architecture, Error, PatcherKind, Result, Scale, UnetConfig, Variant, flops};

/// What is trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Setting {
    /// Text tokens, and continuous images with a diffusion loss (Transfusion, arXiv 2408.11039).
    Transfusion,
    /// Text tokens and image codes in one vocabulary (Chameleon, arXiv 2405.09818).
    Chameleon,
    /// As Chameleon, and speech units.
    ThreeModality,
}

/// What tells a setting from the others. All have text and images.
struct Traits {
    name: &'static str,
    /// Images are continuous patches with a diffusion loss; else codes.
    patches: bool,
    /// There is speech.
    speech: bool,
    /// Tokens of the paper's vocabulary.
    paper_vocab_size: usize,
    /// Probability that the text of a pair stands before its image or speech.
    text_first: f64,
}

impl Setting {
    /// All settings, in the paper's order.
    pub const ALL: [Self; 3] = [Self::Transfusion, Self::Chameleon, Self::ThreeModality];

    /// Their names, in the same order.
    pub const NAMES: [&'static str; Self::ALL.len()] = {
        let mut names = [""; Self::ALL.len()];
        let mut at = 0;
        while at < names.len() {
            names[at] = Self::ALL[at].name();
            at += 1;
        }
        names
    };

    const fn traits(self) -> Traits {
        match self {
            Self::Transfusion => {
                Traits { name: "transfusion", patches: true, speech: false, paper_vocab_size: 32_000, text_first: 0.8 }
            }
            Self::Chameleon => {
                Traits { name: "chameleon", patches: false, speech: false, paper_vocab_size: 65_536, text_first: 0.5 }
            }
            Self::ThreeModality => Traits {
                name: "three-modality",
                patches: false,
                speech: true,
                paper_vocab_size: 65_536,
                text_first: 0.5,
            },
        }
    }

    /// Name: `transfusion`, `chameleon`, `three-modality`.
    pub const fn name(self) -> &'static str {
        self.traits().name
    }

    /// Names of the modalities, in the order of their ids.
    pub const fn modalities(self) -> &'static [&'static str] {
        if self.has_speech() { &["text", "image", "speech"] } else { &["text", "image"] }
    }

    /// Number of modalities K.
    pub const fn n_modalities(self) -> usize {
        self.modalities().len()
    }

    /// Whether images are continuous patches with a diffusion loss; else they are codes.
    pub const fn has_patches(self) -> bool {
        self.traits().patches
    }

    /// Whether there is speech.
    pub const fn has_speech(self) -> bool {
        self.traits().speech
    }

    /// Tokens of the paper's vocabulary.
    pub const fn paper_vocab_size(self) -> usize {
        self.traits().paper_vocab_size
    }

    /// Probability that the text of a pair stands before its image or speech: the paper's.
    pub const fn text_first(self) -> f64 {
        self.traits().text_first
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Setting {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|setting| setting.name() == name).ok_or_else(|| Error::Config {
            field: "setting",
            expected: format!("one of {}", Self::NAMES.join(", ")),
            got: name.to_owned(),
        })
    }
}

/// A model. Defaults are the paper's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// What is trained on.
    pub setting: Setting,
    /// Which projections are per modality.
    pub variant: Variant,
    /// Size of the backbone.
    pub scale: Scale,
    /// Tokens of the vocabulary, special tokens and image codes included.
    pub vocab_size: usize,
    /// Values of a continuous image patch; Transfusion alone has them.
    #[serde(default)]
    pub patch_dim: usize,
    /// The U-Net around the patches; absent where they come in and out by linear layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unet: Option<UnetConfig>,
    /// Weight of the z-loss beside the cross-entropy.
    #[serde(default)]
    pub z_loss: f64,
    /// Weight of the diffusion loss beside the cross-entropy.
    #[serde(default = "defaults::diffusion_weight")]
    pub diffusion_weight: f64,
    /// States of a channel.
    #[serde(default = "defaults::d_state")]
    pub d_state: usize,
    /// Width of the causal convolution.
    #[serde(default = "defaults::d_conv")]
    pub d_conv: usize,
    /// Channels of conv and scan for each feature of the residual stream.
    #[serde(default = "defaults::expand")]
    pub expand: usize,
    /// Features between x_proj and dt_proj; ceil(d_model / 16) if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dt_rank: Option<usize>,
    /// Added to the mean square in the norms.
    #[serde(default = "defaults::norm_eps")]
    pub norm_eps: f64,
    /// Keys that a query of an attention meets on average, as its cost is counted: a transformer's feed-forward layer is so
    /// wide that a token costs what it costs in the dense model.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub mean_keys: usize,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

mod defaults {
    pub(super) const fn diffusion_weight() -> f64 {
        5.0
    }
    pub(super) const fn d_state() -> usize {
        16
    }
    pub(super) const fn d_conv() -> usize {
        4
    }
    pub(super) const fn expand() -> usize {
        2
    }
    pub(super) const fn norm_eps() -> f64 {
        1e-5
    }
}

impl ModelConfig {
    /// A model with the paper's losses: z-loss 1e-5 in Chameleon, diffusion weight 5 in Transfusion (whose patches are of
    /// 2 x 2 x 8 latents in the paper, the default here).
    pub fn new(setting: Setting, variant: Variant, scale: Scale, vocab_size: usize) -> Self {
        Self {
            setting,
            variant,
            scale,
            vocab_size,
            patch_dim: if setting == Setting::Transfusion { 32 } else { 0 },
            unet: None,
            z_loss: if setting == Setting::Chameleon { 1e-5 } else { 0.0 },
            diffusion_weight: defaults::diffusion_weight(),
            d_state: defaults::d_state(),
            d_conv: defaults::d_conv(),
            expand: defaults::expand(),
            dt_rank: None,
            norm_eps: defaults::norm_eps(),
            mean_keys: 0,
        }
    }

    /// Every block of a backbone of Mamba's, routed or not.
    pub fn block(&self) -> BlockConfig {
        // As many times the channels give the dense model the weights of all modalities.
        let wider = if self.variant == Variant::WideDense { self.setting.n_modalities() } else { 1 };
        let mixer = MixerConfig {
            n_modalities: self.setting.n_modalities(),
            untied: self.variant.untied(),
            shared_dt_bias: self.variant.shared_dt_bias(),
            d_state: self.d_state,
            d_conv: self.d_conv,
            expand: self.expand * wider,
            dt_rank: self.dt_rank,
            ..MixerConfig::new(self.scale.d_model)
        };
        BlockConfig { mixer, norm_eps: self.norm_eps }
    }

    /// Every block of a transformer, which costs a token what two blocks of the dense model do.
    pub fn transformer(&self) -> TransformerConfig {
        let d_model = self.scale.d_model;
        let budget = self.transformer_budget();
        let tying = match self.variant.architecture() {
            Architecture::Transformer(tying) => tying,
            Architecture::Mamba | Architecture::Routed(_) => Tying::Shared,
        };
        TransformerConfig {
            d_model,
            n_heads: TransformerConfig::heads(d_model),
            d_ff: TransformerConfig::d_ff_for(d_model, budget, self.mean_keys),
            n_modalities: self.setting.n_modalities(),
            tying,
            norm_eps: self.norm_eps,
        }
    }

    /// What a block of a transformer may cost a token forward: two blocks of the dense model.
    fn transformer_budget(&self) -> f64 {
        2.0 * flops::mamba_block(&Self { variant: Variant::Dense, ..self.clone() })
    }

    /// The most that [`Self::mean_keys`] may be for a transformer of this size.
    pub fn most_mean_keys(&self) -> usize {
        TransformerConfig::most_mean_keys(self.scale.d_model, self.transformer_budget())
    }

    /// Weights of the router of each block; 0 where there is none.
    fn router_parameters(&self) -> usize {
        match self.variant {
            Variant::Router => self.setting.n_modalities() * self.scale.d_model,
            _ => 0,
        }
    }

    /// Weights of backbone, embedding and head that a token meets. The patcher of Transfusion is counted apart, see
    /// [`Self::patcher_parameters`].
    pub fn active_parameters(&self) -> usize {
        let of_mamba = self.block().active_parameters() + self.router_parameters();
        self.parameters_with(of_mamba, self.transformer().active_parameters())
    }

    /// Weights of backbone, embedding and head, all modalities together.
    pub fn total_parameters(&self) -> usize {
        let of_mamba = self.block().total_parameters() + self.router_parameters();
        self.parameters_with(of_mamba, self.transformer().total_parameters())
    }

    fn parameters_with(&self, of_mamba: usize, of_transformer: usize) -> usize {
        let d_model = self.scale.d_model;
        let blocks = match self.variant.architecture() {
            Architecture::Mamba | Architecture::Routed(_) => self.scale.n_blocks() * of_mamba,
            Architecture::Transformer(_) => self.scale.n_layers * of_transformer,
        };
        blocks + d_model + 2 * self.vocab_size * d_model
    }

    /// How patches come in and out.
    pub const fn patcher(&self) -> PatcherKind {
        if self.unet.is_some() { PatcherKind::Unet } else { PatcherKind::Linear }
    }

    /// Weights of Transfusion's patcher and timestep embedding; 0 elsewhere.
    pub fn patcher_parameters(&self) -> usize {
        match self.setting {
            Setting::Transfusion => crate::Patcher::n_parameters(self),
            Setting::Chameleon | Setting::ThreeModality => 0,
        }
    }

    /// Checks every value.
    ///
    /// # Errors
    /// [`Error::Config`], naming the field.
    pub fn validate(&self) -> Result<()> {
        require((2..=1 << 24).contains(&self.vocab_size), "vocab_size", "between 2 and 2^24", self.vocab_size)?;
        let patched = self.setting == Setting::Transfusion;
        let expected = if patched { "at least 1 in the Transfusion setting" } else { "0 outside of Transfusion" };
        require((self.patch_dim > 0) == patched, "patch_dim", expected, self.patch_dim)?;
        if let Some(unet) = &self.unet {
            require(patched, "unet", "absent outside of Transfusion", self.setting)?;
            unet.validate(self.patch_dim)?;
        }
        for (field, value) in [("z_loss", self.z_loss), ("diffusion_weight", self.diffusion_weight)] {
            require(value.is_finite() && value >= 0.0, field, "finite and not negative", value)?;
        }
        let fits = (1..=1 << 16).contains(&self.scale.n_layers);
        require(fits, "scale", "between 1 and 65536 layers", self.scale)?;
        if let Architecture::Transformer(_) = self.variant.architecture() {
            let most = self.most_mean_keys();
            let expected = format!(
                "at most {most} at this size, the keys that a query of the data's documents meets on average (about half of their \
                 length): more leaves a token's cost no room for a feed-forward layer"
            );
            require(self.mean_keys <= most, "mean_keys", &expected, self.mean_keys)?;
            self.transformer().validate()?;
        }
        Ok(self.block().validate()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The paper's table, in millions: name, setting, active, total. Counted from the published shapes.
    const COUNTS: [(&str, Setting, f64, f64); 13] = [
        ("163M", Setting::Transfusion, 169.8, 289.4),
        ("760M", Setting::Transfusion, 814.3, 1526.9),
        ("1.4B", Setting::Transfusion, 1400.3, 2665.1),
        ("37M", Setting::Chameleon, 37.1, 40.5),
        ("37M", Setting::ThreeModality, 37.1, 43.9),
        ("94M", Setting::Chameleon, 94.2, 121.0),
        ("94M", Setting::ThreeModality, 94.2, 147.7),
        ("443M", Setting::Chameleon, 454.2, 772.1),
        ("443M", Setting::ThreeModality, 454.2, 1089.9),
        ("880M", Setting::Chameleon, 917.3, 1630.0),
        ("880M", Setting::ThreeModality, 917.3, 2342.6),
        ("1.5B", Setting::Chameleon, 1537.6, 2802.4),
        ("1.5B", Setting::ThreeModality, 1537.6, 4067.2),
    ];

    #[test]
    fn parameter_counts_are_the_papers() {
        for (name, setting, active, total) in COUNTS {
            let config =
                |variant| ModelConfig::new(setting, variant, name.parse().unwrap(), setting.paper_vocab_size());
            let millions = |n: usize| (n as f64 / 1e5).round() / 10.0;
            let mom = config(Variant::Mom);
            assert_eq!(
                (millions(mom.active_parameters()), millions(mom.total_parameters())),
                (active, total),
                "{name}"
            );
            let dense = config(Variant::Dense);
            assert_eq!(dense.total_parameters(), dense.active_parameters());
            assert_eq!(dense.active_parameters(), mom.active_parameters(), "{name}: the same weights are active");
        }
    }

    #[test]
    fn bad_values_are_named() {
        let good = ModelConfig::new(Setting::Chameleon, Variant::Mom, "tiny".parse().unwrap(), 100);
        good.validate().unwrap();
        let message = |config: ModelConfig| config.validate().unwrap_err().to_string();
        let lengthy = ModelConfig { variant: Variant::Transformer, mean_keys: 512, ..good.clone() };
        assert!(message(lengthy).contains("mean_keys must be at most 376 at this size"));
        let patched = ModelConfig { patch_dim: 3, ..good.clone() };
        assert_eq!(message(patched), "configuration: patch_dim must be 0 outside of Transfusion, got 3");
        assert!(message(ModelConfig { z_loss: f64::NAN, ..good.clone() }).contains("z_loss"));
        assert!(message(ModelConfig { d_state: 65, ..good }).contains("d_state must be between 1 and 64, got 65"));
        let error = "2B".parse::<Scale>().unwrap_err().to_string();
        assert!(error.contains("one of nano, tiny") && error.contains("got 2B"), "{error}");
    }

    #[test]
    fn names_are_read_back_and_those_of_files() {
        for setting in Setting::ALL {
            assert_eq!(setting.name().parse::<Setting>().unwrap(), setting);
            assert_eq!(serde_json::to_value(setting).unwrap(), setting.name());
        }
        assert_eq!(Setting::NAMES, ["transfusion", "chameleon", "three-modality"]);
        let message = "four-modality".parse::<Setting>().unwrap_err().to_string();
        assert!(message.contains("one of transfusion, chameleon, three-modality"), "{message}");
    }
}
