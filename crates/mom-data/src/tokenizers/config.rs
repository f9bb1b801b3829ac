//! What tokenizers are fitted with.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::published::{DEFAULT_BATCH, Latents, NetworkDevice, NetworkDtype};
use crate::error::require;
use crate::{Result, pixels};

/// Largest speech codebook, as in the paper.
pub const MAX_SPEECH_UNITS: usize = 500;
/// Speech units per second, as in the paper.
pub const SPEECH_UNITS_PER_SEC: u32 = 25;

/// All that tokenizers depend on besides the data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenizerConfig {
    /// Seed of the codebooks and of the choice of samples.
    pub seed: u64,
    /// Fraction of samples that are held out: never fitted or trained on. In (0, 1).
    pub held_out: f64,
    /// Training samples that are looked at for fitting, at most; as many as the sizes need if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fit_samples: Option<usize>,
    /// Text tokens.
    pub text: TextConfig,
    /// Images and image codes.
    pub image: ImageConfig,
    /// Waveforms and speech units.
    pub speech: SpeechConfig,
}

/// Text tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TextConfig {
    /// Where tokens come from.
    pub kind: CodeKind,
    /// Tokens of the trained vocabulary, at most; at least 256 (the bytes). Of precomputed tokens: one more than the largest.
    pub vocab_size: usize,
    /// A `tokenizer.json` to use instead of training one.
    pub tokenizer: Option<PathBuf>,
}

/// Images and image codes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImageConfig {
    /// Where codes, or the values of continuous patches, come from.
    pub kind: CodeKind,
    /// Side to which images are cut and resized, in pixels.
    pub size: usize,
    /// Side of the patch of one code, or of one continuous patch, in pixels; divides `size`. Of latents: side of a patch in
    /// their rows and columns.
    pub patch: usize,
    /// Channels of latents.
    pub channels: usize,
    /// Number of codes.
    pub codes: usize,
    /// File of a published network's weights, for the kinds that are one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    /// The publisher's `config.json`; the one beside the weights if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<PathBuf>,
    /// Element type that the network computes in: codes depend on it.
    #[serde(skip_serializing_if = "NetworkDtype::is_f32")]
    pub dtype: NetworkDtype,
    /// Where the network encodes; where the run computes if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<NetworkDevice>,
    /// Pictures that are encoded together.
    #[serde(skip_serializing_if = "is_default_batch")]
    pub batch: usize,
    /// Which latents of their distribution are taken.
    #[serde(skip_serializing_if = "Latents::is_mean")]
    pub latents: Latents,
    /// Whether latents that come as arrays must be squares: a model that sees whole pictures (a U-Net) knows the number of their patches
    /// alone. Those beside published networks must be in any case.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub square: bool,
}

fn is_default_batch(batch: &usize) -> bool {
    *batch == DEFAULT_BATCH
}

/// Waveforms and speech units.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpeechConfig {
    /// Where units come from.
    pub kind: CodeKind,
    /// Rate to which waveforms are resampled, in Hz; a multiple of 25.
    pub sample_rate: u32,
    /// Mel bands.
    pub n_mels: usize,
    /// Number of units: of those that are fitted 500 at most, of precomputed ones 65,536.
    pub units: usize,
    /// What becomes of runs of one unit.
    pub repeats: Repeats,
    /// File of a published network's weights, for the kinds that are one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    /// The publisher's `config.json`; the one beside the weights if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<PathBuf>,
    /// Of HuBERT: file of the centroids (k-means), or of SpiRit-LM's linear quantizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantizer: Option<PathBuf>,
    /// Of HuBERT: the layer whose features become units, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<usize>,
    /// Element type that the network computes in: units depend on it.
    #[serde(skip_serializing_if = "NetworkDtype::is_f32")]
    pub dtype: NetworkDtype,
    /// Where the network encodes; where the run computes if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<NetworkDevice>,
}

/// Where the tokens of a modality come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CodeKind {
    /// A tokenizer of this program's own, fitted to the data (text: or the user's `tokenizer.json`).
    #[default]
    #[serde(alias = "codebook", alias = "bpe")]
    Fitted,
    /// They stand in the data. Raw samples of the modality are left out.
    Precomputed,
    /// Codes of Chameleon's VQGAN, by published weights.
    Vqgan,
    /// Latents of a KL autoencoder (Stable Diffusion's, FLUX's), by published weights.
    Vae,
    /// Units of Mimi's first codebook, by published weights.
    Mimi,
    /// Units of HuBERT's features, by published weights and a quantizer.
    Hubert,
}

impl CodeKind {
    /// Name in a configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fitted => "codebook",
            Self::Precomputed => "precomputed",
            Self::Vqgan => "vqgan",
            Self::Vae => "vae",
            Self::Mimi => "mimi",
            Self::Hubert => "hubert",
        }
    }

    /// True where a published network makes the tokens.
    pub const fn is_network(self) -> bool {
        matches!(self, Self::Vqgan | Self::Vae | Self::Mimi | Self::Hubert)
    }
}

/// What becomes of runs of one speech unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Repeats {
    /// A run becomes one unit: fewer tokens, duration is lost.
    #[default]
    Merged,
    /// Every frame keeps its unit: 25 per second.
    Kept,
}

impl Default for TokenizerConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            held_out: 1.0 / 12.0,
            fit_samples: None,
            text: TextConfig::default(),
            image: ImageConfig::default(),
            speech: SpeechConfig::default(),
        }
    }
}

