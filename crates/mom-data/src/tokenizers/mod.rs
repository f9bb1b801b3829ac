//! Tokenizers: fitted to the training split, brought by the user, or not needed where tokens stand in the data.
//!
//! | file | holds |
//! | --- | --- |
//! | `tokenizers.json` | configuration, what was fitted, vocabulary |
//! | `tokenizer.json` | text, in the format of the `tokenizers` library |
//! | `image_codebook.safetensors` | `patches` (n_codes, patch * patch * 3) |
//! | `speech_codebook.safetensors` | `centroids` (n_units, n_mels), `mean` and `deviation` (n_mels), `run_lengths` (n_units; older files lack it) |

mod bpe;
mod chameleon;
mod config;
mod external;
mod image;
mod kmeans;
mod media;
mod mel;
mod published;
mod speech;
mod tensors;
mod text;
mod waveform;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use config::{
    CodeKind, ImageConfig, MAX_SPEECH_UNITS, Repeats, SPEECH_UNITS_PER_SEC, SpeechConfig, TextConfig, TokenizerConfig,
};
pub use external::{
    External, ExternalIdentities, FileReference, ImageForm, ImageTokenizer, ImageTokens, SpeechTokenizer,
};
pub use image::ImageCodebook;
pub(crate) use mel::LogMel;
pub use published::{Latents, NetworkDevice, NetworkDtype};
pub use speech::SpeechCodebook;
pub use text::TextTokenizer;
pub(crate) use text::WordCounts;

use external::Absent;

use crate::batch::{Batch, NO_TARGET};
use crate::needs::{ImageNeed, Needs, SpeechNeed};
use crate::vocabulary::{Modality, Vocabulary};
use crate::{DataError, Result, files};

const FORMAT_VERSION: u32 = 2;
const HEAD: &str = "tokenizers.json";
const TEXT: &str = "tokenizer.json";
const IMAGE: &str = "image_codebook.safetensors";
const SPEECH: &str = "speech_codebook.safetensors";

/// The tokenizers of all modalities that a setting needs, and the token space they span.
#[derive(Debug, Clone)]
pub struct Tokenizers {
    config: TokenizerConfig,
    needs: Needs,
    vocabulary: Vocabulary,
    text: TextTokenizer,
    image: Option<ImageCodebook>,
    speech: Option<SpeechCodebook>,
    notes: Vec<String>,
    external: External,
    identities: ExternalIdentities,
    /// Why an external tokenizer is not attached, where somebody tried.
    absent: Absent,
}

/// Contents of `tokenizers.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format_version: u32,
    config: TokenizerConfig,
    needs: Needs,
    vocabulary: Vocabulary,
    #[serde(default, skip_serializing_if = "ExternalIdentities::is_empty")]
    external: ExternalIdentities,
}

impl Tokenizers {
    /// Puts together what was fitted, given or is not needed; `notes` are for the user.
    pub(crate) fn assemble(
        config: TokenizerConfig,
        needs: Needs,
        text: TextTokenizer,
        image: Option<ImageCodebook>,
        speech: Option<SpeechCodebook>,
        notes: Vec<String>,
    ) -> Result<Self> {
        let n_image = match (&image, config.image.kind) {
            (Some(codebook), _) => codebook.n_codes(),
            (None, kind) if kind != CodeKind::Fitted && needs.image == ImageNeed::Codes => config.image.codes,
            (None, _) => 0,
        };
        let n_speech = match (&speech, config.speech.kind) {
            (Some(codebook), _) => codebook.n_units(),
            (None, kind) if kind != CodeKind::Fitted && needs.speech == SpeechNeed::Units => config.speech.units,
            (None, _) => 0,
        };
        let mut vocabulary = Vocabulary::new(text.n_tokens(), n_image as u32, n_speech as u32)?;
        if let Some(first) = text.first_image_code(n_image as u32)? {
            vocabulary = vocabulary.with_image_in_text(first)?;
        }
        let (external, identities, absent) = Default::default();
        Ok(Self { config, needs, vocabulary, text, image, speech, notes, external, identities, absent })
    }

