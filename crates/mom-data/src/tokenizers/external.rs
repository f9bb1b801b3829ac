//! Tokenizers whose networks are not of this crate: published ones, which need a tensor library.
//!
//! Whoever has one implements a trait over it and attaches it ([`Tokenizers::with_external`]); from there on raw media become
//! codes or latents as if those had stood in the data. What tokens were made by is kept as an identity, so that they are
//! known again, and can be trained on, where the network itself is not there.

use std::fmt::Debug;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{CodeKind, Tokenizers};
use crate::error::require;
use crate::media::image::Preparation;
use crate::needs::{ImageNeed, SpeechNeed};
use crate::pixels::RgbImage;
use crate::{DataError, Result};

/// What an external tokenizer makes of a picture.
#[derive(Debug, Clone, PartialEq)]
pub enum ImageTokens {
    /// Codes (rows, columns), row-major, from 0.
    Codes {
        /// Rows and columns.
        shape: [usize; 2],
        /// The codes.
        values: Vec<u32>,
    },
    /// Latents (channels, rows, columns), all finite.
    Latents {
        /// Channels, rows, columns.
        shape: [usize; 3],
        /// The values.
        values: Vec<f32>,
    },
}

/// Which of the two, and of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageForm {
    /// Codes.
    Codes {
        /// Codes that there are.
        n_codes: usize,
    },
    /// Latents.
    Latents {
        /// Channels of them.
        channels: usize,
    },
}

/// A tokenizer of pictures.
pub trait ImageTokenizer: Debug + Send + Sync {
    /// A hash of everything that its tokens depend on but the picture.
    fn identity(&self) -> String;

    /// How pictures are made ready for it.
    fn preparation(&self) -> Preparation;

    /// What pictures become.
    fn form(&self) -> ImageForm;

    /// Pictures that are best encoded together.
    fn batch(&self) -> usize;

    /// Encodes pictures of one size. `keys` tells them apart over all data: what is drawn is a function of them.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] if the network fails; the work ends with it.
    fn encode(&self, pictures: &[RgbImage], keys: &[u64]) -> Result<Vec<ImageTokens>>;

    /// The picture of tokens.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] for tokens that are none, or a network without a decoder.
    fn decode(&self, tokens: &ImageTokens) -> Result<RgbImage>;
}

/// A tokenizer of speech.
pub trait SpeechTokenizer: Debug + Send + Sync {
    /// A hash of everything that its units depend on but the sound.
    fn identity(&self) -> String;

    /// Samples a second of the sound that it takes, in Hz.
    fn sample_rate(&self) -> u32;

    /// Units that there are.
    fn n_units(&self) -> usize;

    /// Units of mono sounds, from 0, runs kept; none for a sound that is too short for one.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] if the network fails; the work ends with it.
    fn encode(&self, sounds: &[Vec<f32>]) -> Result<Vec<Vec<u32>>>;

    /// The sound of units.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] for units that are none, or a network without a decoder.
    fn decode(&self, units: &[u32]) -> Result<Vec<f32>>;
}

/// The external tokenizers of a run, at most one of a modality.
#[derive(Debug, Clone, Default)]
pub struct External {
    /// Of pictures.
    pub image: Option<Arc<dyn ImageTokenizer>>,
    /// Of speech.
    pub speech: Option<Arc<dyn SpeechTokenizer>>,
}

/// What tokens were made by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExternalIdentities {
    /// Of pictures; none: by no external tokenizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Of speech.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speech: Option<String>,
}

impl ExternalIdentities {
    /// True without any.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Tokenizers {
    /// These tokenizers with external ones, for modalities whose tokens are configured as precomputed.
    ///
    /// # Errors
    /// [`DataError::Config`] for a modality that is not, another form or number of tokens than configured, or a tokenizer
    /// other than the one that was attached before.
    pub fn with_external(mut self, external: External) -> Result<Self> {
        if let Some(image) = &external.image {
            let config = &self.config.image;
            check_kind("tokenizers.image.kind", config.kind)?;
            match (image.form(), self.needs.image) {
                (ImageForm::Codes { n_codes }, ImageNeed::Codes) => {
                    require(
                        config.codes == n_codes,
                        "tokenizers.image.codes",
                        &format!("the weights' {n_codes}"),
                        config.codes,
                    )?;
                }
                (ImageForm::Latents { channels }, ImageNeed::Patches) => {
                    let expected = format!("the weights' {channels}");
                    require(config.channels == channels, "tokenizers.image.channels", &expected, config.channels)?;
                }
                (_, ImageNeed::None) => {}
                (form, need) => {
                    require(false, "tokenizers.image.weights", &format!("for {need:?}"), format!("{form:?}"))?
                }
            }
            attach(&mut self.identities.image, image.identity(), "tokenizers.image.weights")?;
        }
        if let Some(speech) = &external.speech {
            let config = &self.config.speech;
            check_kind("tokenizers.speech.kind", config.kind)?;
            if self.needs.speech == SpeechNeed::Units {
                let n_units = speech.n_units();
                require(
                    config.units == n_units,
                    "tokenizers.speech.units",
                    &format!("the weights' {n_units}"),
                    config.units,
                )?;
            }
            attach(&mut self.identities.speech, speech.identity(), "tokenizers.speech.weights")?;
        }
        self.external.image = external.image.or(self.external.image);
        self.external.speech = external.speech.or(self.external.speech);
        Ok(self)
    }

    /// What raw media are, or were, encoded by.
    pub fn external_identities(&self) -> &ExternalIdentities {
        &self.identities
    }

    /// The external tokenizer of pictures; `None` where pictures have none.
    ///
    /// # Errors
    /// [`DataError::Missing`] if there was one, and it is not attached.
    pub fn external_image(&self) -> Result<Option<&dyn ImageTokenizer>> {
        match (&self.external.image, &self.identities.image) {
            (Some(image), _) => Ok(Some(&**image)),
            (None, Some(_)) => Err(missing("the image tokenizer's weights")),
            (None, None) => Ok(None),
        }
    }

    /// The external tokenizer of speech; `None` where speech has none.
    ///
    /// # Errors
    /// As [`Self::external_image`].
    pub fn external_speech(&self) -> Result<Option<&dyn SpeechTokenizer>> {
        match (&self.external.speech, &self.identities.speech) {
            (Some(speech), _) => Ok(Some(&**speech)),
            (None, Some(_)) => Err(missing("the speech tokenizer's weights")),
            (None, None) => Ok(None),
        }
    }
}

fn missing(what: &'static str) -> DataError {
    DataError::Missing { what, holder: "tokenizers" }
}

fn check_kind(field: &'static str, kind: CodeKind) -> Result<()> {
    require(
        kind == CodeKind::Precomputed,
        field,
        "\"precomputed\" where a network makes the tokens",
        format!("{kind:?}"),
    )
}

fn attach(known: &mut Option<String>, identity: String, field: &'static str) -> Result<()> {
    if let Some(known) = known {
        require(*known == identity, field, &format!("those of {known}, which tokens were made by"), &identity)?;
    }
    *known = Some(identity);
    Ok(())
}
