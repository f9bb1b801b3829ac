//! Features to units: the nearest centroid, or SpiRit-LM's linear quantizer.

use candle_core::{D, DType, Device, Tensor};

use crate::Result;
use crate::codecs::Weights;
use crate::codecs::error::require_argument;
use crate::codecs::layers::{Linear, Nearest};
use crate::codecs::network::{Network, Tensors};

/// Slope of LeakyReLU below 0.
const LEAK: f64 = 0.01;

/// What makes units of features.
#[derive(Debug)]
pub enum Quantizer {
    /// The nearest of the centroids of k-means.
    KMeans(KMeans),
    /// A small network with a blank.
    Linear(LinearQuantizer),
}

impl Quantizer {
    /// The quantizer of a file, whichever of the two it holds.
    ///
    /// # Errors
    /// A file of neither; a missing or extra tensor.
    pub fn new(weights: &Weights, device: &Device) -> Result<Self> {
        match Network::of(weights) {
            Some((Network::LinearQuantizer, _)) => Ok(Self::Linear(LinearQuantizer::new(weights, device)?)),
            _ => Ok(Self::KMeans(KMeans::new(weights, device)?)),
        }
    }

    /// Units that there are.
    pub fn n_units(&self) -> usize {
        match self {
            Self::KMeans(kmeans) => kmeans.n_units(),
            Self::Linear(linear) => linear.n_units(),
        }
    }

    /// Channels of the features that it takes.
    pub const fn n_channels(&self) -> usize {
        match self {
            Self::KMeans(kmeans) => kmeans.n_channels,
            Self::Linear(linear) => linear.n_channels,
        }
    }

    /// Units of the frames of one sound: `(frames, channels)` of any float type on the quantizer's device.
    ///
    /// # Errors
    /// Features of another number of channels.
    pub fn units(&self, features: &Tensor) -> Result<Vec<u32>> {
        match self {
            Self::KMeans(kmeans) => kmeans.units(features),
            Self::Linear(linear) => linear.units(features),
        }
    }
}

/// Centroids of k-means, `cluster_centers_` or `centroids` (units, channels): scikit-learn's estimators as joblib writes them,
/// or safetensors.
#[derive(Debug)]
pub struct KMeans {
    centroids: Nearest,
    n_channels: usize,
}

impl KMeans {
    /// The centroids of a file.
    ///
    /// # Errors
    /// A file of something else.
    pub fn new(weights: &Weights, device: &Device) -> Result<Self> {
        let tensors = Tensors::new(weights, Network::KMeans, str::to_owned, DType::F32, device)?;
        let root = tensors.root();
        let name = if root.has("cluster_centers_") { "cluster_centers_" } else { "centroids" };
        let (n_units, n_channels) = (root.side(name, 0, 2)?, root.side(name, 1, 2)?);
        Ok(Self { centroids: Nearest::new(root.get_f32(name, &[n_units, n_channels])?)?, n_channels })
    }

    /// Units that there are.
    pub fn n_units(&self) -> usize {
        self.centroids.n_rows()
    }

    /// See [`Quantizer::units`].
    ///
    /// # Errors
    /// Features of another number of channels.
    pub fn units(&self, features: &Tensor) -> Result<Vec<u32>> {
        check("k-means", features, self.n_channels)?;
        Ok(self.centroids.codes(features)?.to_vec1()?)
    }
}

/// SpiRit-LM's quantizer: three linear layers with LeakyReLU between, the last unit of which is a blank.
///
/// Source: Nguyen et al. 2024 (arXiv 2402.05755), after Gat et al. 2022 (arXiv 2209.15483). Parameters: `0`, `2`, `4`.
#[derive(Debug)]
pub struct LinearQuantizer {
    layers: [Linear; 3],
    n_channels: usize,
    n_units: usize,
}

impl LinearQuantizer {
    /// The quantizer of a file.
    ///
    /// # Errors
    /// A file of something else; a missing or extra tensor.
    pub fn new(weights: &Weights, device: &Device) -> Result<Self> {
        let tensors = Tensors::new(weights, Network::LinearQuantizer, str::to_owned, DType::F32, device)?;
        let root = tensors.root();
        let n_channels = root.side("0.weight", 1, 2)?;
        let mut n = n_channels;
        let mut layer = |name: &str| -> Result<Linear> {
            let scope = root.pp(name);
            let n_out = scope.side("weight", 0, 2)?;
            let linear = Linear::new(n, n_out, &scope)?;
            n = n_out;
            Ok(linear)
        };
        let layers = [layer("0")?, layer("2")?, layer("4")?];
        tensors.finish(|_| false)?;
        Ok(Self { layers, n_channels, n_units: n.saturating_sub(1) })
    }

    /// Units that there are, without the blank.
    pub const fn n_units(&self) -> usize {
        self.n_units
    }

    /// Scores of every unit and of the blank, last: `(frames, channels)` to `(frames, n_units + 1)` f32.
    ///
    /// # Errors
    /// Features of another number of channels.
    pub fn logits(&self, features: &Tensor) -> Result<Tensor> {
        check("a linear quantizer", features, self.n_channels)?;
        let leaky = |x: Tensor| -> Result<Tensor> { Ok(x.maximum(&(&x * LEAK)?)?) };
        let x = leaky(self.layers[0].forward(&features.to_dtype(DType::F32)?)?)?;
        self.layers[2].forward(&leaky(self.layers[1].forward(&x)?)?)
    }

    /// See [`Quantizer::units`]. A blank takes the unit before it; blanks at the start take the last unit of the sound.
    /// Blanks alone give no units.
    ///
    /// # Errors
    /// Features of another number of channels.
    pub fn units(&self, features: &Tensor) -> Result<Vec<u32>> {
        let with_blank: Vec<u32> = self.logits(features)?.argmax(D::Minus1)?.to_vec1()?;
        Ok(without_blanks(&with_blank, self.n_units as u32))
    }
}

fn without_blanks(units: &[u32], blank: u32) -> Vec<u32> {
    let Some(&last) = units.iter().rfind(|&&unit| unit != blank) else { return Vec::new() };
    let mut before = last;
    units
        .iter()
        .map(|&unit| {
            before = if unit == blank { before } else { unit };
            before
        })
        .collect()
}

/// Units without those that equal the one before them, and how many frames each of them lasts.
pub fn deduplicated(units: &[u32]) -> (Vec<u32>, Vec<u32>) {
    units.chunk_by(|a, b| a == b).map(|run| (run[0], run.len() as u32)).unzip()
}

fn check(codec: &'static str, features: &Tensor, n_channels: usize) -> Result<()> {
    let fits = features.rank() == 2 && features.dims()[1] == n_channels && features.elem_count() > 0;
    let expected = format!("(frames, {n_channels})");
    Ok(require_argument(fits, codec, "features", expected, format!("{:?}", features.dims()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_take_the_unit_before_them() {
        assert_eq!(without_blanks(&[9, 9, 3, 9, 4, 9], 9), [4, 4, 3, 3, 4, 4]);
        assert!(without_blanks(&[9, 9], 9).is_empty());
        assert_eq!(deduplicated(&[4, 4, 3, 3, 4]), (vec![4, 3, 4], vec![2, 2, 1]));
    }
}