    /// What a user should know of how the tokenizers came out, such as a vocabulary smaller than asked for. Empty for
    /// tokenizers that were read.
    pub fn notes(&self) -> &[String] {
        &self.notes
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
        let external = self.identities.clone();
        files::write_json(
            &dir.join(HEAD),
            &Head { format_version: FORMAT_VERSION, config, needs, vocabulary, external },
        )
    }

    /// Whether the text tokenizer is that of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`DataError::TextTokenizer`] for a file that cannot be read.
    pub fn has_text_of(&self, path: &Path) -> Result<bool> {
        Ok(TextTokenizer::load(path)?.bytes()? == self.text.bytes()?)
    }

    /// A hash of everything that tokens depend on.
    ///
    /// # Errors
    /// [`DataError::TextTokenizer`] for a text tokenizer that cannot be written.
    pub fn fingerprint(&self) -> Result<u64> {
        let json = |source: serde_json::Error| DataError::Json { path: HEAD.into(), source: source.into() };
        // What decided how they were fitted is in what was fitted.
        let text = TextConfig { tokenizer: None, ..self.config.text.clone() };
        let config = TokenizerConfig { seed: 0, held_out: 0.0, fit_samples: None, text, ..self.config.anywhere() };
        let mut bytes = serde_json::to_vec(&(&config, self.needs, self.vocabulary)).map_err(json)?;
        bytes.extend(self.text.bytes()?);
        bytes.extend(self.image.iter().flat_map(ImageCodebook::bytes));
        bytes.extend(self.speech.iter().flat_map(SpeechCodebook::bytes));
        if !self.identities.is_empty() {
            bytes.extend(serde_json::to_vec(&self.identities.without_files()).map_err(json)?);
        }
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
        let text = match head.config.text.kind {
            CodeKind::Precomputed => TextTokenizer::precomputed(head.config.text.vocab_size as u32),
            _ => TextTokenizer::load(&dir.join(TEXT))?,
        };
        // What is precomputed, or of what no source had anything, has no file, and the vocabulary says so.
        let fitted = |kind: CodeKind, modality| kind == CodeKind::Fitted && head.vocabulary.n_tokens(modality) > 0;
        let image = match fitted(head.config.image.kind, Modality::Image) {
            true => Some(ImageCodebook::load(&dir.join(IMAGE), &head.config.image)?),
            false => None,
        };
        let speech = match fitted(head.config.speech.kind, Modality::Speech) {
            true => Some(SpeechCodebook::load(&dir.join(SPEECH), &head.config.speech)?),
            false => None,
        };
        let mut loaded = Self::assemble(head.config, head.needs, text, image, speech, Vec::new())?;
        loaded.identities = head.external;
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

    /// Bytes of text that the text targets of a batch stand for, special tokens none; `None` where texts come as tokens.
    ///
    /// # Errors
    /// [`DataError::Token`] for a target outside the vocabulary; [`DataError::TextTokenizer`] if decoding fails.
    pub fn target_bytes(&self, batch: &Batch) -> Result<Option<u64>> {
        let targets = batch.targets.iter().filter(|&&target| target != NO_TARGET);
        let codes = targets.map(|&target| {
            self.vocabulary.check(target)?;
            Ok(self.vocabulary.code(Modality::Text, target).ok())
        });
        let codes: Vec<Option<u32>> = codes.collect::<Result<_>>()?;
        // A tokenizer may write a word otherwise at the beginning of a text than behind another word.
        let texts = codes.split(Option::is_none).filter(|text| !text.is_empty());
        let of_text = |text: &[Option<u32>]| self.text.n_bytes(&text.iter().flatten().copied().collect::<Vec<_>>());
        texts.map(of_text).sum()
    }
}
