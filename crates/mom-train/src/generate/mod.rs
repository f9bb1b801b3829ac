//! Documents that a trained model goes on with: text, pictures and speech are given, text and pictures are drawn.

mod draft;

use std::path::Path;

pub use draft::Draft;
use mom_data::{RgbImage, Tokenizers};
use mom_models::Model;
use mom_models::decode::Sampling;

use crate::trained::Trained;
use crate::{DeviceKind, Precision, Result};

/// How tokens and patches are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GenerateOptions {
    /// Seed of all draws.
    pub seed: u64,
    /// Of text tokens and image codes.
    pub sampling: Sampling,
    /// Diffusion steps of an image (Transfusion).
    pub n_steps: u32,
    /// Weight of classifier-free guidance (Transfusion); 1 is none.
    pub guidance: f64,
    /// Tokens of a text, at most.
    pub max_tokens: usize,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self { seed: 0, sampling: Sampling::default(), n_steps: 250, guidance: 3.0, max_tokens: 256 }
    }
}

/// A trained model with its tokenizers.
#[derive(Debug)]
pub struct Generator {
    tokenizers: Tokenizers,
    model: Model,
}

impl Generator {
    /// Loads a model, see [`Trained::open`], to decode on `device` in an element type (the device's own if absent), wherever it
    /// was trained.
    ///
    /// # Errors
    /// As [`Trained::open`] and [`Trained::model`].
    pub fn open(path: &Path, device: DeviceKind, precision: Option<Precision>) -> Result<Self> {
        let trained = Trained::open(path)?;
        let (model, _) = trained.model(device, precision)?;
        Ok(Self { tokenizers: trained.tokenizers().clone(), model })
    }

    /// Side of the images, in pixels.
    pub fn image_size(&self) -> usize {
        self.tokenizers.config().image.size
    }

    /// Samples a second of speech.
    pub fn sample_rate(&self) -> u32 {
        self.tokenizers.config().speech.sample_rate
    }

    /// A new document.
    ///
    /// # Errors
    /// Options out of range.
    pub fn draft(&self, options: &GenerateOptions) -> Result<Draft<'_>> {
        Draft::new(self, options)
    }

    /// An image for a caption.
    ///
    /// # Errors
    /// A caption that the tokenizer refuses; options out of range.
    pub fn image(&self, caption: &str, options: &GenerateOptions) -> Result<RgbImage> {
        let mut draft = self.draft(options)?;
        draft.push_text(caption)?;
        draft.draw_image()
    }

    /// A caption for an image of [`Self::image_size`].
    ///
    /// # Errors
    /// An image of another size; options out of range.
    pub fn caption(&self, image: &RgbImage, options: &GenerateOptions) -> Result<String> {
        let mut draft = self.draft(options)?;
        draft.push_image(image)?;
        draft.draw_text()
    }
}
