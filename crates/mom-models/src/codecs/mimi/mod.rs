//! Mimi: 24 kHz speech becomes codes at 12.5 frames a second, and codes become speech.
//!
//! SEANet's encoder (25 frames a second), a transformer, a halving, quantizers: the first codebook carries what is said, the
//! others how it sounds. Backwards: sum of rows, a doubling, a transformer, SEANet's decoder. Source: Défossez et al. 2024
//! (Moshi, arXiv 2410.00037), section 3.3; references `MimiModel` of transformers and `moshi/models/compression.py` of
//! kyutai-labs/moshi.

mod config;
mod names;
mod quantizer;
mod seanet;
mod transformer;

use candle_core::{DType, Device, Tensor};
pub use config::MimiSettings;
use quantizer::Residual;
use seanet::{Causal, SeaNet};
use transformer::Transformer;

use super::error::require_argument;
use super::layers::{Map, Transposed1d};
use super::network::{Network, Tensors};
use super::{Settings, Weights};
use crate::Result;

const NAME: &str = "Mimi";

/// Mimi with its weights.
#[derive(Debug)]
pub struct Mimi {
    encoder: SeaNet,
    encoder_transformer: Transformer,
    downsample: Causal,
    semantic: Residual,
    acoustic: Residual,
    upsample: Transposed1d,
    decoder_transformer: Transformer,
    decoder: SeaNet,
    settings: MimiSettings,
    dtype: DType,
    device: Device,
}

impl Mimi {
    /// Mimi of a file in Hugging Face's names or Kyutai's. What its weights do not tell is as published, or as `settings`
    /// state.
    ///
    /// # Errors
    /// Weights of another network, a missing or extra tensor, one of another shape, a wrong setting.
    pub fn new(weights: &Weights, settings: &Settings, dtype: DType, device: &Device) -> Result<Self> {
        let settings = MimiSettings::default().with(settings)?;
        let tensors = Tensors::new(weights, Network::Mimi, names::naming(weights), dtype, device)?;
        let root = tensors.root();
        let (encoder, n) = SeaNet::encoder(1, &root.pp("encoder"))?;
        let quantizer = root.pp("quantizer");
        let (decoder, n_channels) = SeaNet::decoder(n, &root.pp("decoder"))?;
        let mimi = Self {
            encoder,
            encoder_transformer: Transformer::new(n, settings, &root.pp("encoder_transformer"))?,
            downsample: Causal::halving(n, &root.pp("downsample.conv"))?,
            semantic: Residual::new(n, &quantizer.pp("semantic_residual_vector_quantizer"))?,
            acoustic: Residual::new(n, &quantizer.pp("acoustic_residual_vector_quantizer"))?,
            upsample: Transposed1d::of_channels(n, 2, &root.pp("upsample.conv"))?,
            decoder_transformer: Transformer::new(n, settings, &root.pp("decoder_transformer"))?,
            decoder,
            settings,
            dtype,
            device: device.clone(),
        };
        tensors.finish(|_| false)?;
        let (hop, back) = (mimi.encoder.hop(), mimi.decoder.hop());
        let (expected, got) = (format!("{hop} samples a frame of 1 channel"), format!("{back} of {n_channels}"));
        require_argument(back == hop && n_channels == 1, NAME, "decoder", expected, got)?;
        Ok(mimi)
    }

    /// What its weights did not tell.
    pub const fn settings(&self) -> &MimiSettings {
        &self.settings
    }

    /// Samples that one frame of codes stands for.
    pub fn frame(&self) -> usize {
        2 * self.encoder.hop()
    }

    /// Codebooks, the semantic one first.
    pub fn n_codebooks(&self) -> usize {
        self.semantic.n_books() + self.acoustic.n_books()
    }

    /// Codes of every codebook.
    pub fn n_codes(&self) -> usize {
        self.semantic.n_codes().min(self.acoustic.n_codes())
    }

    /// Sound with zeros behind it up to a whole number of frames, as Kyutai's own code hands it to the encoder. transformers
    /// pads within each convolution instead, as [`Self::encode`] does for what is not whole: the last frame's codes differ.
    ///
    /// # Errors
    /// A shape other than `(batch, 1, n)`.
    pub fn pad(&self, audio: &Tensor) -> Result<Tensor> {
        let audio = self.audio(audio)?;
        let n = audio.dim(2)?;
        Ok(audio.pad_with_zeros(2, 0, n.next_multiple_of(self.frame()) - n)?)
    }

