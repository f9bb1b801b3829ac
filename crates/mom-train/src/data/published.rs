//! Published codecs as tokenizers of the data: networks of `mom_models::codecs` behind the traits of `mom_data`.

use mom_data::media::image::Preparation;
use mom_data::{DataError, FileReference, ImageForm, ImageTokenizer, ImageTokens, RgbImage, SpeechTokenizer};
use mom_models::codecs::{Draw, Encoded, ImageCodec, ImageForm as CodecForm, SpeechCodec, WeightsReference};

use crate::Result;
use crate::error::require;

/// Which latents are trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Latents {
    /// The mean of their distribution.
    Mean,
    /// One draw for each picture, a function of this seed and of the picture's place in the data.
    Drawn {
        /// The seed.
        seed: u64,
    },
}

/// An image codec for pictures of one size: the shorter side to `size` pixels, the square in the middle.
#[derive(Debug)]
pub struct PublishedImages {
    codec: ImageCodec,
    size: usize,
    latents: Latents,
    batch: usize,
}

impl PublishedImages {
    /// A codec for squares of `size` pixels, `batch` of which are encoded together.
    ///
    /// # Errors
    /// A size that the codec's factor does not divide, a batch of none.
    pub fn new(codec: ImageCodec, size: usize, latents: Latents, batch: usize) -> Result<Self> {
        let factor = codec.factor();
        let fits = size > 0 && size.is_multiple_of(factor);
        require(fits, "data.tokenizers.image.size", &format!("a multiple of the weights' {factor} pixels"), size)?;
        require(batch > 0, "data.tokenizers.image.batch", "at least 1", batch)?;
        Ok(Self { codec, size, latents, batch })
    }

    /// The codec.
    pub fn codec(&self) -> &ImageCodec {
        &self.codec
    }

    fn side(&self) -> usize {
        self.size / self.codec.factor()
    }
}

impl ImageTokenizer for PublishedImages {
    fn identity(&self) -> String {
        // Codes are not drawn.
        let drawn = match (self.codec.form(), self.latents) {
            (CodecForm::Latents { .. }, Latents::Drawn { seed }) => format!(" drawn {seed}"),
            _ => String::new(),
        };
        format!("{} {}{drawn}", self.codec.identity(), self.size)
    }

    fn files(&self) -> Vec<FileReference> {
        vec![file(self.codec.reference())]
    }

    fn grid(&self) -> Option<[usize; 2]> {
        Some([self.side(); 2])
    }

    fn has_decoder(&self) -> bool {
        self.codec.has_decoder()
    }

    fn preparation(&self) -> Preparation {
        Preparation::Square { size: self.size }
    }

    fn form(&self) -> ImageForm {
        match self.codec.form() {
            CodecForm::Codes { n_codes } => ImageForm::Codes { n_codes },
            CodecForm::Latents { channels } => ImageForm::Latents { channels },
        }
    }

    fn batch(&self) -> usize {
        self.batch
    }

    fn encode(&self, pictures: &[RgbImage], keys: &[u64]) -> mom_data::Result<Vec<ImageTokens>> {
        let mut pixels = Vec::with_capacity(pictures.len() * self.size * self.size * 3);
        pictures.iter().for_each(|picture| pixels.extend(&picture.pixels));
        let seeds: Vec<u64> = match self.latents {
            Latents::Mean => Vec::new(),
            // Keys are hashes: seeds that differ leave nothing in common.
            Latents::Drawn { seed } => keys.iter().map(|key| key ^ seed.rotate_left(17)).collect(),
        };
        let draw = if self.latents == Latents::Mean { Draw::Mean } else { Draw::Seeded(&seeds) };
        let encoded = self.codec.encode(&pixels, pictures.len(), self.size, self.size, draw).map_err(failed_image)?;
        let (side, form) = (self.side(), self.codec.form());
        let tokens = encoded.into_iter().map(|encoded| match (encoded, form) {
            (Encoded::Codes(values), _) => ImageTokens::Codes { shape: [side, side], values },
            (Encoded::Latents(values), CodecForm::Latents { channels }) => {
                ImageTokens::Latents { shape: [channels, side, side], values }
            }
            (Encoded::Latents(values), CodecForm::Codes { .. }) => {
                ImageTokens::Latents { shape: [values.len() / (side * side), side, side], values }
            }
        });
        Ok(tokens.collect())
    }

    fn decode(&self, tokens: &ImageTokens) -> mom_data::Result<RgbImage> {
        let (encoded, rows, columns) = match tokens {
            ImageTokens::Codes { shape: [rows, columns], values } => (Encoded::Codes(values.clone()), *rows, *columns),
            ImageTokens::Latents { shape: [_, rows, columns], values } => {
                (Encoded::Latents(values.clone()), *rows, *columns)
            }
        };
        let pixels = self.codec.decode(&[encoded], rows, columns).map_err(failed_image)?;
        let factor = self.codec.factor();
        Ok(RgbImage { width: columns * factor, height: rows * factor, pixels })
    }
}

/// A speech codec. Of several codebooks the first is what a model is trained on.
#[derive(Debug)]
pub struct PublishedSpeech {
    codec: SpeechCodec,
}

impl PublishedSpeech {
    /// A codec with one codebook.
    ///
    /// # Errors
    /// A codec that was opened with several.
    pub fn new(codec: SpeechCodec) -> Result<Self> {
        let n = codec.n_codebooks();
        require(n == 1, "data.tokenizers.speech.codebooks", "1: units of one stream are what models take", n)?;
        Ok(Self { codec })
    }

    /// The codec.
    pub fn codec(&self) -> &SpeechCodec {
        &self.codec
    }
}

impl SpeechTokenizer for PublishedSpeech {
    fn identity(&self) -> String {
        self.codec.identity().to_owned()
    }

    fn files(&self) -> Vec<FileReference> {
        self.codec.references().iter().map(file).collect()
    }

    fn has_decoder(&self) -> bool {
        self.codec.has_decoder()
    }

    fn sample_rate(&self) -> u32 {
        u32::try_from(self.codec.sample_rate()).unwrap_or(u32::MAX)
    }

    fn n_units(&self) -> usize {
        self.codec.n_units()
    }

    fn encode(&self, sounds: &[Vec<f32>]) -> mom_data::Result<Vec<Vec<u32>>> {
        // One by one: zeros behind a shorter sound would change its units.
        sounds.iter().map(|sound| self.codec.encode(sound).map_err(failed_speech)).collect()
    }

    fn decode(&self, units: &[u32]) -> mom_data::Result<Vec<f32>> {
        self.codec.decode(units).map_err(failed_speech)
    }
}

fn file(reference: &WeightsReference) -> FileReference {
    FileReference { path: reference.path.clone(), blake3: reference.blake3.clone() }
}

fn failed_image(error: mom_models::Error) -> DataError {
    DataError::Tokenizer { what: "image codec", reason: error.to_string() }
}

fn failed_speech(error: mom_models::Error) -> DataError {
    DataError::Tokenizer { what: "speech codec", reason: error.to_string() }
}
