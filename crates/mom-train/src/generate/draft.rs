//! A document that is being written: parts are given or drawn, one after the other.

use candle_core::DType;
use mom_data::{Content, Modality, RgbImage, Special, Tokenizers, pixels};
use mom_models::decode::Decoder;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::generator::{GenerateOptions, Generator};
use crate::Result;
use crate::error::require;

/// A document from its begin on. What is given waits until something is drawn: it is then read in one pass, and a token that
/// is drawn costs the same however long the document is. A clone is a snapshot.
#[derive(Debug, Clone)]
pub struct Draft<'a> {
    pub(super) generator: &'a Generator,
    pub(super) options: GenerateOptions,
    pub(super) decoder: Decoder<'a>,
    /// Tokens that the decoder has not read yet, with their modalities.
    pub(super) tokens: Vec<u32>,
    pub(super) modalities: Vec<u8>,
    /// Of what follows all that the decoder has read.
    pub(super) logits: Vec<f32>,
    /// Nothing stands in the document yet.
    pub(super) is_empty: bool,
    pub(super) rng: ChaCha8Rng,
}

impl Generator {
    /// A new document.
    ///
    /// # Errors
    /// Options out of range; a guidance that the model was not trained for.
    pub fn draft(&self, options: &GenerateOptions) -> Result<Draft<'_>> {
        options.validate()?;
        if options.guidance.is_some_and(|weight| weight != 1.0) {
            let expected = "1: in training no picture stood without something before it; data.forms.caption_dropout = 0.1 \
                            teaches that";
            require(self.knows_free_images, "guidance", expected, options.guidance.unwrap_or(1.0))?;
        }
        Draft::new(self, options)
    }
}

impl<'a> Draft<'a> {
    fn new(generator: &'a Generator, options: &GenerateOptions) -> Result<Self> {
        Ok(Self {
            generator,
            options: *options,
            decoder: Decoder::new(&generator.model, 1)?,
            tokens: vec![Special::BeginDocument.token()],
            modalities: vec![Modality::Text.id()],
            logits: Vec::new(),
            is_empty: true,
            rng: ChaCha8Rng::seed_from_u64(options.seed),
        })
    }

    /// The same document, to be gone on with by other draws.
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.options.seed = seed;
        self.rng = ChaCha8Rng::seed_from_u64(seed);
        self
    }

    pub(super) fn tokenizers(&self) -> &'a Tokenizers {
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
    /// Another size; a model of pictures that other programs made into codes or latents; weights that are absent.
    pub fn push_image(&mut self, image: &RgbImage) -> Result<()> {
        let size = self.generator.image_size();
        let fits = image.width == size && image.height == size;
        let got = format!("{} x {}", image.width, image.height);
        require(fits, "image", &format!("{size} x {size} pixels"), got)?;
        self.push_content(&self.tokenizers().encode_image(image)?)
    }

    /// Appends speech, a waveform of [`Generator::sample_rate`].
    ///
    /// # Errors
    /// A model without speech; weights that are absent; a waveform too short for a unit.
    pub fn push_speech(&mut self, wave: &[f32]) -> Result<()> {
        let units = self.tokenizers().encode_speech(wave)?;
        require(!units.is_empty(), "speech", "long enough for a unit", format!("{} samples", wave.len()))?;
        self.push_content(&Content::Speech(units))
    }

    /// Appends a part that was tokenised by the model's own tokenizers.
    ///
    /// # Errors
    /// Codes that are not there, values that are no patches of the model.
    pub fn push_content(&mut self, content: &Content) -> Result<()> {
        match content {
            Content::Text(codes) => self.push_codes(Modality::Text, codes),
            Content::ImageCodes(codes) => {
                self.mark(Special::BeginImage);
                self.push_codes(Modality::Image, codes)?;
                self.mark(Special::EndImage);
                Ok(())
            }
            Content::Speech(codes) => {
                self.mark(Special::BeginSpeech);
                self.push_codes(Modality::Speech, codes)?;
                self.mark(Special::EndSpeech);
                Ok(())
            }
            Content::Pixels(pixels) => {
                let (size, patch) = (self.generator.image_size(), self.tokenizers().config().image.patch);
                let mut patches = Vec::new();
                pixels::to_patches(pixels, size, patch, &mut patches)?;
                self.push_patches(&patches)
            }
            Content::Patches(patches) => self.push_patches(patches),
        }
    }

    fn push_patches(&mut self, patches: &[f32]) -> Result<()> {
        self.mark(Special::BeginImage);
        self.read()?;
        self.decoder.push_image(patches)?;
        self.mark(Special::EndImage);
        Ok(())
    }

    pub(super) fn mark(&mut self, special: Special) {
        self.tokens.push(special.token());
        self.modalities.push(Modality::Text.id());
        self.is_empty = false;
    }

    fn push_codes(&mut self, modality: Modality, codes: &[u32]) -> Result<()> {
        let vocabulary = self.tokenizers().vocabulary();
        let tokens = codes.iter().map(|&code| vocabulary.token(modality, code)).collect::<Result<Vec<_>, _>>()?;
        self.modalities.extend(tokens.iter().map(|_| modality.id()));
        self.is_empty &= tokens.is_empty();
        self.tokens.extend(tokens);
        Ok(())
    }

    /// Reads what waits; the logits of what follows all that was read.
    pub(super) fn read(&mut self) -> Result<&[f32]> {
        if !self.tokens.is_empty() {
            let logits = self.decoder.push(&self.tokens, &self.modalities)?;
            self.tokens.clear();
            self.modalities.clear();
            self.logits = mom_core::convert(&logits.flatten_all()?, DType::F32)?.to_vec1::<f32>()?;
        }
        Ok(&self.logits)
    }
}
