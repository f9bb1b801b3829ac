//! HuBERT: 16 kHz speech becomes features of a layer, which a quantizer makes units of.
//!
//! Convolutions (50 frames a second, or 25), a projection, a transformer. Source: Hsu et al. 2021 (arXiv 2106.07447);
//! references `HubertModel` of transformers, `fairseq/models/hubert/hubert.py`, and `spiritlm/speech_tokenizer` of
//! facebookresearch/spiritlm.

mod config;
mod encoder;
mod features;
mod names;
mod units;

use candle_core::{DType, Device, Tensor};
pub use config::{HubertSettings, NormOrder, Scaling};
use encoder::{Encoder, normalise};
use features::Features;
use names::Naming;
pub use units::{KMeans, LinearQuantizer, Quantizer, deduplicated};

use super::error::require_argument;
use super::layers::{LayerNorm, Linear};
use super::network::{Network, Tensors};
use super::{Settings, Weights};
use crate::Result;

const NAME: &str = "HuBERT";

/// Longest sound that is looked at in one piece, in samples, as textless-lib and SpiRit-LM cut it.
pub const MAX_SAMPLES: usize = 1_600_000;

/// HuBERT with its weights.
#[derive(Debug)]
pub struct Hubert {
    features: Features,
    layer_norm: LayerNorm,
    /// None where frames have the transformer's channels already.
    projection: Option<Linear>,
    encoder: Encoder,
    n_channels: usize,
    settings: HubertSettings,
    dtype: DType,
    device: Device,
}

impl Hubert {
    /// HuBERT of a file in Hugging Face's names (`HubertModel`, `HubertForCTC`, both namings of weight norm) or fairseq's.
    /// What its weights do not tell is as published, or as `settings` state.
    ///
    /// # Errors
    /// Weights of another network, a missing or extra tensor, one of another shape, a wrong setting.
    pub fn new(weights: &Weights, settings: &Settings, dtype: DType, device: &Device) -> Result<Self> {
        let naming = Naming::of(weights);
        let tensors = Tensors::new(weights, Network::Hubert, move |name| naming.name(name), dtype, device)?;
        let root = tensors.root();
        let layer_norms = root.holds("feature_extractor.conv_layers.1.layer_norm");
        let origin = settings;
        let settings = HubertSettings::of(settings, naming, layer_norms)?;
        let features = Features::new(&settings, origin, layer_norms, &root.pp("feature_extractor"))?;
        let eps = settings.layer_norm_eps;
        let n = root.side("encoder.layer_norm.weight", 0, 1)?;
        let scope = root.pp("feature_projection");
        let projected = naming == Naming::HuggingFace || features.n_out != n || scope.holds("projection");
        let projection = if projected { Some(Linear::new(features.n_out, n, &scope.pp("projection"))?) } else { None };
        let n_heads = settings.n_heads.unwrap_or(n / 64);
        if n_heads == 0 || !n.is_multiple_of(n_heads) {
            return Err(origin.error("num_attention_heads", format!("a divisor of {n} channels"), n_heads));
        }
        let order = settings.norm_order.unwrap_or(if layer_norms { NormOrder::Pre } else { NormOrder::Post });
        let layer_norm = LayerNorm::new(features.n_out, eps, &scope.pp("layer_norm"))?;
        let encoder = Encoder::new(n, n_heads, order, &settings, &root.pp("encoder"))?;
        tensors.finish(|name| naming.is_ignored(name))?;
        Ok(Self { features, layer_norm, projection, encoder, n_channels: n, settings, dtype, device: device.clone() })
    }

    /// What its weights did not tell.
    pub const fn settings(&self) -> &HubertSettings {
        &self.settings
    }

    /// Layers of its transformer.
    pub fn n_layers(&self) -> usize {
        self.encoder.n_layers()
    }

    /// Channels of its features.
    pub const fn n_channels(&self) -> usize {
        self.n_channels
    }

    /// Samples from a frame to the next: 320, or 640 in the model of SpiRit-LM.
    pub fn hop(&self) -> usize {
        self.features.hop()
    }

    /// Samples that the first frame needs: 400, or 720.
    pub fn reach(&self) -> usize {
        self.features.reach()
    }

    /// Frames before the transformer: `(batch, samples)` to `(batch, frames, conv channels)`.
    ///
    /// # Errors
    /// As [`Self::layer`].
    pub fn convolved(&self, audio: &Tensor) -> Result<Tensor> {
        let reach = self.reach();
        let fits = audio.rank() == 2 && audio.dims()[0] > 0 && audio.dims()[1] >= reach;
        let expected = format!("(batch, at least {reach} samples)");
        require_argument(fits, NAME, "audio", expected, format!("{:?}", audio.dims()))?;
        let audio = audio.to_device(&self.device)?;
        let audio = match self.settings.scaling {
            Scaling::AsItIs => audio,
            Scaling::Normalised { eps } => normalise(&audio, eps)?,
        };
        self.features.forward(&audio.to_dtype(self.dtype)?.unsqueeze(1)?)
    }

    /// Features of a layer, counted from 1: sound `(batch, samples)` at 16 kHz, of any float type on any device, to
    /// `(batch, frames, channels)`. Sounds of a batch have one length: zeros behind one would change its frames.
    ///
    /// # Errors
    /// Another shape, sound that is shorter than [`Self::reach`], a layer that there is not.
    pub fn layer(&self, audio: &Tensor, layer: usize) -> Result<Tensor> {
        let n = self.n_layers();
        require_argument((1..=n).contains(&layer), NAME, "layer", format!("1 to {n}"), layer)?;
        self.encoder.forward(&self.frames(audio)?, layer, false)
    }

    /// Features of the last layer, behind the network's last norm.
    ///
    /// # Errors
    /// As [`Self::layer`].
    pub fn last(&self, audio: &Tensor) -> Result<Tensor> {
        self.encoder.forward(&self.frames(audio)?, self.n_layers(), true)
    }

    /// Units of one sound of any length, in pieces of [`MAX_SAMPLES`]; a piece without a frame gives none.
    ///
    /// # Errors
    /// A layer that there is not, a quantizer for other features.
    pub fn units(&self, samples: &[f32], layer: usize, quantizer: &Quantizer) -> Result<Vec<u32>> {
        let mut units = Vec::new();
        for piece in samples.chunks(MAX_SAMPLES).filter(|piece| piece.len() >= self.reach()) {
            let audio = Tensor::from_slice(piece, (1, piece.len()), &self.device)?;
            units.extend(quantizer.units(&self.layer(&audio, layer)?.squeeze(0)?)?);
        }
        Ok(units)
    }

    fn frames(&self, audio: &Tensor) -> Result<Tensor> {
        let frames = self.layer_norm.forward(&self.convolved(audio)?)?;
        match &self.projection {
            Some(projection) => projection.forward(&frames),
            None => Ok(frames),
        }
    }
}