    /// What is quantized: samples `(batch, 1, n)` at the sample rate, as they are, of any float type on any device, to
    /// `(batch, channels, ceil(n / frame))`.
    ///
    /// # Errors
    /// Another shape.
    pub fn latents(&self, audio: &Tensor) -> Result<Tensor> {
        let x = self.encoder.forward(&Map::new(&self.audio(audio)?)?)?;
        self.downsample.forward(&self.encoder_transformer.forward(&x)?)?.channels_first()
    }

    /// Samples, as [`Self::latents`] takes them, to the codes of the first `n_codebooks`: `(batch, n_codebooks, frames)` u32.
    ///
    /// # Errors
    /// Another shape; no codebook, or more than there are.
    pub fn encode(&self, audio: &Tensor, n_codebooks: usize) -> Result<Tensor> {
        let n = self.n_codebooks();
        require_argument((1..=n).contains(&n_codebooks), NAME, "n_codebooks", format!("1 to {n}"), n_codebooks)?;
        let latents = self.latents(audio)?;
        let (batch, channels, frames) = latents.dims3()?;
        let rows = latents.transpose(1, 2)?.contiguous()?.reshape((batch * frames, channels))?;
        let n_semantic = self.semantic.n_books().min(n_codebooks);
        let mut codes = self.semantic.encode(&rows, n_semantic)?;
        codes.extend(self.acoustic.encode(&rows, n_codebooks - n_semantic)?);
        let codes = codes.iter().map(|codes| codes.reshape((batch, 1, frames)));
        Ok(Tensor::cat(&codes.collect::<candle_core::Result<Vec<_>>>()?, 1)?)
    }

    /// The sum of the rows of codes: `(batch, k, frames)` u32 of the first k codebooks to `(batch, channels, frames)` f32.
    ///
    /// # Errors
    /// Another shape or element type, more codebooks than there are, a code that a codebook lacks.
    pub fn embed(&self, codes: &Tensor) -> Result<Tensor> {
        let n = self.n_codebooks();
        let fits = codes.rank() == 3 && codes.dtype() == DType::U32 && codes.elem_count() > 0 && codes.dims()[1] <= n;
        let shape = format!("{:?} {:?}", codes.shape(), codes.dtype());
        require_argument(fits, NAME, "codes", format!("(batch, 1 to {n}, frames) u32"), shape)?;
        let codes = codes.to_device(&self.device)?;
        let (batch, k, frames) = codes.dims3()?;
        let largest = codes.flatten_all()?.max(0)?.to_scalar::<u32>()?;
        let n_codes = self.n_codes();
        require_argument((largest as usize) < n_codes, NAME, "codes", format!("below {n_codes}"), largest)?;
        let book = |i: usize| codes.narrow(1, i, 1)?.contiguous()?.flatten_all();
        let books = (0..k).map(book).collect::<candle_core::Result<Vec<_>>>()?;
        let (semantic, acoustic) = books.split_at(self.semantic.n_books().min(k));
        let rows = match (self.semantic.decode(semantic)?, self.acoustic.decode(acoustic)?) {
            (Some(semantic), Some(acoustic)) => (semantic + acoustic)?,
            (Some(rows), None) | (None, Some(rows)) => rows,
            (None, None) => {
                return Err(super::CodecError::Argument {
                    codec: NAME,
                    argument: "codes",
                    expected: "those of at least one codebook".to_owned(),
                    got: "none".to_owned(),
                }
                .into());
            }
        };
        let channels = rows.dim(1)?;
        Ok(rows.reshape((batch, frames, channels))?.transpose(1, 2)?.contiguous()?)
    }

    /// Codes `(batch, k, frames)` u32 of the first k codebooks to samples `(batch, 1, frames * frame)`, not clamped.
    ///
    /// # Errors
    /// As [`Self::embed`].
    pub fn decode(&self, codes: &Tensor) -> Result<Tensor> {
        let x = self.upsample.forward(&self.embed(codes)?.to_dtype(self.dtype)?)?;
        self.decoder.forward(&self.decoder_transformer.forward(&Map::new(&x)?)?)?.channels_first()
    }

    fn audio(&self, audio: &Tensor) -> Result<Tensor> {
        let fits = audio.rank() == 3 && audio.dims()[1] == 1 && audio.elem_count() > 0;
        require_argument(fits, NAME, "audio", "(batch, 1, samples)", format!("{:?}", audio.dims()))?;
        Ok(audio.to_device(&self.device)?.to_dtype(self.dtype)?)
    }
}
