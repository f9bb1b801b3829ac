//! Patches in and out through a U-Net (Transfusion, arXiv 2408.11039, section 3.1): its way down stands before the backbone, its
//! way up behind it, and what the way down saw of a picture goes past the backbone to the way up of the same picture.
//!
//! ```text
//! noisy picture -> conv_in -> level 0 -> downsample -> level 1 -> middle -> conv_out -> a row of d_model for each patch
//!                     |          |           |           |
//!                     +----------+-----------+-----------+---- skips, last one first
//!                                                              v
//! noise         <- conv_out <- level 0 <- upsample <- level 1 <- middle <- conv_in <- the backbone's row for each patch
//! ```
//! A picture is a square of patches; the grid of the patches is level 1, and level 0 has four positions of a patch, each a
//! square of half its side: in the paper, whose patches are 2 x 2 latents, a latent each. Every residual block is told the
//! timestep. The backbone is what stands in the middle, so that there is no attention here.
//!
//! | file | what it does |
//! | --- | --- |
//! | `config` | sizes, parameters and FLOPs, from one list of layers |
//! | `taps` | which positions a convolution reads |
//! | `convolve`, `norm` | the two operations, each a node with its backward pass |
//! | `way` | who computes them |
//! | `gpu` | the convolution and its gradients on a GPU |
//! | `block` | layers with parameters, the residual block |
//! | `pictures` | pictures of a batch by their sizes |

mod block;
mod config;
mod convolve;
#[cfg(feature = "cuda")]
mod gpu;
mod norm;
mod pictures;
mod taps;
#[cfg(test)]
mod tests;
mod way;

use candle_core::Tensor;
use candle_nn::VarBuilder;
use mom_core::ops::silu;
use mom_core::{Draw, Init};

use block::{Conv, NormSilu, ResnetBlock};
pub use config::{PatchOrder, UnetConfig};
use pictures::Group;
pub use pictures::Pictures;
pub(crate) use pictures::side;

use super::TIME_FEATURES;
use crate::Result;
use crate::error::require_batch;
use crate::layers::Linear;

/// The U-Net around the backbone. Parameters: `time_in`, `time_out`, `down.*`, `up.*`; `up.conv_out` is zero at the start, so
/// that the first prediction of the noise is its mean.
#[derive(Debug, Clone)]
pub struct UnetPatcher {
    config: UnetConfig,
    patch_dim: usize,
    time_in: Linear,
    time_out: Linear,
    down: Down,
    up: Up,
}

#[derive(Debug, Clone)]
struct Down {
    conv_in: Conv,
    levels: [Vec<ResnetBlock>; 2],
    downsample: Conv,
    middle: ResnetBlock,
    norm_out: NormSilu,
    conv_out: Conv,
}

#[derive(Debug, Clone)]
struct Up {
    conv_in: Conv,
    middle: ResnetBlock,
    levels: [Vec<ResnetBlock>; 2],
    upsample: Conv,
    norm_out: NormSilu,
    conv_out: Conv,
}

/// What the way up needs of the way down: of each group of pictures.
#[derive(Debug, Clone)]
pub struct Skips(Vec<SkipsOfGroup>);

#[derive(Debug, Clone)]
struct SkipsOfGroup {
    /// `(n_pictures, time_width)`, after its SiLU.
    time: Tensor,
    /// In the order of the way down.
    skips: Vec<Tensor>,
}

impl Skips {
    /// The same off the tape.
    pub(crate) fn detached(self) -> Self {
        let of_group = |SkipsOfGroup { time, skips }: SkipsOfGroup| SkipsOfGroup {
            time: time.detach(),
            skips: skips.iter().map(Tensor::detach).collect(),
        };
        Self(self.0.into_iter().map(of_group).collect())
    }
}

