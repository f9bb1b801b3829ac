//! The network that a file holds: told by its tensors, and the names that each naming has for them.

use std::cell::RefCell;
use std::collections::BTreeSet;

use candle_core::{DType, Device, Tensor};

use super::{CodecError, Weights, require_argument};
use crate::Result;

/// The networks and parts that weights files hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Network {
    /// Chameleon's VQGAN: pictures to codes.
    Vqgan,
    /// A KL autoencoder (Stable Diffusion's, FLUX's): pictures to latents.
    Vae,
    /// Mimi: sound to codes.
    Mimi,
    /// HuBERT: speech to features.
    Hubert,
    /// Centroids of k-means: features to units.
    KMeans,
    /// SpiRit-LM's linear quantizer: features to units.
    LinearQuantizer,
}

impl Network {
    /// Its name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vqgan => "Chameleon's VQGAN",
            Self::Vae => "a KL autoencoder",
            Self::Mimi => "Mimi",
            Self::Hubert => "HuBERT",
            Self::KMeans => "k-means",
            Self::LinearQuantizer => "a linear quantizer",
        }
    }

    /// What a file holds, and what stands before its tensors' names; none if that is nothing known.
    ///
    /// Told by names that a network has many of, so that one missing tensor is told as missing, not as another network.
    pub fn of(weights: &Weights) -> Option<(Self, String)> {
        let before = |anchors: &[&str]| {
            let found = |name: &str| anchors.iter().find_map(|anchor| Some(name[..name.find(anchor)?].to_owned()));
            weights.names().filter_map(found).min_by_key(String::len)
        };
        if let Some(prefix) = before(&["quantizer.rvq_", "quantizer.semantic_", "quantizer.acoustic_"]) {
            return Some((Self::Mimi, prefix));
        }
        if let Some(prefix) = before(&["feature_extractor.conv_layers."]) {
            return Some((Self::Hubert, prefix));
        }
        if let Some(prefix) = before(&["encoder.down.", "encoder.down_blocks."]) {
            let shape = |name: &str| weights.shape(&format!("{prefix}{name}"));
            let side = |name: &str, axis: usize| shape(name).and_then(|shape| shape.get(axis).copied());
            // A quant_conv of moments has twice the channels of the latents.
            let codes = shape("quantize.embedding.weight").is_some()
                || (shape("quant_conv.weight").is_some()
                    && side("quant_conv.weight", 0) == side("post_quant_conv.weight", 1));
            return Some((if codes { Self::Vqgan } else { Self::Vae }, prefix));
        }
        let rank = |name: &str| weights.shape(name).map(<[usize]>::len);
        if rank("cluster_centers_") == Some(2) || (rank("centroids") == Some(2) && weights.names().len() == 1) {
            return Some((Self::KMeans, String::new()));
        }
        let linear = |i: usize| rank(&format!("{i}.weight")) == Some(2);
        if [0, 2, 4].into_iter().filter(|&i| linear(i)).count() >= 2 {
            return Some((Self::LinearQuantizer, String::new()));
        }
        None
    }

    /// What stands before the names of this network's tensors.
    ///
    /// # Errors
    /// A file that holds something else, with what it seems to hold.
    pub(super) fn prefix(self, weights: &Weights) -> Result<String> {
        let found = match Self::of(weights) {
            Some((network, prefix)) if network == self => return Ok(prefix),
            Some((network, _)) => network.name().to_owned(),
            None => {
                let first: Vec<&str> = weights.names().take(3).collect();
                format!(
                    "{} tensors that are those of none that is known ({}, ...)",
                    weights.names().len(),
                    first.join(", ")
                )
            }
        };
        Err(CodecError::OtherNetwork { path: weights.path().to_owned(), expected: self.name(), found }.into())
    }
}

/// How a naming calls what this crate calls by one name.
type Naming = Box<dyn Fn(&str) -> String>;

/// Tensors of a file by this crate's names for them.
///
/// A network asks for what it needs, with its shape, and then for what was left over.
pub(super) struct Tensors<'a> {
    weights: &'a Weights,
    network: Network,
    prefix: String,
    naming: Naming,
    dtype: DType,
    device: Device,
    taken: RefCell<BTreeSet<String>>,
}

impl<'a> Tensors<'a> {
    pub fn new(
        weights: &'a Weights,
        network: Network,
        naming: impl Fn(&str) -> String + 'static,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let prefix = network.prefix(weights)?;
        let supported = matches!(dtype, DType::F32 | DType::BF16);
        require_argument(supported, network.name(), "dtype", "f32 or bf16", format!("{dtype:?}"))?;
        let (naming, device) = (Box::new(naming), device.clone());
        Ok(Self { weights, network, prefix, naming, dtype, device, taken: RefCell::default() })
    }