impl Default for TextConfig {
    fn default() -> Self {
        Self { kind: CodeKind::Fitted, vocab_size: 512, tokenizer: None }
    }
}

impl Default for ImageConfig {
    fn default() -> Self {
        Self {
            kind: CodeKind::Fitted,
            size: 32,
            patch: 4,
            channels: 8,
            codes: 256,
            weights: None,
            config: None,
            dtype: NetworkDtype::F32,
            device: None,
            batch: DEFAULT_BATCH,
            latents: Latents::Mean,
            square: false,
        }
    }
}

impl Default for SpeechConfig {
    fn default() -> Self {
        Self {
            kind: CodeKind::Fitted,
            sample_rate: 8000,
            n_mels: 40,
            units: 128,
            repeats: Repeats::Merged,
            weights: None,
            config: None,
            quantizer: None,
            layer: None,
            dtype: NetworkDtype::F32,
            device: None,
        }
    }
}

impl ImageConfig {
    /// Values of one continuous patch.
    pub fn patch_dim(&self) -> usize {
        let channels = if self.kind == CodeKind::Fitted { 3 } else { self.channels };
        channels * self.patch * self.patch
    }
}

impl TokenizerConfig {
    /// Those of the paper: a vocabulary of 32,000 for Transfusion and so many text tokens that all make 65,536 elsewhere,
    /// pictures of 256 and 512 pixels, 8,192 codes, 16 kHz, 500 units.
    pub fn paper(needs: crate::Needs) -> Self {
        use crate::ImageNeed;
        let image = match needs.image {
            ImageNeed::Codes => ImageConfig { size: 512, patch: 16, codes: 8192, ..ImageConfig::default() },
            ImageNeed::None | ImageNeed::Patches => ImageConfig { size: 256, patch: 16, ..ImageConfig::default() },
        };
        let speech = SpeechConfig { sample_rate: 16_000, n_mels: 80, units: 500, ..SpeechConfig::default() };
        let mut paper = Self { image, speech, ..Self::default() };
        paper.text.vocab_size = Self::paper_text(needs, &paper);
        paper
    }

    /// Text tokens of the paper's vocabulary beside the image codes and speech units of a configuration.
    pub fn paper_text(needs: crate::Needs, config: &Self) -> usize {
        use crate::ImageNeed;
        let others = crate::Special::COUNT as usize
            + if needs.image == ImageNeed::Codes { config.image.codes } else { 0 }
            + if needs.speech == crate::SpeechNeed::Units { config.speech.units } else { 0 };
        let size: usize = if needs.image == ImageNeed::Codes { 65_536 } else { 32_000 };
        size.saturating_sub(others)
    }
}

impl SpeechConfig {
    /// Samples from one frame to the next.
    pub fn hop(&self) -> usize {
        (self.sample_rate / SPEECH_UNITS_PER_SEC) as usize
    }
}

impl TokenizerConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// [`crate::DataError::Config`], naming the field.
    pub fn validate(&self) -> Result<()> {
        let (image, speech) = (&self.image, &self.speech);
        let held_out_fits = self.held_out >= 0.0 && self.held_out < 1.0;
        require(held_out_fits, "tokenizers.held_out", "from 0 to below 1", self.held_out)?;
        let fit_samples = self.fit_samples.unwrap_or(1);
        require(fit_samples > 0, "tokenizers.fit_samples", "at least 1", fit_samples)?;
        let vocab_size = self.text.vocab_size;
        self.validate_networks()?;
        let both = self.text.kind == CodeKind::Precomputed && self.text.tokenizer.is_some();
        require(!both, "tokenizers.text.tokenizer", "absent where text is precomputed", "both")?;
        let least = if self.text.kind == CodeKind::Fitted { 256 } else { 1 };
        let expected = format!("{least} to 1048576");
        require((least..=1 << 20).contains(&vocab_size), "tokenizers.text.vocab_size", &expected, vocab_size)?;
        require((1..=4096).contains(&image.size), "tokenizers.image.size", "1 to 4096 pixels", image.size)?;
        require((1..=256).contains(&image.patch), "tokenizers.image.patch", "1 to 256 pixels", image.patch)?;
        require((1..=1024).contains(&image.channels), "tokenizers.image.channels", "1 to 1024", image.channels)?;
        if image.kind == CodeKind::Fitted {
            pixels::n_patches(image.size, image.patch)?;
        }
        require((2..=65_536).contains(&image.codes), "tokenizers.image.codes", "2 to 65536", image.codes)?;
        let rate = speech.sample_rate;
        let rate_fits = (4000..=48_000).contains(&rate) && rate.is_multiple_of(SPEECH_UNITS_PER_SEC);
        require(rate_fits, "tokenizers.speech.sample_rate", "4000 to 48000 Hz, a multiple of 25", rate)?;
        require((4..=128).contains(&speech.n_mels), "tokenizers.speech.n_mels", "4 to 128", speech.n_mels)?;
        // Published codecs have more units than what is fitted here.
        let most = if speech.kind == CodeKind::Fitted { MAX_SPEECH_UNITS } else { 65_536 };
        let expected = format!("2 to {most}");
        require((2..=most).contains(&speech.units), "tokenizers.speech.units", &expected, speech.units)
    }
}
