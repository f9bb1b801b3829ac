//! Tokenizers whose networks are not of this crate: published ones, which need a tensor library.
//!
//! Whoever has one implements a trait over it and attaches it ([`Tokenizers::with_external`]); from there on raw media become
//! codes or latents as if those had stood in the data. What tokens were made by is kept as an identity, so that they are
//! known again, and can be trained on, where the network itself is not there.

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{CodeKind, Tokenizers};
use crate::error::require;
use crate::media::image::Preparation;
use crate::needs::{ImageNeed, SpeechNeed};
use crate::pixels::RgbImage;
use crate::{DataError, Modality, Result};

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

/// A file that tokens were made with: where it lay, and what it is known again by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileReference {
    /// Where it lay.
    pub path: PathBuf,
    /// BLAKE3 of its bytes, in hexadecimal.
    pub blake3: String,
}

impl std::fmt::Display for FileReference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (BLAKE3 {})", self.path.display(), self.blake3)
    }
}

/// A tokenizer of pictures.
pub trait ImageTokenizer: Debug + Send + Sync {
    /// A hash of everything that its tokens depend on but the picture.
    fn identity(&self) -> String;

    /// The files that it was opened from.
    fn files(&self) -> Vec<FileReference> {
        Vec::new()
    }

    /// Rows and columns of the codes or latents of a picture; `None` where they depend on the picture.
    fn grid(&self) -> Option<[usize; 2]> {
        None
    }

    /// True if tokens can become pictures.
    fn has_decoder(&self) -> bool {
        true
    }

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

    /// The files that it was opened from.
    fn files(&self) -> Vec<FileReference> {
        Vec::new()
    }

    /// True if units can become sound.
    fn has_decoder(&self) -> bool {
        true
    }

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
    /// The files of the tokenizer of pictures.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub image_files: Vec<FileReference>,
    /// The files of the tokenizer of speech.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub speech_files: Vec<FileReference>,
}

impl ExternalIdentities {
    /// True without any.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What tokens depend on: files may lie anywhere, and are in the identities by their bytes.
    pub(super) fn without_files(&self) -> Self {
        Self { image_files: Vec::new(), speech_files: Vec::new(), ..self.clone() }
    }
}

/// Why a tokenizer that tokens were made by is not attached.
#[derive(Debug, Clone, Default)]
pub(super) struct Absent {
    image: Option<String>,
    speech: Option<String>,
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
            check_kind("tokenizers.image.kind", config.kind, &[CodeKind::Vqgan, CodeKind::Vae])?;
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
            self.identities.image_files = image.files();
        }
        if let Some(speech) = &external.speech {
            let config = &self.config.speech;
            check_kind("tokenizers.speech.kind", config.kind, &[CodeKind::Mimi, CodeKind::Hubert])?;
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
            self.identities.speech_files = speech.files();
        }
        self.external.image = external.image.or(self.external.image);
        self.external.speech = external.speech.or(self.external.speech);
        Ok(self)
    }

    /// These tokenizers, with the reason for which the external tokenizer of a modality is not attached: it is told where that
    /// is needed.
    pub fn with_absent(mut self, modality: Modality, reason: String) -> Self {
        match modality {
            Modality::Image => self.absent.image = Some(reason),
            Modality::Speech => self.absent.speech = Some(reason),
            Modality::Text => {}
        }
        self
    }

    /// These tokenizers without their external ones, whose networks can be given back: what they made stays known.
    pub fn detached(mut self, reason: &str) -> Self {
        self.external = External::default();
        let reason = Some(reason.to_owned());
        self.absent = Absent { image: reason.clone(), speech: reason };
        self
    }

    /// What raw media are, or were, encoded by.
    pub fn external_identities(&self) -> &ExternalIdentities {
        &self.identities
    }

    /// The external tokenizer of pictures; `None` where pictures have none.
    ///
    /// # Errors
    /// [`DataError::Absent`] or [`DataError::Missing`] if there was one, and it is not attached.
    pub fn external_image(&self) -> Result<Option<&dyn ImageTokenizer>> {
        match (&self.external.image, &self.identities.image) {
            (Some(image), _) => Ok(Some(&**image)),
            (None, Some(_)) => {
                let files = &self.identities.image_files;
                Err(missing("the image tokenizer's weights", files, self.absent.image.as_deref()))
            }
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
            (None, Some(_)) => {
                let files = &self.identities.speech_files;
                Err(missing("the speech tokenizer's weights", files, self.absent.speech.as_deref()))
            }
            (None, None) => Ok(None),
        }
    }
}

fn missing(what: &'static str, files: &[FileReference], reason: Option<&str>) -> DataError {
    if files.is_empty() && reason.is_none() {
        return DataError::Missing { what, holder: "tokenizers" };
    }
    let expected = files.iter().map(FileReference::to_string).collect::<Vec<_>>().join(", ");
    DataError::Absent { what, expected, reason: reason.unwrap_or("they are not attached").to_owned() }
}

fn check_kind(field: &'static str, kind: CodeKind, networks: &[CodeKind]) -> Result<()> {
    let names = networks.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ");
    let expected = format!("one of {names}, precomputed where a network makes the tokens");
    require(kind == CodeKind::Precomputed || networks.contains(&kind), field, &expected, kind.name())
}

fn attach(known: &mut Option<String>, identity: String, field: &'static str) -> Result<()> {
    if let Some(known) = known {
        require(*known == identity, field, &format!("those of {known}, which tokens were made by"), &identity)?;
    }
    *known = Some(identity);
    Ok(())
}