    pub fn root(&self) -> Scope<'_> {
        Scope { tensors: self, at: String::new() }
    }

    /// Names in the file behind the prefix.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.weights.names().filter_map(|name| name.strip_prefix(&self.prefix))
    }

    /// Fails if the file has tensors of the network that nothing asked for; `ignored` tells of those that may be there.
    pub fn finish(&self, ignored: impl Fn(&str) -> bool) -> Result<()> {
        let taken = self.taken.borrow();
        let extra: Vec<&str> = self.names().filter(|name| !taken.contains(*name) && !ignored(name)).collect();
        if extra.is_empty() {
            return Ok(());
        }
        let names = extra.iter().take(3).map(|name| format!("{}{name}", self.prefix)).collect::<Vec<_>>().join(", ");
        let names = if extra.len() > 3 { format!("{names}, ...") } else { names };
        let path = self.weights.path().to_owned();
        Err(CodecError::ExtraTensors { path, network: self.network.name(), n: extra.len(), names }.into())
    }
}

/// A place within a network's names.
#[derive(Clone)]
pub(super) struct Scope<'a> {
    tensors: &'a Tensors<'a>,
    at: String,
}

impl Scope<'_> {
    /// The place `name` within this one.
    pub fn pp(&self, name: impl std::fmt::Display) -> Self {
        let at = if self.at.is_empty() { name.to_string() } else { format!("{}.{name}", self.at) };
        Self { tensors: self.tensors, at }
    }

    pub fn dtype(&self) -> DType {
        self.tensors.dtype
    }

    /// Its name behind the prefix, in the file's naming.
    fn inner(&self, name: &str) -> String {
        (self.tensors.naming)(&self.pp(name).at)
    }

    fn full(&self, name: &str) -> String {
        format!("{}{}", self.tensors.prefix, self.inner(name))
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors.weights.shape(&self.full(name)).is_some()
    }

    /// True if the file has any tensor at `name` or within it.
    pub fn holds(&self, name: &str) -> bool {
        let inner = self.inner(&format!("{name}.#"));
        let stem = inner.split('#').next().unwrap_or_default();
        self.tensors.names().any(|name| name.starts_with(stem))
    }

    /// One side of a tensor with `rank` axes, of which the rest of the network's shapes follow.
    pub fn side(&self, name: &str, axis: usize, rank: usize) -> Result<usize> {
        let (full, path) = (self.full(name), self.tensors.weights.path().to_owned());
        let Some(shape) = self.tensors.weights.shape(&full) else {
            return Err(CodecError::MissingTensor { path, name: full }.into());
        };
        let side = shape.get(axis).copied().filter(|_| shape.len() == rank && !shape.contains(&0));
        let expected = || CodecError::Format {
            path,
            offset: None,
            expected: format!("{rank} axes, none of them 0, in tensor {full}"),
            got: format!("{shape:?}"),
        };
        Ok(side.ok_or_else(expected)?)
    }

    /// An error of a setting that this place's tensors do not agree with.
    pub fn setting(&self, field: &str, expected: impl std::fmt::Display, got: impl ToString) -> crate::Error {
        let place = self.tensors.weights.path().display().to_string();
        let expected = format!("{expected} at {}", self.full("*"));
        CodecError::Setting { place, field: field.to_owned(), expected, got: got.to_string() }.into()
    }

    /// A tensor of a shape, in the network's element type.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.typed(name, shape, self.tensors.dtype)
    }

    /// A tensor of a shape in f32: what is compared or summed over keeps its precision in every element type.
    pub fn get_f32(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.typed(name, shape, DType::F32)
    }

    fn typed(&self, name: &str, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let full = self.full(name);
        let weights = self.tensors.weights;
        let path = || weights.path().to_owned();
        let Some(got) = weights.shape(&full) else {
            return Err(CodecError::MissingTensor { path: path(), name: full }.into());
        };
        // The weights of a 1x1 convolution are those of a linear layer, and namings differ in which of the two they write.
        let bare = |shape: &[usize]| match shape {
            [rows, columns, rest @ ..] if rest.iter().all(|&side| side == 1) => vec![*rows, *columns],
            other => other.to_vec(),
        };
        if bare(got) != bare(shape) {
            let (expected, got) = (shape.to_vec(), got.to_vec());
            return Err(CodecError::TensorShape { path: path(), name: full, expected, got }.into());
        }
        let tensor = weights.tensor(&full, dtype, &self.tensors.device)?;
        self.tensors.taken.borrow_mut().insert(self.inner(name));
        Ok(tensor.reshape(shape)?)
    }

    /// Marks a tensor as known, though nothing is read of it.
    pub fn pass_over(&self, name: &str) {
        self.tensors.taken.borrow_mut().insert(self.inner(name));
    }

    /// Numbers that stand for N in names that begin with `stem` + N, from 0 to the largest.
    pub fn count(&self, stem: &str) -> usize {
        let probe = self.inner(&format!("{stem}#"));
        let Some((before, _)) = probe.split_once('#') else { return 0 };
        let number = |name: &str| {
            let rest = name.strip_prefix(before)?;
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            rest[..digits].parse::<usize>().ok().filter(|&n| n < 4096)
        };
        self.tensors.names().filter_map(number).max().map_or(0, |last| last + 1)
    }
}
