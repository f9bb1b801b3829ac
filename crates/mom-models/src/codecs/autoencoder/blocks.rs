//! Residual block and attention block.

use super::Norms;
use crate::Result;
use crate::codecs::layers::{Activation, Conv2d, GroupNorm, Heads, Linear, Map, attend};
use crate::codecs::network::Scope;

/// `x + conv2(silu(norm2(conv1(silu(norm1(x))))))`; where channels change, `nin_shortcut` (1x1) of x in place of x.
#[derive(Debug, Clone)]
pub(super) struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    nin_shortcut: Option<Conv2d>,
}

impl ResnetBlock {
    /// A block of `n_in` channels, and how many it gives, which its weights tell.
    pub fn new(n_in: usize, norms: Norms, scope: &Scope<'_>) -> Result<(Self, usize)> {
        let n_out = scope.side("conv1.weight", 0, 4)?;
        norms.check(n_out, scope)?;
        let norm = |n, name| GroupNorm::new(n, norms.n_groups, norms.eps, &scope.pp(name));
        let nin_shortcut =
            if n_in == n_out { None } else { Some(Conv2d::new(n_in, n_out, 1, &scope.pp("nin_shortcut"))?) };
        let block = Self {
            norm1: norm(n_in, "norm1")?,
            conv1: Conv2d::new(n_in, n_out, 3, &scope.pp("conv1"))?,
            norm2: norm(n_out, "norm2")?,
            conv2: Conv2d::new(n_out, n_out, 3, &scope.pp("conv2"))?,
            nin_shortcut,
        };
        Ok((block, n_out))
    }

    pub fn forward(&self, x: &Map) -> Result<Map> {
        let h = self.conv1.forward(&self.norm1.forward(x, Activation::Silu)?)?;
        let h = self.norm2.forward(&h, Activation::Silu)?;
        match &self.nin_shortcut {
            Some(shortcut) => self.conv2.forward_add(&h, &shortcut.forward(x)?),
            None => self.conv2.forward_add(&h, x),
        }
    }
}

/// `x + proj_out(attention of norm(x))` over all pixels, with one head.
#[derive(Debug, Clone)]
pub(super) struct AttnBlock {
    norm: GroupNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    proj_out: Linear,
}

impl AttnBlock {
    pub fn new(n: usize, norms: Norms, scope: &Scope<'_>) -> Result<Self> {
        let linear = |name| Linear::new(n, n, &scope.pp(name));
        Ok(Self {
            norm: GroupNorm::new(n, norms.n_groups, norms.eps, &scope.pp("norm"))?,
            q: linear("q")?,
            k: linear("k")?,
            v: linear("v")?,
            proj_out: linear("proj_out")?,
        })
    }

    pub fn forward(&self, x: &Map) -> Result<Map> {
        let pixels = self.norm.forward(x, Activation::None)?.rows()?;
        let (q, k, v) = (self.q.forward(&pixels)?, self.k.forward(&pixels)?, self.v.forward(&pixels)?);
        let seen = attend(&q, &k, &v, 1, Heads::Full)?;
        x.plus(&x.with_rows(&self.proj_out.forward(&seen)?)?)
    }
}

/// The middle: a residual block, attention where the file has it, a residual block.
#[derive(Debug, Clone)]
pub(super) struct Middle {
    block_1: ResnetBlock,
    attn_1: Option<AttnBlock>,
    block_2: ResnetBlock,
}

impl Middle {
    pub fn new(n: usize, norms: Norms, scope: &Scope<'_>) -> Result<(Self, usize)> {
        let (block_1, n) = ResnetBlock::new(n, norms, &scope.pp("block_1"))?;
        let has_attention = scope.holds("attn_1");
        let attn_1 = if has_attention { Some(AttnBlock::new(n, norms, &scope.pp("attn_1"))?) } else { None };
        let (block_2, n) = ResnetBlock::new(n, norms, &scope.pp("block_2"))?;
        Ok((Self { block_1, attn_1, block_2 }, n))
    }

    pub fn forward(&self, x: &Map) -> Result<Map> {
        let mut x = self.block_1.forward(x)?;
        if let Some(attention) = &self.attn_1 {
            x = attention.forward(&x)?;
        }
        self.block_2.forward(&x)
    }
}

/// The blocks of a level, each with attention behind it where the file has it.
#[derive(Debug, Clone)]
pub(super) struct Blocks(Vec<(ResnetBlock, Option<AttnBlock>)>);

impl Blocks {
    pub fn new(mut n: usize, n_blocks: usize, norms: Norms, scope: &Scope<'_>) -> Result<(Self, usize)> {
        let has_attention = scope.holds("attn");
        let mut blocks = Vec::with_capacity(n_blocks);
        for i in 0..n_blocks {
            let (block, n_out) = ResnetBlock::new(n, norms, &scope.pp("block").pp(i))?;
            n = n_out;
            let attention = if has_attention { Some(AttnBlock::new(n, norms, &scope.pp("attn").pp(i))?) } else { None };
            blocks.push((block, attention));
        }
        Ok((Self(blocks), n))
    }

    pub fn forward(&self, x: &Map) -> Result<Map> {
        let mut x = x.clone();
        for (block, attention) in &self.0 {
            x = block.forward(&x)?;
            if let Some(attention) = attention {
                x = attention.forward(&x)?;
            }
        }
        Ok(x)
    }
}
