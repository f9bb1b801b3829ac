//! Pictures to codes or latents, and back.

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::{WeightsReference, identity, other_network};
use crate::Result;
use crate::codecs::error::require_argument;
use crate::codecs::pixels::{self, ToBytes};
use crate::codecs::{Network, Settings, Vae, Vqgan, Weights};
use crate::diffusion::{Noise, Timesteps};

const NAME: &str = "an image codec";

/// What a picture becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageForm {
    /// A code for each square of pixels.
    Codes {
        /// Codes that there are.
        n_codes: usize,
    },
    /// Values for each square of pixels.
    Latents {
        /// Values of a square.
        channels: usize,
    },
}

/// A picture, encoded.
#[derive(Debug, Clone, PartialEq)]
pub enum Encoded {
    /// (rows, columns), row-major.
    Codes(Vec<u32>),
    /// (channels, rows, columns), scaled as the publisher scales them.
    Latents(Vec<f32>),
}

/// Which latents of their distribution are taken. Codes have no distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Draw<'a> {
    /// The mean.
    Mean,
    /// A draw for each picture, a function of its seed alone: neither of its batch nor of the device.
    Seeded(&'a [u64]),
}

/// An image codec with its weights.
#[derive(Debug)]
pub struct ImageCodec {
    network: ImageNetwork,
    reference: WeightsReference,
    identity: String,
}

#[derive(Debug)]
enum ImageNetwork {
    Vqgan(Vqgan),
    Vae(Vae),
}

impl ImageCodec {
    /// The codec of a weights file, with the settings beside it ([`Settings::of`]).
    ///
    /// # Errors
    /// A file that cannot be read or holds another network; see [`Vqgan::new`] and [`Vae::new`].
    pub fn open(path: impl AsRef<Path>, dtype: DType, device: &Device) -> Result<Self> {
        let weights = Weights::open(path)?;
        let settings = Settings::of(&weights)?;
        Self::new(&weights, &settings, dtype, device)
    }

    /// The codec of weights with settings.
    ///
    /// # Errors
    /// Weights of another network; see [`Vqgan::new`] and [`Vae::new`].
    pub fn new(weights: &Weights, settings: &Settings, dtype: DType, device: &Device) -> Result<Self> {
        let (network, told) = match Network::of(weights) {
            Some((Network::Vqgan, _)) => {
                (ImageNetwork::Vqgan(Vqgan::new(weights, dtype, device)?), format!("vqgan {dtype:?}"))
            }
            Some((Network::Vae, _)) => {
                let vae = Vae::new(weights, settings, dtype, device)?;
                let told = format!("vae {dtype:?} {:?}", vae.settings());
                (ImageNetwork::Vae(vae), told)
            }
            _ => return Err(other_network(weights, NAME)),
        };
        let reference = WeightsReference::of(weights)?;
        let identity = identity(std::slice::from_ref(&reference), &told);
        Ok(Self { network, reference, identity })
    }

    /// The file that it was opened from.
    pub fn reference(&self) -> &WeightsReference {
        &self.reference
    }

    /// A hash of everything that codes and latents depend on but the picture: weights, settings, element type.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// What pictures become.
    pub fn form(&self) -> ImageForm {
        match &self.network {
            ImageNetwork::Vqgan(vqgan) => ImageForm::Codes { n_codes: vqgan.n_codes() },
            ImageNetwork::Vae(vae) => ImageForm::Latents { channels: vae.latent_channels() },
        }
    }

    /// Pixels along a side that become one code or latent; pictures have sides that it divides.
    pub fn factor(&self) -> usize {
        match &self.network {
            ImageNetwork::Vqgan(vqgan) => vqgan.factor(),
            ImageNetwork::Vae(vae) => vae.factor(),
        }
    }

    /// True if it makes pictures too.
    pub fn has_decoder(&self) -> bool {
        match &self.network {
            ImageNetwork::Vqgan(vqgan) => vqgan.has_decoder(),
            ImageNetwork::Vae(_) => true,
        }
    }

