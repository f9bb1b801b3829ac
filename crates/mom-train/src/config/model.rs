//! `[model]`: what is trained.

use mom_data::{CodeKind, ImageConfig, ImageNeed, Needs, SpeechNeed};
use mom_models::{PatchOrder, PatcherKind, Scale, Setting, UnetConfig, Variant};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::error::require;

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
    /// How patches of pictures come in and out, in Transfusion: linear, or unet.
    #[serde(default)]
    pub patcher: PatcherKind,
    /// Channels of the U-Net's upper level, a multiple of 8; a quarter of d_model if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unet_width: Option<usize>,
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
    /// The U-Net around patches of pictures as the data have them.
    ///
    /// # Errors
    /// One where the setting has no patches, a width where there is no U-Net, patches that have no half.
    pub(super) fn unet(&self, image: &ImageConfig) -> Result<Option<UnetConfig>> {
        if self.patcher == PatcherKind::Linear {
            let got = self.unet_width.unwrap_or_default();
            require(self.unet_width.is_none(), "model.unet_width", "absent but for model.patcher = \"unet\"", got)?;
            return Ok(None);
        }
        let patched = self.setting == Setting::Transfusion;
        require(patched, "model.patcher", &format!("linear in the setting {}", self.setting), self.patcher)?;
        let even = image.patch.is_multiple_of(2);
        let expected = "even for model.patcher = \"unet\", whose upper level has half of a patch for its positions";
        require(even, "data.tokenizers.image.patch", expected, image.patch)?;
        let knows = image.square || image.kind != CodeKind::Precomputed;
        let expected = "true for model.patcher = \"unet\", which knows the number of a picture's patches alone";
        require(knows, "data.tokenizers.image.square", expected, image.square)?;
        let width = self.unet_width.unwrap_or(UnetConfig::width_for(self.scale.d_model));
        let fits = (8..=4096).contains(&width) && width.is_multiple_of(8);
        require(fits, "model.unet_width", "a multiple of 8 from 8 to 4096", width)?;
        Ok(Some(UnetConfig {
            channels: image.patch_dim() / (image.patch * image.patch).max(1),
            order: if image.kind == CodeKind::Fitted { PatchOrder::ChannelsLast } else { PatchOrder::ChannelsFirst },
            width,
        }))
    }

    /// A model with Mamba's sizes and the paper's losses.
    pub fn new(setting: Setting, variant: Variant, scale: Scale) -> Self {
        Self {
            setting,
            variant,
            scale,
            patcher: PatcherKind::Linear,
            unet_width: None,
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
