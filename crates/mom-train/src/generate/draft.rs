//! A document that is being written: parts are given or drawn, one after the other.

use candle_core::{DType, Tensor};
use mom_data::{Modality, RgbImage, Special, Tokenizers, pixels};
use mom_models::Setting;
use mom_models::decode::{Decoder, Guidance};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{GenerateOptions, Generator};
use crate::Result;
use crate::error::require;

/// A document from its begin on. What is given waits until something is drawn: it is then read in one pass, and a token that
/// is drawn costs the same however long the document is.
#[derive(Debug)]
pub struct Draft<'a> {
    generator: &'a Generator,
    options: GenerateOptions,
    decoder: Decoder<'a>,
    /// Tokens that the decoder has not read yet, with their modalities.
    tokens: Vec<u32>,
    modalities: Vec<u8>,
    rng: ChaCha8Rng,
}

impl<'a> Draft<'a> {
    pub(super) fn new(generator: &'a Generator, options: &GenerateOptions) -> Result<Self> {
        options.sampling.validate()?;
        require(options.guidance.is_finite(), "guidance", "finite", options.guidance)?;
        Ok(Self {
            generator,
            options: *options,
            decoder: Decoder::new(&generator.model, 1)?,
            tokens: vec![Special::BeginDocument.token()],
            modalities: vec![Modality::Text.id()],
            rng: ChaCha8Rng::seed_from_u64(options.seed),
        })
    }

    fn tokenizers(&self) -> &'a Tokenizers {
        &self.generator.tokenizers
    }

    /// Appends text.
    ///
    /// # Errors
    /// Text that the tokenizer refuses.
    pub fn push_text(&mut self, text: &str) -> Result<()> {
        let codes = self.tokenizers().text().encode(text)?;
        self.push_codes(Modality::Text, &codes)
    }

    /// Appends a picture of [`Generator::image_size`] pixels.
    ///
    /// # Errors
    /// Another size.
    pub fn push_image(&mut self, image: &RgbImage) -> Result<()> {
        let size = self.generator.image_size();
        let fits = image.width == size && image.height == size;
        let got = format!("{} x {}", image.width, image.height);
        require(fits, "image", &format!("{size} x {size} pixels"), got)?;
        self.mark(Special::BeginImage);
        match self.generator.model.config().setting {
            Setting::Transfusion => {
                let mut patches = Vec::new();
                pixels::to_patches(&image.pixels, size, self.tokenizers().config().image.patch, &mut patches)?;
                self.read()?;
                self.decoder.push_image(&patches)?;
            }
            Setting::Chameleon | Setting::ThreeModality => {
                let codes = self.tokenizers().image_codebook()?.encode(image)?;
                self.push_codes(Modality::Image, &codes)?;
            }
        }
        self.mark(Special::EndImage);
        Ok(())
    }

    /// Appends speech, a waveform of [`Generator::sample_rate`].
    ///
    /// # Errors
    /// A model without speech; a waveform too short for a unit.
    pub fn push_speech(&mut self, wave: &[f32]) -> Result<()> {
        let units = self.tokenizers().speech_codebook()?.encode(wave);
        require(!units.is_empty(), "speech", "long enough for a unit", format!("{} samples", wave.len()))?;
        self.mark(Special::BeginSpeech);
        self.push_codes(Modality::Speech, &units)?;
        self.mark(Special::EndSpeech);
        Ok(())
    }

    /// Draws text: up to where the model ends the document or begins another part, or up to as many tokens as the options
    /// allow. It is not empty.
    ///
    /// # Errors
    /// What the model reports.
    pub fn draw_text(&mut self) -> Result<String> {
        let range = self.tokenizers().vocabulary().range(Modality::Text);
        let mut logits = self.read()?;
        let mut tokens = Vec::new();
        while tokens.len() < self.options.max_tokens {
            let ends = |token: u32| !tokens.is_empty() && (1..Special::COUNT).contains(&token);
            let allowed = |token: u32| range.contains(&token) || ends(token);
            let token = self.options.sampling.draw(&values(&logits)?, allowed, &mut self.rng)?;
            if !range.contains(&token) {
                break;
            }
            tokens.push(token);
            logits = self.decoder.push(&[token], &[Modality::Text.id()])?;
        }
        Ok(self.tokenizers().decode_text(&tokens)?)
    }

    /// Draws a picture.
    ///
    /// # Errors
    /// Options out of range.
    pub fn draw_image(&mut self) -> Result<RgbImage> {
        self.mark(Special::BeginImage);
        let mut logits = self.read()?;
        let (size, patch) = (self.generator.image_size(), self.tokenizers().config().image.patch);
        let image = match self.generator.model.config().setting {
            Setting::Transfusion => {
                // Without what stands before: what a document that begins with its image looks like.
                let mut free = Decoder::new(&self.generator.model, 1)?;
                free.push(&[Special::BeginDocument.token(), Special::BeginImage.token()], &[Modality::Text.id(); 2])?;
                let guidance = Some(Guidance { free: &free, weight: self.options.guidance });
                let n_patches = pixels::n_patches(size, patch)?;
                let patches = self.decoder.sample_image(n_patches, self.options.n_steps, guidance, &mut self.rng)?;
                pixels::from_patches(&patches, size, patch)?
            }
            Setting::Chameleon | Setting::ThreeModality => {
                let range = self.tokenizers().vocabulary().range(Modality::Image);
                let mut codes = Vec::new();
                while codes.len() < (size / patch).pow(2) {
                    let draw = |token: u32| range.contains(&token);
                    let token = self.options.sampling.draw(&values(&logits)?, draw, &mut self.rng)?;
                    codes.push(token);
                    logits = self.decoder.push(&[token], &[Modality::Image.id()])?;
                }
                self.tokenizers().decode_image(&codes)?
            }
        };
        self.mark(Special::EndImage);
        Ok(image)
    }

    fn mark(&mut self, special: Special) {
        self.tokens.push(special.token());
        self.modalities.push(Modality::Text.id());
    }

    fn push_codes(&mut self, modality: Modality, codes: &[u32]) -> Result<()> {
        for &code in codes {
            self.tokens.push(self.tokenizers().vocabulary().token(modality, code)?);
            self.modalities.push(modality.id());
        }
        Ok(())
    }

    /// Reads what waits; the logits of what follows it.
    fn read(&mut self) -> Result<Tensor> {
        let logits = self.decoder.push(&self.tokens, &self.modalities)?;
        self.tokens.clear();
        self.modalities.clear();
        Ok(logits)
    }
}

fn values(logits: &Tensor) -> Result<Vec<f32>> {
    Ok(logits.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?)
}
