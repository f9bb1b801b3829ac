//! The KL autoencoders of Stable Diffusion and FLUX: a picture becomes latents, and latents become a picture.
//!
//! encoder, `quant_conv` where the file has it: moments, that is mean and log of the variance. A latent is
//! `scale * (mean - shift)`. Source: Rombach et al. 2022 (arXiv 2112.10752); references `AutoencoderKL` of diffusers and
//! `src/flux/modules/autoencoder.py` of black-forest-labs/flux.

use candle_core::{DType, Device, Tensor};

use super::autoencoder::{Decoder, Encoder, Norms, naming};
use super::error::require_argument;
use super::layers::{Conv2d, Map};
use super::network::{Network, Tensors};
use super::pixels::ToBytes;
use super::{Settings, Weights, image_argument};
use crate::Result;

const NAME: &str = "a KL autoencoder";

/// Range of the log of a variance, as diffusers clamps it.
const LOG_VARIANCE: (f64, f64) = (-30.0, 20.0);

/// What the weights of an autoencoder do not tell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VaeSettings {
    /// Groups of every group norm: 32 in all that are published.
    pub norm_num_groups: usize,
    /// Factor of latents: FLUX 0.3611, Stable Diffusion 1 and 2 0.18215, SDXL 0.13025.
    pub scale: f64,
    /// Subtracted from latents before: FLUX 0.1159, Stable Diffusion 0.
    pub shift: f64,
}

impl VaeSettings {
    /// The published settings of a network of this form: FLUX's for 16 latent channels without a `quant_conv`, Stable
    /// Diffusion's for others. SDXL's and Stable Diffusion 3's weights do not tell that they are: their `config.json` does.
    pub const fn published(latent_channels: usize, has_quant_conv: bool) -> Self {
        if latent_channels == 16 && !has_quant_conv {
            Self { norm_num_groups: 32, scale: 0.3611, shift: 0.1159 }
        } else {
            Self { norm_num_groups: 32, scale: 0.18215, shift: 0.0 }
        }
    }

    /// These settings with those that a publisher's file states: `norm_num_groups`, `scaling_factor` or BFL's
    /// `scale_factor`, `shift_factor`.
    ///
    /// # Errors
    /// A value of another type, a factor of 0.
    pub fn with(self, settings: &Settings) -> Result<Self> {
        let scale = match settings.number(&["scaling_factor"])? {
            None => settings.number(&["scale_factor"])?,
            scale => scale,
        };
        let merged = Self {
            norm_num_groups: settings.count(&["norm_num_groups"])?.unwrap_or(self.norm_num_groups),
            scale: scale.unwrap_or(self.scale),
            shift: settings.number(&["shift_factor"])?.unwrap_or(self.shift),
        };
        if merged.scale == 0.0 {
            return Err(settings.error("scaling_factor", "a number other than 0", merged.scale));
        }
        Ok(merged)
    }
}

/// An autoencoder with its weights.
#[derive(Debug)]
pub struct Vae {
    encoder: Encoder,
    quant_conv: Option<Conv2d>,
    post_quant_conv: Option<Conv2d>,
    decoder: Decoder,
    settings: VaeSettings,
    to_bytes: ToBytes,
    dtype: DType,
    device: Device,
}

impl Vae {
    /// The autoencoder of a file in diffusers' names (old and new), BFL's, or latent-diffusion's single files, behind any
    /// prefix (`first_stage_model.`, `vae.`). What its weights do not tell is published values, or what `settings` state.
    ///
    /// # Errors
    /// Weights of another network, a missing or extra tensor, one of another shape, a wrong setting.
    pub fn new(weights: &Weights, settings: &Settings, dtype: DType, device: &Device) -> Result<Self> {
        let tensors = Tensors::new(weights, Network::Vae, naming(weights), dtype, device)?;
        let root = tensors.root();
        let has_quant_conv = root.holds("quant_conv");
        let latent_channels = root.side("decoder.conv_in.weight", 1, 4)?;
        let settings = VaeSettings::published(latent_channels, has_quant_conv).with(settings)?;
        let norms = Norms { n_groups: settings.norm_num_groups, eps: 1e-6 };
        let encoder = Encoder::new(norms, &root.pp("encoder"))?;
        let decoder = Decoder::new(norms, &root.pp("decoder"))?;
        let (n_moments, n) = (encoder.n_out, decoder.n_in);
        let conv = |name: &str, n: usize| -> Result<Option<Conv2d>> {
            let scope = root.pp(name);
            if root.holds(name) { Conv2d::new(n, n, 1, &scope).map(Some) } else { Ok(None) }
        };
        let (quant_conv, post_quant_conv) = (conv("quant_conv", n_moments)?, conv("post_quant_conv", n)?);
        // Moments are a mean and a log of a variance for each channel of the latents.
        root.pp("encoder.conv_out").get("bias", &[2 * n])?;
        let diffusers = tensors.names().any(|name| name.starts_with("encoder.down_blocks."));
        let to_bytes = if diffusers { ToBytes::Round } else { ToBytes::CutOff };
        tensors.finish(|name| ["loss.", "model_ema."].iter().any(|room| name.starts_with(room)))?;
        Ok(Self { encoder, quant_conv, post_quant_conv, decoder, settings, to_bytes, dtype, device: device.clone() })
    }

