//! Tokenizers, fitted on the training split and stored in a folder.
//!
//! | file | holds |
//! | --- | --- |
//! | `tokenizers.json` | configuration, what was fitted, vocabulary |
//! | `tokenizer.json` | text, in the format of the `tokenizers` library |
//! | `image_codebook.safetensors` | `patches` (n_codes, patch * patch * 3) |
//! | `speech_codebook.safetensors` | `centroids` (n_units, n_mels), `mean` and `deviation` (n_mels) |

mod bpe;
mod config;
mod image;
mod kmeans;
mod mel;
mod speech;
mod tensors;
mod text;

use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub use config::{
    ImageConfig, MAX_SPEECH_UNITS, Repeats, SPEECH_UNITS_PER_SEC, SpeechConfig, TextConfig, TokenizerConfig,
};
pub use image::ImageCodebook;
pub use speech::SpeechCodebook;
pub use text::TextTokenizer;

use crate::documents::Split;
use crate::pixels::RgbImage;
use crate::recipe::{ImageNeed, Needs, SpeechNeed};
use crate::rng::{Domain, Stream};
use crate::shards::{Corpus, SkipReport};
use crate::vocabulary::{Modality, Vocabulary};
use crate::{DataError, Result, files};

const FORMAT_VERSION: u32 = 1;
const HEAD: &str = "tokenizers.json";
const TEXT: &str = "tokenizer.json";
const IMAGE: &str = "image_codebook.safetensors";
const SPEECH: &str = "speech_codebook.safetensors";

/// The tokenizers of all modalities that a recipe needs, and the token space they span.
#[derive(Debug, Clone)]
pub struct Tokenizers {
    config: TokenizerConfig,
    needs: Needs,
    vocabulary: Vocabulary,
    text: TextTokenizer,
    image: Option<ImageCodebook>,
    speech: Option<SpeechCodebook>,
}

/// Contents of `tokenizers.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format_version: u32,
    config: TokenizerConfig,
    needs: Needs,
    vocabulary: Vocabulary,
}

impl Tokenizers {
    /// Fits tokenizers to a deterministic choice of the training split's samples.
    ///
    /// Captions, images and waveforms of at most `config.fit_samples` samples are used; `needs` says which codebooks are
    /// fitted. The same corpus, configuration and needs give the same tokenizers, bit for bit.
    ///
    /// # Errors
    /// [`DataError::Config`] for an invalid configuration; [`DataError::TextTokenizer`] if the user's tokenizer cannot be
    /// used; [`DataError::Io`] if a shard cannot be read; [`DataError::EmptySplit`] if no sample is in the training split;
    /// [`DataError::AllSkipped`] if none of the chosen samples can be used.
    pub fn fit(corpus: &Corpus, config: &TokenizerConfig, needs: Needs) -> Result<Self> {
        config.validate()?;
        let users_text = config.text.tokenizer.as_deref().map(TextTokenizer::load).transpose()?;
        let samples = FitSamples::read(corpus, config, needs)?;
        let text = match users_text {
            Some(text) => text,
            None => TextTokenizer::train(samples.captions.iter().map(String::as_str), config.text.vocab_size)?,
        };
        let image = match needs.image {
            ImageNeed::Codes => Some(ImageCodebook::fit(&samples.images, &config.image, config.seed)?),
            ImageNeed::None | ImageNeed::Patches => None,
        };
        let speech = match needs.speech {
            SpeechNeed::Units => Some(SpeechCodebook::fit(&samples.waves, &config.speech, config.seed)),
            SpeechNeed::None => None,
        };
        Self::assemble(config.clone(), needs, text, image, speech)
    }

    fn assemble(
        config: TokenizerConfig,
        needs: Needs,
        text: TextTokenizer,
        image: Option<ImageCodebook>,
        speech: Option<SpeechCodebook>,
    ) -> Result<Self> {
        let n_image = image.as_ref().map_or(0, ImageCodebook::n_codes) as u32;
        let n_speech = speech.as_ref().map_or(0, SpeechCodebook::n_units) as u32;
        let vocabulary = Vocabulary::new(text.n_tokens(), n_image, n_speech)?;
        Ok(Self { config, needs, vocabulary, text, image, speech })
    }

