//! `[model]`: what is trained.

use mom_data::Needs;
use mom_models::{Scale, Setting, Variant};
use serde::{Deserialize, Serialize};

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
    #[serde(default = "d_state")]
    pub d_state: usize,
    /// Weight of the z-loss; the setting's own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub z_loss: Option<f64>,
    /// Weight of the diffusion loss; the paper's 5 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diffusion_weight: Option<f64>,
}

/// What a setting takes from a sample.
pub(crate) const fn needs(setting: Setting) -> Needs {
    match setting {
        Setting::Transfusion => Needs::PATCHES,
        Setting::Chameleon => Needs::CODES,
        Setting::ThreeModality => Needs::CODES_AND_UNITS,
    }
}

const fn d_state() -> usize {
    16
}
