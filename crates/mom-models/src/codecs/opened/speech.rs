//! Sound to units, and back where that can be.

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::{WeightsReference, identity, other_network};
use crate::Result;
use crate::codecs::error::require_argument;
use crate::codecs::{CodecError, Hubert, Mimi, Network, Quantizer, Settings, Weights};

const NAME: &str = "a speech codec";

/// Samples a second of HuBERT's sound.
const HUBERT_RATE: usize = 16_000;

/// What units are made with, beside the network.
#[derive(Debug)]
pub enum Units<'a> {
    /// Mimi's first codebooks: 1 is what is said, 8 are Moshi's.
    Codebooks(usize),
    /// A quantizer for features of a layer of HuBERT, counted from 1.
    Layer {
        /// The layer: textless-lib 6 (base), SpiRit-LM 11.
        layer: usize,
        /// Weights of the quantizer: k-means or SpiRit-LM's linear one.
        quantizer: &'a Path,
    },
}

/// A speech codec with its weights.
#[derive(Debug)]
pub struct SpeechCodec {
    network: SpeechNetwork,
    references: Vec<WeightsReference>,
    identity: String,
    device: Device,
}

#[derive(Debug)]
enum SpeechNetwork {
    Mimi { mimi: Mimi, n_codebooks: usize },
    Hubert { hubert: Hubert, layer: usize, quantizer: Quantizer },
}

impl SpeechCodec {
    /// The codec of a weights file, with the settings beside it ([`Settings::of`]).
    ///
    /// # Errors
    /// A file that cannot be read or holds another network; units of the other kind of network, a layer or a number of
    /// codebooks that there is not; see [`Mimi::new`], [`Hubert::new`] and [`Quantizer::new`].
    pub fn open(path: impl AsRef<Path>, units: &Units<'_>, dtype: DType, device: &Device) -> Result<Self> {
        let weights = Weights::open(path)?;
        let settings = Settings::of(&weights)?;
        Self::new(&weights, &settings, units, dtype, device)
    }

    /// The codec of weights with settings.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn new(
        weights: &Weights,
        settings: &Settings,
        units: &Units<'_>,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let mut references = vec![WeightsReference::of(weights)?];
        let network = match (Network::of(weights), units) {
            (Some((Network::Mimi, _)), &Units::Codebooks(n_codebooks)) => {
                let mimi = Mimi::new(weights, settings, dtype, device)?;
                let n = mimi.n_codebooks();
                require_argument((1..=n).contains(&n_codebooks), NAME, "codebooks", format!("1 to {n}"), n_codebooks)?;
                SpeechNetwork::Mimi { mimi, n_codebooks }
            }
            (Some((Network::Hubert, _)), &Units::Layer { layer, quantizer }) => {
                let hubert = Hubert::new(weights, settings, dtype, device)?;
                let n = hubert.n_layers();
                require_argument((1..=n).contains(&layer), NAME, "layer", format!("1 to {n}"), layer)?;
                let weights = Weights::open(quantizer)?;
                references.push(WeightsReference::of(&weights)?);
                let quantizer = Quantizer::new(&weights, device)?;
                let (expected, got) = (hubert.n_channels(), quantizer.n_channels());
                require_argument(expected == got, NAME, "quantizer", format!("for {expected} channels"), got)?;
                SpeechNetwork::Hubert { hubert, layer, quantizer }
            }
            (Some((Network::Mimi, _)), _) => {
                return Err(other_network(weights, "HuBERT (a layer and a quantizer are given)"));
            }
            (Some((Network::Hubert, _)), _) => return Err(other_network(weights, "Mimi (codebooks are given)")),
            _ => return Err(other_network(weights, NAME)),
        };
        let told = match &network {
            SpeechNetwork::Mimi { mimi, n_codebooks } => format!("mimi {dtype:?} {n_codebooks} {:?}", mimi.settings()),
            SpeechNetwork::Hubert { hubert, layer, .. } => format!("hubert {dtype:?} {layer} {:?}", hubert.settings()),
        };
        let identity = identity(&references, &told);
        Ok(Self { network, references, identity, device: device.clone() })
    }

    /// The files that it was opened from: the network's, then the quantizer's where it has one.
    pub fn references(&self) -> &[WeightsReference] {
        &self.references
    }

    /// A hash of everything that units depend on but the sound: weights, settings, element type.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Samples a second of its sound.
    pub fn sample_rate(&self) -> usize {
        match &self.network {
            SpeechNetwork::Mimi { mimi, .. } => mimi.settings().sample_rate,
            SpeechNetwork::Hubert { .. } => HUBERT_RATE,
        }
    }

    /// Samples from a frame to the next.
    pub fn hop(&self) -> usize {
        match &self.network {
            SpeechNetwork::Mimi { mimi, .. } => mimi.frame(),
            SpeechNetwork::Hubert { hubert, .. } => hubert.hop(),
        }
    }

    /// Units of each codebook.
    pub fn n_units(&self) -> usize {
        match &self.network {
            SpeechNetwork::Mimi { mimi, .. } => mimi.n_codes(),
            SpeechNetwork::Hubert { quantizer, .. } => quantizer.n_units(),
        }
    }

    /// Units of a frame.
    pub fn n_codebooks(&self) -> usize {
        match &self.network {
            SpeechNetwork::Mimi { n_codebooks, .. } => *n_codebooks,
            SpeechNetwork::Hubert { .. } => 1,
        }
    }

    /// True if it makes sound too. HuBERT's units become sound by a vocoder of their own, which is not here.
    pub fn has_decoder(&self) -> bool {
        matches!(self.network, SpeechNetwork::Mimi { .. })
    }

    /// Units (n_codebooks, frames) of one sound, row-major, runs kept; none for a sound without a frame. Mimi's sound is
    /// filled up with zeros to a whole frame.
    ///
    /// # Errors
    /// Out of memory.
    pub fn encode(&self, samples: &[f32]) -> Result<Vec<u32>> {
        match &self.network {
            SpeechNetwork::Hubert { hubert, layer, quantizer } => hubert.units(samples, *layer, quantizer),
            SpeechNetwork::Mimi { .. } if samples.is_empty() => Ok(Vec::new()),
            SpeechNetwork::Mimi { mimi, n_codebooks } => {
                let audio = Tensor::from_slice(samples, (1, 1, samples.len()), &self.device)?;
                Ok(mimi.encode(&mimi.pad(&audio)?, *n_codebooks)?.flatten_all()?.to_vec1()?)
            }
        }
    }

    /// The samples of units (n_codebooks, frames); none for no unit.
    ///
    /// # Errors
    /// Units that are not as many for each codebook, a unit that there is not; a network without a decoder.
    pub fn decode(&self, units: &[u32]) -> Result<Vec<f32>> {
        let SpeechNetwork::Mimi { mimi, n_codebooks } = &self.network else {
            let path = self.references[0].path.clone();
            return Err(CodecError::Lacks { path, half: "decoder", network: "HuBERT" }.into());
        };
        let fits = units.len().is_multiple_of(*n_codebooks);
        require_argument(fits, NAME, "units", format!("a multiple of {n_codebooks} codebooks"), units.len())?;
        if units.is_empty() {
            return Ok(Vec::new());
        }
        let codes = Tensor::from_slice(units, (1, *n_codebooks, units.len() / n_codebooks), &self.device)?;
        Ok(mimi.decode(&codes)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
    }
}
