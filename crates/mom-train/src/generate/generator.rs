//! A trained model with its tokenizers, and how it is asked to draw.

use std::path::Path;
use std::sync::Arc;

use mom_data::{CodeKind, Content, Modality, RgbImage, Tokenizers};
use mom_models::decode::Sampling;
use mom_models::diffusion::Sampler;
use mom_models::{Model, Setting};

use crate::error::require;
use crate::lease::Lease;
use crate::trained::Trained;
use crate::{DeviceKind, Precision, Result, RunConfig};

/// Weight of the guidance of pictures where nobody asks for another and the model learned to do without a caption.
const GUIDANCE: f64 = 3.0;

/// How tokens and patches are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GenerateOptions {
    /// Seed of all draws.
    pub seed: u64,
    /// Of text tokens, image codes and speech units.
    pub sampling: Sampling,
    /// Diffusion steps of an image (Transfusion).
    pub n_steps: u32,
    /// Weight w of classifier-free guidance of pictures (arXiv 2207.12598): noise or logits are `free + w (given - free)`, where
    /// free is what the model says without anything before the picture; 1 is none. If absent: 3, and none of a model that never
    /// saw a picture with nothing before it.
    pub guidance: Option<f64>,
    /// Tokens of a text, or units of speech, at most.
    pub max_tokens: usize,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self { seed: 0, sampling: Sampling::default(), n_steps: 250, guidance: None, max_tokens: 256 }
    }
}

impl GenerateOptions {
    /// Checks every value that does not depend on the model.
    ///
    /// # Errors
    /// A value out of range, named.
    pub fn validate(&self) -> Result<()> {
        self.sampling.validate()?;
        let guidance = self.guidance.unwrap_or(1.0);
        require(guidance.is_finite(), "guidance", "finite", guidance)?;
        Sampler::new(self.n_steps)?;
        require(self.max_tokens > 0, "max_tokens", "at least 1", self.max_tokens)
    }
}

/// A part that was drawn.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// Text.
    Text(String),
    /// A picture of [`Generator::image_size`].
    Image(RgbImage),
    /// A waveform of [`Generator::sample_rate`], in [-1, 1].
    Speech(Vec<f32>),
    /// Speech that cannot be heard, since its units have no decoder here (HuBERT's): the units, from 0.
    Units(Vec<u32>),
}

/// A trained model with its tokenizers.
#[derive(Debug, Clone)]
pub struct Generator {
    pub(super) tokenizers: Tokenizers,
    pub(super) model: Model,
    /// Whether pictures with nothing before them were trained on.
    pub(super) knows_free_images: bool,
    /// On a GPU, of all clones. What lies there goes before it.
    _lease: Option<Arc<Lease>>,
}

impl Generator {
    /// Loads a model, see [`Trained::open`], to decode on `device` in an element type (the device's own if absent), wherever it
    /// was trained.
    ///
    /// # Errors
    /// As [`Trained::open`] and [`Trained::model`].
    pub fn open(path: &Path, device: DeviceKind, precision: Option<Precision>) -> Result<Self> {
        Self::new(&Trained::open(path)?, device, precision)
    }

    /// As [`Self::open`], of a model that was opened.
    ///
    /// # Errors
    /// As [`Trained::model`]. A trainer of another thread that captures its steps (`train.graph`).
    pub fn new(trained: &Trained, device: DeviceKind, precision: Option<Precision>) -> Result<Self> {
        let lease = Lease::on(device, false)?.map(Arc::new);
        let (model, _) = trained.model(device, precision)?;
        Ok(Self { _lease: lease, ..Self::of(model, trained.tokenizers_on(device)?, trained.run()) })
    }

    /// A model, its tokenizers and how it was or is being trained: for the thread that trains it, where it is on a GPU.
    pub(crate) fn of(model: Model, tokenizers: Tokenizers, config: &RunConfig) -> Self {
        Self { tokenizers, model, knows_free_images: config.forms().has_free_images(), _lease: None }
    }

    pub(crate) fn tokenizers(&self) -> &Tokenizers {
        &self.tokenizers
    }

    /// Side of the images, in pixels.
    pub fn image_size(&self) -> usize {
        self.tokenizers.image_size()
    }

    /// Samples a second of speech.
    pub fn sample_rate(&self) -> u32 {
        self.tokenizers.sample_rate()
    }

    /// What is to be said of speech that the model draws; `None` of speech that its own synthesiser makes.
    pub fn note_of_speech(&self) -> Option<&'static str> {
        match self.tokenizers.config().speech.kind {
            CodeKind::Hubert => {
                Some("HuBERT's units have no decoder here: speech is written as units, and cannot be heard")
            }
            CodeKind::Mimi => Some(
                "speech is decoded from Mimi's first codebook alone, which tells what is said; voice and sound are in the others",
            ),
            CodeKind::Fitted | CodeKind::Precomputed | CodeKind::Vqgan | CodeKind::Vae => None,
        }
    }

    /// Modalities and losses of the model.
    pub fn setting(&self) -> Setting {
        self.model.config().setting
    }

    /// A part that was tokenised by the model's own tokenizers, as somebody looks at it or listens to it.
    ///
    /// # Errors
    /// Codes that are not there; what another program, or weights that are absent, would decode.
    pub(crate) fn part(&self, content: &Content) -> Result<Part> {
        let tokenizers = &self.tokenizers;
        let tokens = |modality, codes: &[u32]| {
            codes.iter().map(|&code| tokenizers.vocabulary().token(modality, code)).collect::<Result<Vec<_>, _>>()
        };
        Ok(match content {
            Content::Text(codes) => Part::Text(tokenizers.decode_text(&tokens(Modality::Text, codes)?)?),
            Content::ImageCodes(codes) => Part::Image(tokenizers.decode_image(&tokens(Modality::Image, codes)?)?),
            Content::Speech(codes) => self.spoken(&tokens(Modality::Speech, codes)?)?,
            Content::Pixels(pixels) => {
                let size = self.image_size();
                Part::Image(RgbImage { width: size, height: size, pixels: pixels.clone() })
            }
            Content::Patches(patches) => Part::Image(tokenizers.decode_patches(patches)?),
        })
    }

    /// Tokens of speech as sound, or as units where they have no decoder.
    pub(super) fn spoken(&self, tokens: &[u32]) -> Result<Part> {
        if self.tokenizers.has_voice()? {
            return Ok(Part::Speech(self.tokenizers.decode_speech(tokens)?));
        }
        let unit = |&token: &u32| self.tokenizers.vocabulary().code(Modality::Speech, token);
        Ok(Part::Units(tokens.iter().map(unit).collect::<Result<_, _>>()?))
    }

    pub(super) fn guidance(&self, options: &GenerateOptions) -> f64 {
        options.guidance.unwrap_or(if self.knows_free_images { GUIDANCE } else { 1.0 })
    }
}
