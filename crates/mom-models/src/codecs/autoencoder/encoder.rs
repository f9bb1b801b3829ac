//! Pixels to features.

use super::blocks::{Blocks, Middle};
use super::{Norms, sizes};
use crate::Result;
use crate::codecs::layers::{Activation, Conv2d, GroupNorm, Map};
use crate::codecs::network::Scope;

/// conv_in; levels with a halving after each but the last; the middle; norm_out, SiLU, conv_out.
#[derive(Debug, Clone)]
pub(in crate::codecs) struct Encoder {
    conv_in: Conv2d,
    down: Vec<(Blocks, Option<Conv2d>)>,
    mid: Middle,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    /// Channels of its pixels.
    pub n_in: usize,
    /// Channels of its features.
    pub n_out: usize,
}

impl Encoder {
    pub fn new(norms: Norms, scope: &Scope<'_>) -> Result<Self> {
        let (n_levels, n_blocks) = sizes(scope, "down");
        let (n_in, mut n) = (scope.side("conv_in.weight", 1, 4)?, scope.side("conv_in.weight", 0, 4)?);
        norms.check(n, scope)?;
        let conv_in = Conv2d::new(n_in, n, 3, &scope.pp("conv_in"))?;
        let mut down = Vec::with_capacity(n_levels);
        for level in 0..n_levels {
            let scope = scope.pp("down").pp(level);
            let (blocks, n_out) = Blocks::new(n, n_blocks, norms, &scope)?;
            n = n_out;
            let last = level + 1 == n_levels;
            let halving = if last { None } else { Some(Conv2d::halving(n, &scope.pp("downsample.conv"))?) };
            down.push((blocks, halving));
        }
        let (mid, n) = Middle::new(n, norms, &scope.pp("mid"))?;
        let n_out = scope.side("conv_out.weight", 0, 4)?;
        Ok(Self {
            conv_in,
            down,
            mid,
            norm_out: GroupNorm::new(n, norms.n_groups, norms.eps, &scope.pp("norm_out"))?,
            conv_out: Conv2d::new(n, n_out, 3, &scope.pp("conv_out"))?,
            n_in,
            n_out,
        })
    }

    /// Pixels along a side that become one feature.
    pub fn factor(&self) -> usize {
        1usize.checked_shl(self.down.len().saturating_sub(1) as u32).unwrap_or(usize::MAX)
    }

    /// `(batch, n_in, height, width)` to `(batch, n_out, height / factor, width / factor)`.
    pub fn forward(&self, x: &Map) -> Result<Map> {
        let mut x = self.conv_in.forward(x)?;
        for (blocks, halving) in &self.down {
            x = blocks.forward(&x)?;
            if let Some(halving) = halving {
                x = halving.forward(&x)?;
            }
        }
        let x = self.mid.forward(&x)?;
        self.conv_out.forward(&self.norm_out.forward(&x, Activation::Silu)?)
    }
}
