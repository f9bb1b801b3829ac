//! Published networks in a configuration: which files, what is published of their sizes, and what goes together.
//!
//! The networks themselves need a tensor library, see [`super::external`]; whoever has one opens the files that are named here.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{CodeKind, ImageConfig, Repeats, SpeechConfig, TextConfig, TokenizerConfig};
use crate::Result;
use crate::error::require;
use crate::needs::{ImageNeed, Needs, SpeechNeed};

/// Pictures that are encoded together, unless a configuration says how many.
pub(super) const DEFAULT_BATCH: usize = 16;

/// Element type that a network computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkDtype {
    /// IEEE single precision.
    #[default]
    F32,
    /// bfloat16.
    Bf16,
}

impl NetworkDtype {
    pub(super) fn is_f32(&self) -> bool {
        *self == Self::F32
    }
}

/// Where a network computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkDevice {
    /// The processor.
    Cpu,
    /// A GPU.
    Cuda,
}

/// Which latents of a picture's distribution are trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Latents {
    /// The mean.
    #[default]
    Mean,
    /// One draw for each picture: a function of the tokenizers' seed and of the picture's place in the data.
    Draw,
}

impl Latents {
    pub(super) fn is_mean(&self) -> bool {
        *self == Self::Mean
    }
}

impl ImageConfig {
    /// This configuration with a kind's published sizes: Chameleon's 512 pixels and 8,192 codes of 16 pixels; for an autoencoder
    /// 256 pixels and patches of 2 x 2 latents of 16 channels, as FLUX's has. Of other kinds as it is.
    pub fn of_kind(self, kind: CodeKind) -> Self {
        match kind {
            CodeKind::Vqgan => Self { kind, size: 512, patch: 16, codes: 8192, ..self },
            CodeKind::Vae => Self { kind, size: 256, patch: 2, channels: 16, ..self },
            _ => Self { kind, ..self },
        }
    }
}

impl SpeechConfig {
    /// This configuration with a kind's published sizes: Mimi's 24 kHz, 2,048 units, every frame kept; HuBERT's 16 kHz, 500 units
    /// without repeats. Of other kinds as it is.
    pub fn of_kind(self, kind: CodeKind) -> Self {
        match kind {
            CodeKind::Mimi => Self { kind, sample_rate: 24_000, units: 2048, repeats: Repeats::Kept, ..self },
            CodeKind::Hubert => Self { kind, sample_rate: 16_000, units: 500, repeats: Repeats::Merged, ..self },
            _ => Self { kind, ..self },
        }
    }
}

impl TokenizerConfig {
    /// The configuration without where files lie and where networks run: two that agree in the rest make the same tokens of the
    /// same files.
    pub fn anywhere(&self) -> Self {
        let nowhere = |path: &Option<PathBuf>| path.as_ref().map(|_| PathBuf::new());
        let text = TextConfig { tokenizer: nowhere(&self.text.tokenizer), ..self.text.clone() };
        let image = ImageConfig {
            weights: nowhere(&self.image.weights),
            // It may lie beside the weights, and then need not be named.
            config: None,
            device: None,
            batch: DEFAULT_BATCH,
            ..self.image.clone()
        };
        let speech = SpeechConfig {
            weights: nowhere(&self.speech.weights),
            config: None,
            quantizer: nowhere(&self.speech.quantizer),
            device: None,
            ..self.speech.clone()
        };
        Self { text, image, speech, ..self.clone() }
    }

    /// Checks that the networks make what a model needs.
    ///
    /// # Errors
    /// [`crate::DataError::Config`]: latents where codes are needed, or codes where latents are.
    pub fn validate_for(&self, needs: Needs) -> Result<()> {
        let kind = self.image.kind;
        let (fits, expected) = match needs.image {
            ImageNeed::Codes => (kind != CodeKind::Vae, "one that makes codes (vqgan, codebook or precomputed)"),
            ImageNeed::Patches => {
                (kind != CodeKind::Vqgan, "one that makes continuous values (vae, codebook for pixels, or precomputed)")
            }
            ImageNeed::None => (true, ""),
        };
        require(fits, "tokenizers.image.kind", &format!("{expected} for this setting"), kind.name())
    }

    /// True if a published network makes the images' tokens of a model.
    pub fn has_image_network(&self, needs: Needs) -> bool {
        self.image.kind.is_network() && needs.image != ImageNeed::None
    }

    /// True if a published network makes the speech units of a model.
    pub fn has_speech_network(&self, needs: Needs) -> bool {
        self.speech.kind.is_network() && needs.speech == SpeechNeed::Units
    }