    /// Encodes a batch of pictures of one size: `pixels` (batch, height, width, 3) of 8 bits.
    ///
    /// # Errors
    /// Pixels that are not as many as the sides say, sides that the factor does not divide, seeds that are not one for each
    /// picture.
    pub fn encode(
        &self,
        pixels: &[u8],
        batch: usize,
        height: usize,
        width: usize,
        draw: Draw<'_>,
    ) -> Result<Vec<Encoded>> {
        let image = pixels::from_bytes(pixels, batch, height, width, &Device::Cpu)?;
        match &self.network {
            ImageNetwork::Vqgan(vqgan) => {
                let codes = vqgan.encode(&image)?.flatten_from(1)?.to_vec2::<u32>()?;
                Ok(codes.into_iter().map(Encoded::Codes).collect())
            }
            ImageNetwork::Vae(vae) => {
                let moments = vae.moments(&image)?;
                let latents = match draw {
                    Draw::Mean => vae.mean(&moments)?,
                    Draw::Seeded(seeds) => {
                        require_argument(seeds.len() == batch, NAME, "seeds", format!("{batch} seeds"), seeds.len())?;
                        vae.draw(&moments, &noise(seeds, moments.dims())?)?
                    }
                };
                let latents = latents.flatten_from(1)?.to_vec2::<f32>()?;
                Ok(latents.into_iter().map(Encoded::Latents).collect())
            }
        }
    }

    /// Pictures of codes or latents of `rows` x `columns` squares each: (batch, rows * factor, columns * factor, 3) of 8 bits,
    /// by the publisher's rule.
    ///
    /// # Errors
    /// Nothing to decode, or what the other kind of codec gives; too many or few values; a code that there is not; weights
    /// without a decoder.
    pub fn decode(&self, encoded: &[Encoded], rows: usize, columns: usize) -> Result<Vec<u8>> {
        require_argument(!encoded.is_empty(), NAME, "encoded", "at least one picture", "none")?;
        match &self.network {
            ImageNetwork::Vqgan(vqgan) => {
                let mut codes = Vec::new();
                for picture in encoded {
                    let Encoded::Codes(picture) = picture else { return Err(wrong("codes", "latents")) };
                    codes.extend(check(picture, &[rows, columns])?);
                }
                let codes = Tensor::from_vec(codes, (encoded.len(), rows, columns), &Device::Cpu)?;
                pixels::to_bytes(&vqgan.decode(&codes)?, ToBytes::CutOff)
            }
            ImageNetwork::Vae(vae) => {
                let channels = vae.latent_channels();
                let mut values = Vec::new();
                for picture in encoded {
                    let Encoded::Latents(picture) = picture else { return Err(wrong("latents", "codes")) };
                    values.extend(check(picture, &[channels, rows, columns])?);
                }
                let latents = Tensor::from_vec(values, (encoded.len(), channels, rows, columns), &Device::Cpu)?;
                pixels::to_bytes(&vae.decode(&latents)?, vae.to_bytes())
            }
        }
    }
}

/// Standard normal noise for the latents of moments `(batch, 2 channels, rows, columns)`.
fn noise(seeds: &[u64], moments: &[usize]) -> Result<Tensor> {
    let &[batch, channels, rows, columns] = moments else { return Err(wrong("four axes", "others")) };
    let shape = (batch, channels / 2, rows, columns);
    let n = channels / 2 * rows * columns;
    let values: Vec<f32> =
        seeds.iter().flat_map(|&seed| Noise::draw(seed, 0, 0, n, Timesteps::Independent).epsilon).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

fn check<'a, T: Copy>(values: &'a [T], shape: &[usize]) -> Result<impl Iterator<Item = T> + use<'a, T>> {
    let expected = shape.iter().try_fold(1usize, |n, &side| n.checked_mul(side));
    require_argument(Some(values.len()) == expected, NAME, "encoded", format!("{shape:?}"), values.len())?;
    Ok(values.iter().copied())
}

fn wrong(expected: &str, got: &str) -> crate::Error {
    let (expected, got) = (expected.to_owned(), got.to_owned());
    crate::codecs::CodecError::Argument { codec: NAME, argument: "encoded", expected, got }.into()
}