    /// What its weights did not tell.
    pub const fn settings(&self) -> &VaeSettings {
        &self.settings
    }

    /// How whoever published the file makes 8-bit pixels: diffusers rounds, BFL's and latent-diffusion's code cut fractions off.
    pub const fn to_bytes(&self) -> ToBytes {
        self.to_bytes
    }

    /// Channels of its latents.
    pub const fn latent_channels(&self) -> usize {
        self.decoder.n_in
    }

    /// Pixels along a side that become one latent.
    pub fn factor(&self) -> usize {
        self.encoder.factor()
    }

    /// Mean and log of the variance: pixels `(batch, 3, height, width)` in [-1, 1], of any float type on any device, to
    /// `(batch, 2 * latent_channels, height / factor, width / factor)`, the means first.
    ///
    /// # Errors
    /// A shape that is none of a picture, or sides that the factor does not divide.
    pub fn moments(&self, image: &Tensor) -> Result<Tensor> {
        let image = image_argument(NAME, image, self.encoder.n_in, self.factor(), self.dtype, &self.device)?;
        let moments = self.encoder.forward(&Map::new(&image)?)?;
        match &self.quant_conv {
            Some(conv) => conv.forward(&moments)?.channels_first(),
            None => moments.channels_first(),
        }
    }

    /// The latents of moments without a draw: `scale * (mean - shift)`, `(batch, latent_channels, height, width)` f32.
    ///
    /// # Errors
    /// Moments of another number of channels.
    pub fn mean(&self, moments: &Tensor) -> Result<Tensor> {
        let (mean, _) = self.halves(moments)?;
        Ok(((mean - self.settings.shift)? * self.settings.scale)?)
    }

    /// The latents of a draw: `scale * (mean + exp(log variance / 2) * noise - shift)`, the log clamped to [-30, 20].
    /// `noise`: standard normal, of the shape of the latents.
    ///
    /// # Errors
    /// Moments of another number of channels, noise of another shape.
    pub fn draw(&self, moments: &Tensor, noise: &Tensor) -> Result<Tensor> {
        let (mean, log_variance) = self.halves(moments)?;
        require_argument(
            noise.dims() == mean.dims(),
            NAME,
            "noise",
            format!("{:?}", mean.dims()),
            format!("{:?}", noise.dims()),
        )?;
        let deviation = (log_variance.clamp(LOG_VARIANCE.0, LOG_VARIANCE.1)? * 0.5)?.exp()?;
        let noise = noise.to_device(&self.device)?.to_dtype(DType::F32)?;
        Ok((((mean + (deviation * noise)?)? - self.settings.shift)? * self.settings.scale)?)
    }

    fn halves(&self, moments: &Tensor) -> Result<(Tensor, Tensor)> {
        let n = self.latent_channels();
        let fits = moments.rank() == 4 && moments.dims()[1] == 2 * n;
        let expected = format!("(batch, {}, height, width)", 2 * n);
        require_argument(fits, NAME, "moments", expected, format!("{:?}", moments.dims()))?;
        let wide = moments.to_dtype(DType::F32)?;
        Ok((wide.narrow(1, 0, n)?, wide.narrow(1, n, n)?))
    }

    /// Latents `(batch, latent_channels, height, width)`, scaled as [`Self::mean`] gives them, to pixels
    /// `(batch, 3, height * factor, width * factor)`, about [-1, 1], not clamped.
    ///
    /// # Errors
    /// Latents of another shape.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let n = self.latent_channels();
        let fits = latents.rank() == 4 && latents.dims()[1] == n && latents.elem_count() > 0;
        require_argument(
            fits,
            NAME,
            "latents",
            format!("(batch, {n}, height, width)"),
            format!("{:?}", latents.dims()),
        )?;
        let wide = latents.to_device(&self.device)?.to_dtype(DType::F32)?;
        let x = ((wide / self.settings.scale)? + self.settings.shift)?.to_dtype(self.dtype)?;
        let x = Map::new(&x)?;
        let x = match &self.post_quant_conv {
            Some(conv) => conv.forward(&x)?,
            None => x,
        };
        self.decoder.forward(&x)?.channels_first()
    }
}