    /// Which kinds there are of each modality, and what is given with them.
    pub(super) fn validate_networks(&self) -> Result<()> {
        use CodeKind::{Fitted, Hubert, Mimi, Precomputed, Vae, Vqgan};
        let Self { text, image, speech, .. } = self;
        let kinds = [
            ("tokenizers.text.kind", text.kind, &[Fitted, Precomputed][..], "bpe or precomputed"),
            (
                "tokenizers.image.kind",
                image.kind,
                &[Fitted, Precomputed, Vqgan, Vae],
                "codebook, vqgan, vae or precomputed",
            ),
            (
                "tokenizers.speech.kind",
                speech.kind,
                &[Fitted, Precomputed, Mimi, Hubert],
                "codebook, mimi, hubert or precomputed",
            ),
        ];
        for (field, kind, all, expected) in kinds {
            require(all.contains(&kind), field, expected, kind.name())?;
        }
        let is_hubert = speech.kind == Hubert;
        let files = [
            ("tokenizers.image.weights", &image.weights, image.kind.is_network(), image.kind),
            ("tokenizers.speech.weights", &speech.weights, speech.kind.is_network(), speech.kind),
            ("tokenizers.speech.quantizer", &speech.quantizer, is_hubert, speech.kind),
        ];
        for (field, path, is_needed, kind) in files {
            let got = path.as_ref().map_or("none".to_owned(), |path| path.display().to_string());
            let expected = if is_needed { "a file" } else { "absent" };
            require(path.is_some() == is_needed, field, &format!("{expected} for kind {}", kind.name()), got)?;
        }
        let absent = |holds: bool, field, kind: CodeKind| {
            require(holds, field, &format!("absent for kind {}", kind.name()), "a value")
        };
        let (of_image, of_speech) = (image.kind.is_network(), speech.kind.is_network());
        absent(of_image || image.config.is_none(), "tokenizers.image.config", image.kind)?;
        absent(of_image || image.dtype == NetworkDtype::F32, "tokenizers.image.dtype", image.kind)?;
        absent(of_image || image.device.is_none(), "tokenizers.image.device", image.kind)?;
        absent(of_image || image.batch == DEFAULT_BATCH, "tokenizers.image.batch", image.kind)?;
        absent(image.kind == Vae || image.latents == Latents::Mean, "tokenizers.image.latents", image.kind)?;
        absent(of_speech || speech.config.is_none(), "tokenizers.speech.config", speech.kind)?;
        absent(of_speech || speech.dtype == NetworkDtype::F32, "tokenizers.speech.dtype", speech.kind)?;
        absent(of_speech || speech.device.is_none(), "tokenizers.speech.device", speech.kind)?;
        require((1..=4096).contains(&image.batch), "tokenizers.image.batch", "1 to 4096", image.batch)?;
        match speech.layer {
            None => require(!is_hubert, "tokenizers.speech.layer", "a layer, counted from 1, for kind hubert", "none")?,
            Some(layer) => {
                absent(is_hubert, "tokenizers.speech.layer", speech.kind)?;
                require(layer > 0, "tokenizers.speech.layer", "counted from 1", layer)?;
            }
        }
        let divides = image.patch > 0 && image.size.is_multiple_of(image.patch);
        let expected = format!("a divisor of the image size {}", image.size);
        require(image.kind != Vqgan || divides, "tokenizers.image.patch", &expected, image.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> TokenizerConfig {
        let defaults = TokenizerConfig::default();
        let mut image = defaults.image.clone().of_kind(CodeKind::Vqgan);
        image.weights = Some("vqgan.ckpt".into());
        let mut speech = defaults.speech.clone().of_kind(CodeKind::Hubert);
        speech.weights = Some("hubert.pt".into());
        speech.quantizer = Some("km.bin".into());
        speech.layer = Some(6);
        TokenizerConfig { image, speech, ..defaults }
    }

    #[test]
    fn what_does_not_go_together_is_named() {
        config().validate().unwrap();
        config().validate_for(Needs::CODES_AND_UNITS).unwrap();
        let refused = |change: fn(&mut TokenizerConfig)| {
            let mut config = config();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        for (change, expected) in [
            ((|c| c.text.kind = CodeKind::Vqgan) as fn(&mut TokenizerConfig), "text.kind must be bpe or precomputed"),
            (|c| c.image.kind = CodeKind::Mimi, "image.kind must be codebook, vqgan, vae or precomputed, got mimi"),
            (|c| c.speech.kind = CodeKind::Vae, "speech.kind must be codebook, mimi, hubert or precomputed, got vae"),
            (|c| c.image.weights = None, "image.weights must be a file for kind vqgan, got none"),
            (|c| c.image.kind = CodeKind::Fitted, "image.weights must be absent for kind codebook, got vqgan.ckpt"),
            (|c| c.image.latents = Latents::Draw, "image.latents must be absent for kind vqgan"),
            (|c| c.image.batch = 0, "image.batch must be 1 to 4096, got 0"),
            (|c| c.image.patch = 15, "image.patch must be a divisor of the image size 512, got 15"),
            (|c| c.speech.layer = None, "speech.layer must be a layer"),
            (|c| c.speech.quantizer = None, "speech.quantizer must be a file for kind hubert"),
            (|c| c.speech.kind = CodeKind::Mimi, "speech.quantizer must be absent for kind mimi"),
        ] {
            let message = refused(change);
            assert!(message.contains(expected), "{message}: expected {expected}");
        }
        let message = config().validate_for(Needs::PATCHES).unwrap_err().to_string();
        assert!(message.contains("tokenizers.image.kind") && message.contains("got vqgan"), "{message}");
        let mut vae = config();
        vae.image.kind = CodeKind::Vae;
        let message = vae.validate_for(Needs::CODES).unwrap_err().to_string();
        assert!(message.contains("makes codes") && message.contains("got vae"), "{message}");
    }

    #[test]
    fn where_files_lie_is_no_part_of_what_tokens_are() {
        let mut moved = config();
        moved.image.weights = Some("elsewhere".into());
        moved.image.device = Some(NetworkDevice::Cuda);
        moved.image.batch = 3;
        moved.speech.quantizer = Some("elsewhere".into());
        assert_ne!(moved, config());
        assert_eq!(moved.anywhere(), config().anywhere());
        moved.image.dtype = NetworkDtype::Bf16;
        assert_ne!(moved.anywhere(), config().anywhere());
    }
}
