//! Published media tokenizers, with their published weights: pictures and sound to codes, latents or units, and back.
//!
//! | item | what it is |
//! | --- | --- |
//! | [`Weights`], [`Settings`] | a weights file (safetensors, PyTorch's and joblib's pickles), told by its bytes, and what stands beside it |
//! | [`Network`] | which network a file holds, told by its tensors |
//! | [`ImageCodec`], [`SpeechCodec`] | any of the networks below, opened by a file's content: host arrays in and out, an identity |
//! | [`Vqgan`] | Chameleon's pictures: pixels to codes and back |
//! | [`Vae`] | Stable Diffusion's and FLUX's: pixels to latents and back |
//! | [`Mimi`] | sound to codes of several codebooks and back |
//! | [`Hubert`], [`Quantizer`] | speech to units: nearest centroids, or SpiRit-LM's linear quantizer |
//! | [`pixels`] | 8-bit pixels as tensors and back |
//!
//! Sizes follow from the weights' shapes, names from those in the file; every tensor is asked for with its shape, and what is
//! missing or left over is named. Networks run in f32 or bf16 on either device; norms, attention's weights and the search for
//! the nearest code are f32 in both. They are frozen: no gradient passes through them. On a GPU they are this project's kernels and
//! cuBLASLt's products, with what those ask for: compute capability 8.0 or newer, and a device of [`mom_core::cuda_device`] where several
//! threads use one.
//!
//! candle-transformers has an autoencoder that draws its latents with the device's generator and hides their mean, and Mimi
//! under Kyutai's names; it compiles a hundred models for the two. The parts here are shared by all five networks instead.
//!
//! ```no_run
//! use candle_core::{DType, Device};
//! use mom_models::codecs::{Settings, Vae, Weights, pixels};
//!
//! let weights = Weights::open("vae/diffusion_pytorch_model.safetensors")?;
//! let vae = Vae::new(&weights, &Settings::of(&weights)?, DType::F32, &Device::Cpu)?;
//! let image = pixels::from_bytes(&[128; 256 * 256 * 3], 1, 256, 256, &Device::Cpu)?;
//! let latents = vae.mean(&vae.moments(&image)?)?; // (1, latent_channels, 32, 32)
//! let picture = pixels::to_bytes(&vae.decode(&latents)?, pixels::ToBytes::Round)?;
//! # let _ = picture;
//! # Ok::<(), mom_models::Error>(())
//! ```

mod autoencoder;
mod error;
mod hubert;
mod layers;
mod mimi;
mod network;
mod opened;
pub mod pixels;
mod settings;
mod vae;
mod vqgan;
mod weights;

use candle_core::{DType, Device, Tensor};
pub use error::CodecError;
use error::require_argument;
pub use hubert::{
    Hubert, HubertSettings, KMeans, LinearQuantizer, MAX_SAMPLES, NormOrder, Quantizer, Scaling, deduplicated,
};
pub use mimi::{Mimi, MimiSettings};
pub use network::Network;
pub use opened::{Draw, Encoded, ImageCodec, ImageForm, SpeechCodec, Units, WeightsReference};
pub use settings::Settings;
pub use vae::{Vae, VaeSettings};
pub use vqgan::Vqgan;
pub use weights::Weights;

use crate::Result;

/// A picture `(batch, channels, height, width)` where a network is, in its element type.
fn image_argument(
    codec: &'static str,
    image: &Tensor,
    channels: usize,
    factor: usize,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    let fits = match image.dims() {
        &[batch, c, height, width] => {
            batch > 0 && c == channels && height > 0 && width > 0 && height % factor == 0 && width % factor == 0
        }
        _ => false,
    };
    let expected = format!("(batch, {channels}, height, width) with sides that {factor} divides");
    require_argument(fits, codec, "image", expected, format!("{:?}", image.dims()))?;
    Ok(image.to_device(device)?.to_dtype(dtype)?)
}
