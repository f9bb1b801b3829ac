//! SEANet: causal convolutions between samples and frames.
//!
//! Source: Défossez et al. 2022 (arXiv 2210.13438), section 3.1; `moshi/modules/{seanet, conv}.py` of kyutai-labs/moshi.

use crate::Result;
use crate::codecs::layers::{Conv1d, Map, Transposed1d};
use crate::codecs::network::Scope;

/// What a causal convolution finds before the first and behind the last value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Padding {
    Zeros,
    /// The value at the end.
    Same,
}

/// A convolution that sees what came before: padded on the left by its reach less its stride, on the right by as much as
/// makes the last window full.
#[derive(Debug, Clone)]
pub(super) struct Causal {
    conv: Conv1d,
    padding: Padding,
}

impl Causal {
    /// Stride 1 or half of the kernel: what is published has no other.
    pub fn new(n_in: usize, strided: bool, dilation: usize, scope: &Scope<'_>) -> Result<(Self, usize)> {
        let (n_out, kernel) = (scope.side("weight", 0, 3)?, scope.side("weight", 2, 3)?);
        let stride = if strided { (kernel / 2).max(1) } else { 1 };
        let conv = Conv1d::new(n_in, n_out, kernel, true, scope)?.with_stride(stride).with_dilation(dilation);
        Ok((Self { conv, padding: Padding::Zeros }, n_out))
    }

    /// Two frames to one, without bias.
    pub fn halving(n: usize, scope: &Scope<'_>) -> Result<Self> {
        let conv = Conv1d::new(n, n, 4, false, scope)?.with_stride(2);
        Ok(Self { conv, padding: Padding::Same })
    }

    pub const fn stride(&self) -> usize {
        self.conv.stride()
    }

    /// `(batch, n_in, n)` to `(batch, n_out, ceil(n / stride))`.
    pub fn forward(&self, x: &Map) -> Result<Map> {
        let [.., n] = x.dims()?;
        match self.padding {
            Padding::Zeros => self.conv.forward(x, self.around(n)),
            Padding::Same => {
                let [left, right] = self.around(n);
                let padded = x.channels_first()?.pad_with_same(2, left, right)?;
                self.conv.forward(&Map::new(&padded)?, [0; 2])
            }
        }
    }

    /// The same of a map of one length with the output, to which it is added; padded by zeros.
    fn forward_add(&self, x: &Map, residual: &Map) -> Result<Map> {
        let [.., n] = x.dims()?;
        self.conv.forward_add(x, self.around(n), residual)
    }

    /// Values before the first and behind the last.
    fn around(&self, n: usize) -> [usize; 2] {
        let stride = self.conv.stride();
        [self.conv.reach().saturating_sub(stride), n.next_multiple_of(stride) - n]
    }
}

/// `x + block.3(elu(block.1(elu(x))))`.
#[derive(Debug, Clone)]
struct Residual {
    first: Causal,
    second: Causal,
}

impl Residual {
    fn new(n: usize, dilation: usize, scope: &Scope<'_>) -> Result<Self> {
        let (first, hidden) = Causal::new(n, false, dilation, &scope.pp("block.1.conv"))?;
        let (second, n_out) = Causal::new(hidden, false, 1, &scope.pp("block.3.conv"))?;
        if n_out != n {
            // Named by its shape.
            scope.pp("block.3.conv").get("weight", &[n, hidden, 1])?;
        }
        Ok(Self { first, second })
    }

    fn forward(&self, x: &Map) -> Result<Map> {
        let h = self.first.forward(&elu(x)?)?;
        self.second.forward_add(&elu(&h)?, x)
    }
}

fn elu(x: &Map) -> Result<Map> {
    x.each(|values| values.elu(1.0))
}

#[derive(Debug, Clone)]
enum Layer {
    Conv(Causal),
    Transposed(Transposed1d),
    Residual(Residual),
    Elu,
}

/// Layers in their order, told by the names at each number: `layers.N.conv`, `layers.N.block`, or nothing, which is an ELU.
#[derive(Debug, Clone)]
pub(super) struct SeaNet(Vec<Layer>);

impl SeaNet {
    /// Samples to frames. Returns the channels of frames too.
    pub fn encoder(n_in: usize, scope: &Scope<'_>) -> Result<(Self, usize)> {
        Self::new(n_in, scope, false)
    }

    /// Frames to samples. Returns the channels of samples too.
    pub fn decoder(n_in: usize, scope: &Scope<'_>) -> Result<(Self, usize)> {
        Self::new(n_in, scope, true)
    }

    fn new(mut n: usize, scope: &Scope<'_>, upwards: bool) -> Result<(Self, usize)> {
        let n_layers = scope.count("layers.");
        let mut layers = Vec::with_capacity(n_layers);
        let mut dilation = 1;
        for i in 0..n_layers {
            let scope = scope.pp("layers").pp(i);
            // The first and the last convolution change nothing but channels.
            let resamples = i > 0 && i + 1 < n_layers;
            layers.push(if scope.holds("block") {
                let residual = Residual::new(n, dilation, &scope)?;
                dilation *= 2;
                Layer::Residual(residual)
            } else if !scope.holds("conv") {
                Layer::Elu
            } else if resamples && upwards {
                let scope = scope.pp("conv");
                let (n_out, stride) = (scope.side("weight", 1, 3)?, scope.side("weight", 2, 3)? / 2);
                let transposed = Transposed1d::new(n, n_out, stride.max(1), &scope)?;
                (n, dilation) = (n_out, 1);
                Layer::Transposed(transposed)
            } else {
                let (conv, n_out) = Causal::new(n, resamples, 1, &scope.pp("conv"))?;
                (n, dilation) = (n_out, 1);
                Layer::Conv(conv)
            });
        }
        Ok((Self(layers), n))
    }

    /// Samples that become one frame, or that a frame becomes.
    pub fn hop(&self) -> usize {
        let stride = |layer: &Layer| match layer {
            Layer::Conv(conv) => conv.stride(),
            Layer::Transposed(conv) => conv.stride(),
            _ => 1,
        };
        self.0.iter().map(stride).fold(1, usize::saturating_mul)
    }

    /// `(batch, n_in, n)` to `(batch, n_out, n')`.
    pub fn forward(&self, x: &Map) -> Result<Map> {
        let mut x = x.clone();
        for layer in &self.0 {
            x = match layer {
                Layer::Conv(conv) => conv.forward(&x)?,
                Layer::Transposed(conv) => Map::new(&conv.forward(&x.channels_first()?)?)?,
                Layer::Residual(block) => block.forward(&x)?,
                Layer::Elu => elu(&x)?,
            };
        }
        Ok(x)
    }
}
