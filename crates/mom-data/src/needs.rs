//! What a setting takes from a sample.

use serde::{Deserialize, Serialize};

/// What is taken from an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageNeed {
    /// Nothing.
    #[default]
    None,
    /// Continuous patches, of pixels or of ready latents.
    Patches,
    /// Codes.
    Codes,
}

/// What is taken from a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpeechNeed {
    /// Nothing.
    #[default]
    None,
    /// Units.
    Units,
}

/// What is taken from a sample, beside its text. No part has to be there: a document is made of what a sample has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Needs {
    /// From an image.
    pub image: ImageNeed,
    /// From a recording.
    pub speech: SpeechNeed,
}

impl Needs {
    /// Text and continuous images (Transfusion).
    pub const PATCHES: Self = Self { image: ImageNeed::Patches, speech: SpeechNeed::None };
    /// Text and image codes (Chameleon).
    pub const CODES: Self = Self { image: ImageNeed::Codes, speech: SpeechNeed::None };
    /// Text, image codes and speech units (three modalities).
    pub const CODES_AND_UNITS: Self = Self { image: ImageNeed::Codes, speech: SpeechNeed::Units };
}
