//! `[model]`: what is trained.

use mom_data::{ImageNeed, Needs, SpeechNeed};
use mom_models::{Scale, Setting, Variant};
use serde::{Deserialize, Serialize};

/// The model; sizes that follow from the data are not in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// transfusion, chameleon or three-modality.
    pub setting: Setting,
    /// dense, mom, mom-alike, published, transformer, mot, router, random-router, wide-dense, or some of in, x, dt, out joined
    /// by +.
    pub variant: Variant,
    /// Size of the backbone: a name, or such as d320-l6. In a file `d_model` and `n_layers` may stand in its place, or beside a
    /// name, for what is other than there. A layer is two blocks.
    pub scale: Scale,
    /// States of a channel.
    #[serde(default = "d_state")]
    pub d_state: usize,
    /// Width of the causal convolution.
    #[serde(default = "d_conv")]
    pub d_conv: usize,
    /// Channels of conv and scan for each feature of the residual stream.
    #[serde(default = "expand")]
    pub expand: usize,
    /// Features between x_proj and dt_proj; ceil(d_model / 16) if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dt_rank: Option<usize>,
    /// Keys that a query of a transformer meets on average: its feed-forward layers are so wide that a token then costs what it
    /// costs in the dense model. Counted over the training split if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_keys: Option<usize>,
    /// Weight of the z-loss; the setting's own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub z_loss: Option<f64>,
    /// Weight of the diffusion loss; the paper's 5 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diffusion_weight: Option<f64>,
}

/// What a setting takes from a sample.
pub(crate) const fn needs(setting: Setting) -> Needs {
    Needs {
        image: if setting.has_patches() { ImageNeed::Patches } else { ImageNeed::Codes },
        speech: if setting.has_speech() { SpeechNeed::Units } else { SpeechNeed::None },
    }
}

const fn d_state() -> usize {
    16
}

const fn d_conv() -> usize {
    4
}

const fn expand() -> usize {
    2
}

impl ModelSection {
    /// A model with Mamba's sizes and the paper's losses.
    pub fn new(setting: Setting, variant: Variant, scale: Scale) -> Self {
        Self {
            setting,
            variant,
            scale,
            d_state: d_state(),
            d_conv: d_conv(),
            expand: expand(),
            dt_rank: None,
            mean_keys: None,
            z_loss: None,
            diffusion_weight: None,
        }
    }
}