impl UnetPatcher {
    /// A patcher with the parameters of `vb`.
    ///
    /// # Errors
    /// Sizes out of range; a parameter that is missing or of another shape.
    pub fn new(config: &UnetConfig, d_model: usize, patch_dim: usize, init: &Init, vb: &VarBuilder) -> Result<Self> {
        config.validate(patch_dim)?;
        let ([upper, lower], time, square) = (config.levels(), config.time_width(), UnetConfig::square_dim(patch_dim));
        let uniform = |n_in: usize| Draw::Uniform((n_in as f64).powf(-0.5));
        let block = |of, vb: &VarBuilder| ResnetBlock::new(of, time, init, vb);
        let level = |of: &[(usize, usize)], vb: &VarBuilder| -> Result<Vec<ResnetBlock>> {
            of.iter().enumerate().map(|(i, &of)| block(of, &vb.pp("blocks").pp(i))).collect()
        };
        let both = |of: &[Vec<(usize, usize)>; 2], vb: &VarBuilder| -> Result<[Vec<ResnetBlock>; 2]> {
            Ok([level(&of[0], &vb.pp("levels_0"))?, level(&of[1], &vb.pp("levels_1"))?])
        };
        let (ways, down, up) = (config.blocks(), vb.pp("down"), vb.pp("up"));
        Ok(Self {
            config: config.clone(),
            patch_dim,
            time_in: Linear::new(TIME_FEATURES, time, uniform(TIME_FEATURES), init, vb.pp("time_in"))?,
            time_out: Linear::new(time, time, uniform(time), init, vb.pp("time_out"))?,
            down: Down {
                conv_in: Conv::new(square, upper, init, &down.pp("conv_in"))?,
                levels: both(&ways.down, &down)?,
                downsample: Conv::new(upper, upper, init, &down.pp("downsample"))?,
                middle: block((lower, lower), &down.pp("middle"))?,
                norm_out: NormSilu::new(lower, init, &down.pp("norm_out"))?,
                conv_out: Conv::new(lower, d_model, init, &down.pp("conv_out"))?,
            },
            up: Up {
                conv_in: Conv::new(d_model, lower, init, &up.pp("conv_in"))?,
                middle: block((lower, lower), &up.pp("middle"))?,
                levels: both(&ways.up, &up)?,
                upsample: Conv::new(lower, lower, init, &up.pp("upsample"))?,
                norm_out: NormSilu::new(upper, init, &up.pp("norm_out"))?,
                conv_out: Conv::zero(upper, square, init, &up.pp("conv_out"))?,
            },
        })
    }

    /// Noisy patches into the residual stream, and what the way up needs.
    ///
    /// `patches`: `(n_patches, patch_dim)`; `pictures`: those of the patches; `time_features`: `(n_images, 256)`, of each
    /// picture. Returns `(n_patches, d_model)`.
    ///
    /// # Errors
    /// Sizes that disagree, an unsupported element type or device.
    pub fn embed(&self, patches: &Tensor, pictures: &Pictures, time_features: &Tensor) -> Result<(Tensor, Skips)> {
        let (n_patches, _) = patches.dims2()?;
        require_batch(n_patches == pictures.n_patches(), "patches", None, pictures.n_patches(), n_patches)?;
        let time = silu(&self.time_out.forward(&silu(&self.time_in.forward(time_features)?)?)?)?;
        let (mut rows, mut skips) = (Vec::new(), Vec::new());
        for group in pictures.groups() {
            let noisy = self.squares(&patches.narrow(0, group.first_patch(), group.n_patches())?, group)?;
            let time = time.narrow(0, group.first_picture, group.n_pictures)?.contiguous()?;
            let (x, of_group) = self.down.forward(&noisy, &time, group)?;
            rows.push(x.reshape((group.n_patches(), ()))?);
            skips.push(SkipsOfGroup { time, skips: of_group });
        }
        Ok((joined(rows)?, Skips(skips)))
    }

    /// The noise that the model sees in the patches: `(n_patches, d_model)` to `(n_patches, patch_dim)`.
    ///
    /// # Errors
    /// Pictures other than those of the way down; an unsupported element type or device.
    pub fn predict(&self, x: &Tensor, pictures: &Pictures, skips: &Skips) -> Result<Tensor> {
        let (n_patches, d_model) = x.dims2()?;
        let same = n_patches == pictures.n_patches() && skips.0.len() == pictures.groups().len();
        require_batch(same, "rows", None, format!("{} of the way down", pictures.n_patches()), n_patches)?;
        let mut rows = Vec::new();
        for (group, skips) in pictures.groups().iter().zip(&skips.0) {
            let x = x.narrow(0, group.first_patch(), group.n_patches())?;
            let x = x.reshape((group.n_pictures, group.side * group.side, d_model))?;
            rows.push(self.patches(&self.up.forward(&x, skips, group)?, group)?);
        }
        joined(rows)
    }

