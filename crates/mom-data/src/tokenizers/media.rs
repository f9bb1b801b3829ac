//! Single pictures and sounds to tokens and back, by whichever tokenizer there is: this crate's own or an external one.

use std::slice;

use super::{CodeKind, ImageTokens, Repeats, Tokenizers};
use crate::document::Content;
use crate::media::image::Preparation;
use crate::needs::ImageNeed;
use crate::pixels::{self, RgbImage};
use crate::vocabulary::Modality;
use crate::{DataError, Result, latents, rng};

impl Tokenizers {
    /// Side of the pictures, in pixels.
    pub fn image_size(&self) -> usize {
        match self.external.image.as_ref().map(|image| image.preparation()) {
            Some(Preparation::Square { size }) => size,
            _ => self.config.image.size,
        }
    }

    /// Samples a second of speech, in Hz.
    pub fn sample_rate(&self) -> u32 {
        self.external.speech.as_ref().map_or(self.config.speech.sample_rate, |speech| speech.sample_rate())
    }

    /// Positions that a picture takes: codes, or patches.
    ///
    /// # Errors
    /// [`DataError::Absent`] without the weights; [`DataError::Missing`] where other programs made the tokens;
    /// [`DataError::Config`] if the patch does not divide the picture.
    pub fn image_positions(&self) -> Result<usize> {
        let config = &self.config.image;
        let Some(external) = self.external_image()? else {
            return match (self.needs.image, config.kind) {
                (ImageNeed::Codes, _) => {
                    self.image_codebook()?;
                    pixels::n_patches(config.size, config.patch)
                }
                (ImageNeed::Patches, CodeKind::Fitted) => pixels::n_patches(config.size, config.patch),
                _ => Err(no_pictures()),
            };
        };
        let [rows, columns] = external.grid().ok_or_else(no_pictures)?;
        if self.needs.image == ImageNeed::Codes {
            return Ok(rows * columns);
        }
        let patch = config.patch;
        let fits = patch > 0 && rows > 0 && columns > 0 && rows.is_multiple_of(patch) && columns.is_multiple_of(patch);
        let expected = format!("a divisor of the latents' sides, {rows} x {columns}");
        crate::error::require(fits, "tokenizers.image.patch", &expected, patch)?;
        Ok((rows / patch) * (columns / patch))
    }

    /// What a picture of [`Self::image_size`] becomes in a document.
    ///
    /// # Errors
    /// As [`Self::image_positions`]; [`DataError::Length`] for a picture of another size; what an external tokenizer
    /// reports.
    pub fn encode_image(&self, image: &RgbImage) -> Result<Content> {
        let config = &self.config.image;
        if let Some(external) = self.external_image()? {
            let key = rng::stable_hash(&image.pixels);
            let tokens = external.encode(slice::from_ref(image), &[key])?.pop();
            return match tokens.ok_or(DataError::Length { what: "pictures", expected: 1, got: 0 })? {
                ImageTokens::Codes { values, .. } => Ok(Content::ImageCodes(values)),
                ImageTokens::Latents { shape, values } => {
                    Ok(Content::Patches(latents::to_patches(&shape, &values, config.channels, config.patch)?))
                }
            };
        }
        match (self.needs.image, config.kind) {
            (ImageNeed::Codes, _) => Ok(Content::ImageCodes(self.image_codebook()?.encode(image)?)),
            (ImageNeed::Patches, CodeKind::Fitted) => {
                pixels::check_length("pixels", config.size * config.size * 3, image.pixels.len())?;
                Ok(Content::Pixels(image.pixels.clone()))
            }
            _ => Err(no_pictures()),
        }
    }

