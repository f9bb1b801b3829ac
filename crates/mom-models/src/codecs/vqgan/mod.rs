//! Chameleon's VQGAN: a picture becomes a grid of codes, and codes become a picture.
//!
//! encoder, `quant_conv` (1x1), nearest row of the codebook; row of the codebook, `post_quant_conv` (1x1), decoder. Published:
//! 8,192 codes, 512 x 512 pixels to 32 x 32 codes. Source: Chameleon (arXiv 2405.09818) after Make-A-Scene
//! (arXiv 2203.13131); reference `chameleon/inference/vqgan.py` of facebookresearch/chameleon.

use candle_core::{DType, Device, Tensor};

use super::autoencoder::{Decoder, Encoder, Norms, naming};
use super::error::require_argument;
use super::layers::{Conv2d, Map, Nearest};
use super::network::{Network, Tensors};
use super::{CodecError, Weights, image_argument};
use crate::Result;

const NAME: &str = "Chameleon's VQGAN";

/// The VQGAN with its weights.
#[derive(Debug)]
pub struct Vqgan {
    encoder: Encoder,
    quant_conv: Conv2d,
    codebook: Nearest,
    /// post_quant_conv and decoder; none in Hugging Face's files of the whole model.
    decoder: Option<(Conv2d, Decoder)>,
    embed_dim: usize,
    path: std::path::PathBuf,
    dtype: DType,
    device: Device,
}

impl Vqgan {
    /// The VQGAN of a file: Meta's `vqgan.ckpt`, or the `model.vqmodel.` tensors of Hugging Face's shards, which hold no
    /// decoder. Tensors of other networks in the same file (losses, the language model) are passed over.
    ///
    /// # Errors
    /// Weights of another network, a missing or extra tensor, one of another shape; see [`CodecError`].
    pub fn new(weights: &Weights, dtype: DType, device: &Device) -> Result<Self> {
        let tensors = Tensors::new(weights, Network::Vqgan, naming(weights), dtype, device)?;
        let norms = Norms { n_groups: 32, eps: 1e-6 };
        let root = tensors.root();
        let encoder = Encoder::new(norms, &root.pp("encoder"))?;
        let (n_codes, embed_dim) =
            (root.side("quantize.embedding.weight", 0, 2)?, root.side("quantize.embedding.weight", 1, 2)?);
        let quant_conv = Conv2d::new(encoder.n_out, embed_dim, 1, &root.pp("quant_conv"))?;
        let codebook = Nearest::new(root.get_f32("quantize.embedding.weight", &[n_codes, embed_dim])?)?;
        let decoder = if root.holds("decoder") {
            let decoder = Decoder::new(norms, &root.pp("decoder"))?;
            Some((Conv2d::new(embed_dim, decoder.n_in, 1, &root.pp("post_quant_conv"))?, decoder))
        } else {
            root.pass_over("post_quant_conv.weight");
            root.pass_over("post_quant_conv.bias");
            None
        };
        let own = ["encoder.", "decoder.", "quantize.", "quant_conv.", "post_quant_conv."];
        tensors.finish(|name| !own.iter().any(|room| name.starts_with(room)))?;
        let (path, device) = (weights.path().to_owned(), device.clone());
        Ok(Self { encoder, quant_conv, codebook, decoder, embed_dim, path, dtype, device })
    }

    /// Codes of the codebook.
    pub fn n_codes(&self) -> usize {
        self.codebook.n_rows()
    }

    /// Pixels along a side that become one code.
    pub fn factor(&self) -> usize {
        self.encoder.factor()
    }

    /// True if pictures can be made of codes.
    pub const fn has_decoder(&self) -> bool {
        self.decoder.is_some()
    }

    /// What is looked up in the codebook: pixels `(batch, 3, height, width)` in [-1, 1], of any float type on any device, to
    /// `(batch, embed_dim, height / factor, width / factor)`.
    ///
    /// # Errors
    /// A shape that is none of a picture, or sides that the factor does not divide.
    pub fn features(&self, image: &Tensor) -> Result<Tensor> {
        let image = image_argument(NAME, image, self.encoder.n_in, self.factor(), self.dtype, &self.device)?;
        self.quant_conv.forward(&self.encoder.forward(&Map::new(&image)?)?)?.channels_first()
    }

    /// Pixels, as [`Self::features`] takes them, to codes `(batch, height / factor, width / factor)` u32 in row-major order.
    ///
    /// # Errors
    /// As [`Self::features`].
    pub fn encode(&self, image: &Tensor) -> Result<Tensor> {
        let features = self.features(image)?;
        let (batch, n, height, width) = features.dims4()?;
        let rows = features.permute((0, 2, 3, 1))?.contiguous()?.reshape((batch * height * width, n))?;
        Ok(self.codebook.codes(&rows)?.reshape((batch, height, width))?)
    }

    /// The rows of codes: `(batch, height, width)` u32 to `(batch, embed_dim, height, width)` f32.
    ///
    /// # Errors
    /// Another shape or element type, a code that the codebook lacks.
    pub fn embed(&self, codes: &Tensor) -> Result<Tensor> {
        let shape = || format!("{:?} {:?}", codes.shape(), codes.dtype());
        let fits = codes.rank() == 3 && codes.dtype() == DType::U32 && codes.elem_count() > 0;
        require_argument(fits, NAME, "codes", "(batch, height, width) u32", shape())?;
        let codes = codes.to_device(&self.device)?;
        let (batch, height, width) = codes.dims3()?;
        let flat = codes.flatten_all()?;
        let largest = flat.max(0)?.to_scalar::<u32>()?;
        let n_codes = self.n_codes();
        require_argument((largest as usize) < n_codes, NAME, "codes", format!("below {n_codes}"), largest)?;
        let rows = self.codebook.rows(&flat)?.reshape((batch, height, width, self.embed_dim))?;
        Ok(rows.permute((0, 3, 1, 2))?.contiguous()?)
    }

    /// Codes `(batch, height, width)` u32 to pixels `(batch, 3, height * factor, width * factor)`, about [-1, 1], not clamped.
    ///
    /// # Errors
    /// As [`Self::embed`]; a file without a decoder.
    pub fn decode(&self, codes: &Tensor) -> Result<Tensor> {
        let lacks = || CodecError::Lacks { path: self.path.clone(), half: "decoder", network: NAME };
        let (post_quant_conv, decoder) = self.decoder.as_ref().ok_or_else(lacks)?;
        let rows = self.embed(codes)?.to_dtype(self.dtype)?;
        decoder.forward(&post_quant_conv.forward(&Map::new(&rows)?)?)?.channels_first()
    }
}
