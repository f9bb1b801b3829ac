//! Features to pixels.

use super::blocks::{Blocks, Middle};
use super::{Norms, sizes};
use crate::Result;
use crate::codecs::layers::{Activation, Conv2d, GroupNorm, Map};
use crate::codecs::network::Scope;

/// conv_in; the middle; levels from the coarsest, with a doubling (each pixel four times, then a convolution) after each but
/// the finest; norm_out, SiLU, conv_out.
#[derive(Debug, Clone)]
pub(in crate::codecs) struct Decoder {
    conv_in: Conv2d,
    mid: Middle,
    /// In the order in which they run.
    up: Vec<(Blocks, Option<Conv2d>)>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    /// Channels of its features.
    pub n_in: usize,
}

impl Decoder {
    pub fn new(norms: Norms, scope: &Scope<'_>) -> Result<Self> {
        let (n_levels, n_blocks) = sizes(scope, "up");
        let (n_in, n) = (scope.side("conv_in.weight", 1, 4)?, scope.side("conv_in.weight", 0, 4)?);
        norms.check(n, scope)?;
        let conv_in = Conv2d::new(n_in, n, 3, &scope.pp("conv_in"))?;
        let (mid, mut n) = Middle::new(n, norms, &scope.pp("mid"))?;
        let mut up = Vec::with_capacity(n_levels);
        for level in (0..n_levels).rev() {
            let scope = scope.pp("up").pp(level);
            let (blocks, n_out) = Blocks::new(n, n_blocks, norms, &scope)?;
            n = n_out;
            let doubling = if level == 0 { None } else { Some(Conv2d::new(n, n, 3, &scope.pp("upsample.conv"))?) };
            up.push((blocks, doubling));
        }
        let n_out = scope.side("conv_out.weight", 0, 4)?;
        Ok(Self {
            conv_in,
            mid,
            up,
            norm_out: GroupNorm::new(n, norms.n_groups, norms.eps, &scope.pp("norm_out"))?,
            conv_out: Conv2d::new(n, n_out, 3, &scope.pp("conv_out"))?,
            n_in,
        })
    }

    /// `(batch, n_in, height, width)` to `(batch, channels, height * factor, width * factor)`.
    pub fn forward(&self, x: &Map) -> Result<Map> {
        let mut x = self.mid.forward(&self.conv_in.forward(x)?)?;
        for (blocks, doubling) in &self.up {
            x = blocks.forward(&x)?;
            if let Some(doubling) = doubling {
                x = doubling.forward(&x.doubled()?)?;
            }
        }
        self.conv_out.forward(&self.norm_out.forward(&x, Activation::Silu)?)
    }
}