    /// The image of vocabulary tokens (n_codes), all of them image codes, row-major, by the codebook or the external tokenizer.
    ///
    /// # Errors
    /// [`DataError::Missing`] without an image codebook; [`DataError::Absent`] without the weights; [`DataError::Token`] for
    /// another token; [`DataError::Length`] for a wrong number of codes.
    pub fn decode_image(&self, tokens: &[u32]) -> Result<RgbImage> {
        let codes: Vec<u32> =
            tokens.iter().map(|&token| self.vocabulary.code(Modality::Image, token)).collect::<Result<_>>()?;
        let Some(external) = self.external_image()? else { return self.image_codebook()?.decode(&codes) };
        // Pictures are squares where nobody tells.
        let side = codes.len().isqrt();
        let [rows, columns] =
            external.grid().filter(|[rows, columns]| rows * columns == codes.len()).unwrap_or([side; 2]);
        pixels::check_length("codes of a picture", rows * columns, codes.len())?;
        external.decode(&ImageTokens::Codes { shape: [rows, columns], values: codes })
    }

    /// The picture of continuous patches (n_patches, patch_dim): of pixels, or of an external tokenizer's latents.
    ///
    /// # Errors
    /// As [`Self::image_positions`]; [`DataError::Latents`] and [`DataError::Length`] for too many or few values.
    pub fn decode_patches(&self, patches: &[f32]) -> Result<RgbImage> {
        let config = &self.config.image;
        match self.external_image()? {
            Some(external) => {
                let [rows, columns] = external.grid().ok_or_else(no_pictures)?;
                let values = latents::from_patches(patches, config.channels, rows, columns, config.patch)?;
                external.decode(&ImageTokens::Latents { shape: [config.channels, rows, columns], values })
            }
            None if config.kind == CodeKind::Fitted => pixels::from_patches(patches, config.size, config.patch),
            None => Err(no_pictures()),
        }
    }

    /// Fails unless tokens of this model's pictures can become pictures.
    ///
    /// # Errors
    /// As [`Self::image_positions`]; [`DataError::Tokenizer`] for weights without a decoder.
    pub fn check_pictures(&self) -> Result<()> {
        self.image_positions()?;
        match self.external_image()? {
            Some(external) if !external.has_decoder() => {
                let files = external.files();
                let files = files.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let reason = format!("its weights have no decoder, so that no picture can be made of codes: {files}");
                Err(DataError::Tokenizer { what: "image codec", reason })
            }
            _ => Ok(()),
        }
    }

    /// Units of a waveform at [`Self::sample_rate`], runs merged where they are in the data; none if it is too short.
    ///
    /// # Errors
    /// [`DataError::Missing`] without speech; [`DataError::Absent`] without the weights; what an external tokenizer reports.
    pub fn encode_speech(&self, wave: &[f32]) -> Result<Vec<u32>> {
        let Some(external) = self.external_speech()? else { return Ok(self.speech_codebook()?.encode(wave)) };
        let mut units = external.encode(&[wave.to_vec()])?.pop().unwrap_or_default();
        if self.config.speech.repeats == Repeats::Merged {
            units.dedup();
        }
        Ok(units)
    }

    /// True if units can become sound: HuBERT's cannot, whether its weights are here or not.
    ///
    /// # Errors
    /// [`DataError::Missing`] without speech; [`DataError::Absent`] without the weights.
    pub fn has_voice(&self) -> Result<bool> {
        if self.config.speech.kind == CodeKind::Hubert {
            return Ok(false);
        }
        match self.external_speech()? {
            Some(external) => Ok(external.has_decoder()),
            None => self.speech_codebook().map(|_| true),
        }
    }

    /// The waveform of vocabulary tokens (n_units), all of them speech units: mono samples at [`Self::sample_rate`]; empty for
    /// no token. See [`super::SpeechCodebook::synthesize`].
    ///
    /// # Errors
    /// [`DataError::Missing`] without a speech codebook; [`DataError::Absent`] without the weights; [`DataError::Token`] for
    /// another token; [`DataError::Tokenizer`] of a network without a decoder.
    pub fn decode_speech(&self, tokens: &[u32]) -> Result<Vec<f32>> {
        let units: Vec<u32> =
            tokens.iter().map(|&token| self.vocabulary.code(Modality::Speech, token)).collect::<Result<_>>()?;
        match self.external_speech()? {
            Some(external) => external.decode(&units),
            None => self.speech_codebook()?.synthesize(&units),
        }
    }
}

/// Of a model whose pictures other programs made into tokens.
fn no_pictures() -> DataError {
    DataError::Missing { what: "pictures (its tokens were made by another program)", holder: "tokenizers" }
}