    /// Writes the files listed above; each is whole or absent, and `tokenizers.json` comes last.
    ///
    /// # Errors
    /// [`DataError::Io`], naming the file.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        files::create_folder(dir)?;
        self.text.save(&dir.join(TEXT))?;
        if let Some(image) = &self.image {
            image.save(&dir.join(IMAGE))?;
        }
        if let Some(speech) = &self.speech {
            speech.save(&dir.join(SPEECH))?;
        }
        let (config, needs, vocabulary) = (self.config.clone(), self.needs, self.vocabulary);
        files::write_json(&dir.join(HEAD), &Head { format_version: FORMAT_VERSION, config, needs, vocabulary })
    }

    /// A hash of everything that tokens depend on.
    ///
    /// # Errors
    /// [`DataError::TextTokenizer`] for a text tokenizer that cannot be written.
    pub fn fingerprint(&self) -> Result<u64> {
        let json = |source| DataError::Json { path: HEAD.into(), source };
        let mut bytes = serde_json::to_vec(&(&self.config, self.needs, self.vocabulary)).map_err(json)?;
        bytes.extend(self.text.bytes()?);
        bytes.extend(self.image.iter().flat_map(ImageCodebook::bytes));
        bytes.extend(self.speech.iter().flat_map(SpeechCodebook::bytes));
        Ok(crate::rng::stable_hash(&bytes))
    }

    /// Reads tokenizers that [`Self::save`] wrote.
    ///
    /// # Errors
    /// [`DataError::Io`], [`DataError::Json`], [`DataError::TextTokenizer`] or [`DataError::Codebook`], naming the file;
    /// [`DataError::Config`] if the parts do not make up the vocabulary that was saved.
    pub fn load(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let head: Head = files::read_json(&dir.join(HEAD))?;
        crate::error::require(
            head.format_version == FORMAT_VERSION,
            "tokenizers.format_version",
            &FORMAT_VERSION.to_string(),
            head.format_version,
        )?;
        head.config.validate()?;
        let text = TextTokenizer::load(&dir.join(TEXT))?;
        let image = match head.needs.image {
            ImageNeed::Codes => Some(ImageCodebook::load(&dir.join(IMAGE), &head.config.image)?),
            ImageNeed::None | ImageNeed::Patches => None,
        };
        let speech = match head.needs.speech {
            SpeechNeed::Units => Some(SpeechCodebook::load(&dir.join(SPEECH), &head.config.speech)?),
            SpeechNeed::None => None,
        };
        let loaded = Self::assemble(head.config, head.needs, text, image, speech)?;
        let expected = format!("{:?}, as its files say", loaded.vocabulary);
        crate::error::require(
            loaded.vocabulary == head.vocabulary,
            "tokenizers.vocabulary",
            &expected,
            format!("{:?}", head.vocabulary),
        )?;
        Ok(loaded)
    }

    /// The token space.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// What the tokenizers were fitted with.
    pub fn config(&self) -> &TokenizerConfig {
        &self.config
    }

    /// What the tokenizers were fitted for.
    pub fn needs(&self) -> Needs {
        self.needs
    }

    /// The text tokenizer. Its tokens start at 0; [`Vocabulary::token`] moves them into the token space.
    pub fn text(&self) -> &TextTokenizer {
        &self.text
    }

    /// The image codebook.
    ///
    /// # Errors
    /// [`DataError::Missing`] if none was fitted.
    pub fn image_codebook(&self) -> Result<&ImageCodebook> {
        self.image.as_ref().ok_or(DataError::Missing { what: "image codes", holder: "tokenizers" })
    }

    /// The speech codebook.
    ///
    /// # Errors
    /// [`DataError::Missing`] if none was fitted.
    pub fn speech_codebook(&self) -> Result<&SpeechCodebook> {
        self.speech.as_ref().ok_or(DataError::Missing { what: "speech units", holder: "tokenizers" })
    }

    /// The text of vocabulary tokens; special tokens, image codes and speech units are left out.
    ///
    /// # Errors
    /// [`DataError::Token`] for a token outside the vocabulary; [`DataError::TextTokenizer`] if decoding fails.
    pub fn decode_text(&self, tokens: &[u32]) -> Result<String> {
        let mut text = Vec::new();
        for &token in tokens {
            self.vocabulary.check(token)?;
            text.extend(self.vocabulary.code(Modality::Text, token).ok());
        }
        self.text.decode(&text)
    }

    /// The image of vocabulary tokens (n_codes), all of them image codes, row-major.
    ///
    /// # Errors
    /// [`DataError::Missing`] without an image codebook; [`DataError::Token`] for another token; [`DataError::Length`]
    /// for a wrong number of codes.
    pub fn decode_image(&self, tokens: &[u32]) -> Result<RgbImage> {
        let codebook = self.image_codebook()?;
        let codes: Vec<u32> =
            tokens.iter().map(|&token| self.vocabulary.code(Modality::Image, token)).collect::<Result<_>>()?;
        codebook.decode(&codes)
    }

    /// Fails unless everything in `needs` was fitted.
    pub(crate) fn require(&self, needs: Needs) -> Result<()> {
        if needs.image == ImageNeed::Codes {
            self.image_codebook()?;
        }
        if needs.speech == SpeechNeed::Units {
            self.speech_codebook()?;
        }
        Ok(())
    }
}

/// The raw samples that codebooks are fitted to.
struct FitSamples {
    captions: Vec<String>,
    images: Vec<RgbImage>,
    waves: Vec<Vec<f32>>,
}

impl FitSamples {
    fn read(corpus: &Corpus, config: &TokenizerConfig, needs: Needs) -> Result<Self> {
        let mut chosen: Vec<usize> =
            (0..corpus.len()).filter(|&at| Split::of(corpus.key(at), config.held_out) == Split::Train).collect();
        if chosen.is_empty() {
            return Err(DataError::EmptySplit {
                split: "training",
                n_samples: corpus.len(),
                held_out: config.held_out,
                report: SkipReport::default(),
            });
        }
        Stream::new(config.seed, Domain::FitSubset, 0, 0).shuffle(&mut chosen);
        chosen.truncate(config.fit_samples);
        chosen.sort_unstable();
        // Continuous patches have no codebook, so no image is read for them.
        let needs = match needs.image {
            ImageNeed::Codes => needs,
            ImageNeed::None | ImageNeed::Patches => Needs { image: ImageNeed::None, ..needs },
        };
        let read: Vec<_> = chosen.par_iter().map(|&at| corpus.sample(at, config, needs)).collect();
        let mut samples = Self { captions: Vec::new(), images: Vec::new(), waves: Vec::new() };
        let mut skipped = SkipReport::default();
        for (at, outcome) in chosen.into_iter().zip(read) {
            match outcome? {
                Ok(sample) => {
                    samples.captions.push(sample.caption);
                    samples.images.extend(sample.image);
                    samples.waves.extend(sample.speech);
                }
                Err(reason) => skipped.add(corpus.shard_name(at), corpus.key(at), reason),
            }
        }
        if samples.captions.is_empty() {
            return Err(DataError::AllSkipped { report: skipped });
        }
        Ok(samples)
    }
}