    /// Shape and order of axes that bring the values of patches to those of level 0's positions; the way back is the inverse.
    fn axes(&self, group: &Group) -> (Vec<usize>, [usize; 8]) {
        let half = self.config.patch(self.patch_dim) / 2;
        let (n, side, channels) = (group.n_pictures, group.side, self.config.channels);
        match self.config.order {
            PatchOrder::ChannelsLast => (vec![n, side, side, 2, half, 2, half, channels], [0, 1, 3, 2, 5, 4, 6, 7]),
            PatchOrder::ChannelsFirst => (vec![n, side, side, channels, 2, half, 2, half], [0, 1, 4, 2, 6, 5, 7, 3]),
        }
    }

    /// `(n_patches, patch_dim)` to `(n_pictures, 4 patches, patch_dim / 4)`.
    fn squares(&self, patches: &Tensor, group: &Group) -> Result<Tensor> {
        let (shape, order) = self.axes(group);
        let x = patches.reshape(shape)?.permute(&order[..])?.contiguous()?;
        Ok(x.reshape((group.n_pictures, 4 * group.side * group.side, ()))?)
    }

    /// The inverse of [`Self::squares`].
    fn patches(&self, squares: &Tensor, group: &Group) -> Result<Tensor> {
        let (shape, order) = self.axes(group);
        let mut back = [0; 8];
        order.iter().enumerate().for_each(|(to, &from)| back[from] = to);
        let there: Vec<usize> = order.iter().map(|&axis| shape[axis]).collect();
        let x = squares.reshape(there)?.permute(&back[..])?.contiguous()?;
        Ok(x.reshape((group.n_patches(), self.patch_dim))?)
    }
}

/// All rows, one group's after the other's.
fn joined(rows: Vec<Tensor>) -> Result<Tensor> {
    match <[Tensor; 1]>::try_from(rows) {
        Ok([rows]) => Ok(rows),
        Err(rows) => Ok(Tensor::cat(&rows, 0)?),
    }
}

impl Down {
    fn forward(&self, noisy: &Tensor, time: &Tensor, group: &Group) -> Result<(Tensor, Vec<Tensor>)> {
        let [taps, of_patches] = &group.same;
        let mut skips = vec![self.conv_in.forward(noisy, taps)?];
        let mut x = skips[0].clone();
        for block in &self.levels[0] {
            x = block.forward(&x, time, taps)?;
            skips.push(x.clone());
        }
        x = self.downsample.forward(&x, &group.halving)?;
        skips.push(x.clone());
        for block in &self.levels[1] {
            x = block.forward(&x, time, of_patches)?;
            skips.push(x.clone());
        }
        x = self.middle.forward(&x, time, of_patches)?;
        Ok((self.conv_out.forward(&self.norm_out.forward(&x)?, of_patches)?, skips))
    }
}

impl Up {
    fn forward(&self, x: &Tensor, of_down: &SkipsOfGroup, group: &Group) -> Result<Tensor> {
        let ([taps, of_patches], time) = (&group.same, &of_down.time);
        let mut skips = of_down.skips.iter().rev();
        let mut x = self.middle.forward(&self.conv_in.forward(x, of_patches)?, time, of_patches)?;
        for (block, skip) in self.levels[1].iter().zip(&mut skips) {
            x = block.forward(&Tensor::cat(&[&x, skip], 2)?, time, of_patches)?;
        }
        x = self.upsample.forward(&x, &group.doubling)?;
        for (block, skip) in self.levels[0].iter().zip(&mut skips) {
            x = block.forward(&Tensor::cat(&[&x, skip], 2)?, time, taps)?;
        }
        self.conv_out.forward(&self.norm_out.forward(&x)?, taps)
    }
}
