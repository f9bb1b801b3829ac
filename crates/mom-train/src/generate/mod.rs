//! Images from captions, and captions from images, with the model of a run.

use std::path::Path;

use candle_core::{DType, Tensor};
use mom_data::{Modality, RgbImage, Special, Tokenizers, pixels};
use mom_models::decode::{Decoder, Guidance, Sampling};
use mom_models::{Model, Setting};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::error::require;
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
    /// Tokens of a caption, at most.
    pub max_tokens: usize,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        let sampling = Sampling { temperature: 1.0, top_k: 0 };
        Self { seed: 0, sampling, n_steps: 250, guidance: 3.0, max_tokens: 256 }
    }
}

/// The model of a run with its tokenizers.
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

    /// An image for a caption.
    ///
    /// # Errors
    /// A caption that the tokenizer refuses; options out of range.
    pub fn image(&self, caption: &str, options: &GenerateOptions) -> Result<RgbImage> {
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
        let mut prompt = vec![Special::BeginDocument.token()];
        for code in self.tokenizers.text().encode(caption)? {
            prompt.push(self.tokenizers.vocabulary().token(Modality::Text, code)?);
        }
        prompt.push(Special::BeginImage.token());
        let mut decoder = Decoder::new(&self.model, 1)?;
        let logits = decoder.push(&prompt, &vec![Modality::Text.id(); prompt.len()])?;
        match self.model.config().setting {
            Setting::Transfusion => {
                let patch = self.tokenizers.config().image.patch;
                let size = self.image_size();
                // Without a caption: what a document that begins with its image looks like.
                let mut free = Decoder::new(&self.model, 1)?;
                free.push(&[Special::BeginDocument.token(), Special::BeginImage.token()], &[Modality::Text.id(); 2])?;
                let guidance = Some(Guidance { free: &free, weight: options.guidance });
                let n_patches = pixels::n_patches(size, patch)?;
                let patches = decoder.sample_image(n_patches, options.n_steps, guidance, &mut rng)?;
                Ok(pixels::from_patches(&patches, size, patch)?)
            }
            Setting::Chameleon | Setting::ThreeModality => {
                let n_codes = (self.image_size() / self.tokenizers.config().image.patch).pow(2);
                let range = self.tokenizers.vocabulary().range(Modality::Image);
                let (mut codes, mut logits) = (Vec::new(), logits);
                while codes.len() < n_codes {
                    let token = options.sampling.draw(&values(&logits)?, |token| range.contains(&token), &mut rng)?;
                    codes.push(token);
                    logits = decoder.push(&[token], &[Modality::Image.id()])?;
                }
                Ok(self.tokenizers.decode_image(&codes)?)
            }
        }
    }

    /// A caption for an image of [`Self::image_size`]: tokens up to where the model ends the document.
    ///
    /// # Errors
    /// An image of another size; options out of range.
    pub fn caption(&self, image: &RgbImage, options: &GenerateOptions) -> Result<String> {
        let size = self.image_size();
        let fits = image.width == size && image.height == size;
        let got = format!("{} x {}", image.width, image.height);
        require(fits, "image", &format!("{size} x {size} pixels"), got)?;
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
        let mut decoder = Decoder::new(&self.model, 1)?;
        decoder.push(&[Special::BeginDocument.token(), Special::BeginImage.token()], &[Modality::Text.id(); 2])?;
        match self.model.config().setting {
            Setting::Transfusion => {
                let patch = self.tokenizers.config().image.patch;
                let mut patches = Vec::new();
                pixels::to_patches(&image.pixels, size, patch, &mut patches)?;
                decoder.push_image(&patches)?;
            }
            Setting::Chameleon | Setting::ThreeModality => {
                for code in self.tokenizers.image_codebook()?.encode(image)? {
                    let token = self.tokenizers.vocabulary().token(Modality::Image, code)?;
                    decoder.push(&[token], &[Modality::Image.id()])?;
                }
            }
        }
        let id = Modality::Text.id();
        let mut logits = decoder.push(&[Special::EndImage.token()], &[id])?;
        let range = self.tokenizers.vocabulary().range(Modality::Text);
        let mut tokens = Vec::new();
        while tokens.len() < options.max_tokens {
            // A caption is not empty; it ends where the document does, or where another part would begin.
            let ends = |token: u32| !tokens.is_empty() && (1..Special::COUNT).contains(&token);
            let allowed = |token: u32| range.contains(&token) || ends(token);
            let token = options.sampling.draw(&values(&logits)?, allowed, &mut rng)?;
            if !range.contains(&token) {
                break;
            }
            tokens.push(token);
            logits = decoder.push(&[token], &[id])?;
        }
        Ok(self.tokenizers.decode_text(&tokens)?)
    }
}

fn values(logits: &Tensor) -> Result<Vec<f32>> {
    Ok(logits.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?)
}
