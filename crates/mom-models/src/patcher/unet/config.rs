//! Sizes of the U-Net around the patches, counted from one list of its layers.

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::error::{config, require};
use crate::patcher::TIME_FEATURES;

/// The order of the values of a patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PatchOrder {
    /// (row, column, channel): pixels.
    ChannelsLast,
    /// (channel, row, column): latents.
    ChannelsFirst,
}

/// Sizes of a [`UnetPatcher`](super::UnetPatcher).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnetConfig {
    /// Values of a pixel or of a place of a latent picture.
    pub channels: usize,
    /// How a patch holds them.
    pub order: PatchOrder,
    /// Channels of the upper level; the level at the grid of the patches has twice as many.
    pub width: usize,
}

/// Residual blocks of a level on the way down; one more on the way up.
pub(super) const BLOCKS: usize = 2;

/// A layer as it is counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counted {
    n_in: usize,
    n_out: usize,
    /// 9 of a convolution.
    taps: usize,
    has_bias: bool,
    /// Positions that a patch has of its output; 0 for what is once for a picture.
    positions: usize,
}

impl UnetConfig {
    /// The width that goes with a backbone: a quarter of its own, so that the U-Net grows with it, in whole eights.
    pub const fn width_for(d_model: usize) -> usize {
        let eighths = d_model / 32;
        8 * if eighths == 0 { 1 } else { eighths }
    }

    /// The one beside a backbone over the paper's patches, of 2 x 2 latents of 8 channels.
    pub const fn of_paper(d_model: usize) -> Self {
        Self { channels: 8, order: PatchOrder::ChannelsFirst, width: Self::width_for(d_model) }
    }

    /// Channels of the upper level, of squares of [`Self::square`] pixels, and of the grid of the patches.
    pub(super) const fn levels(&self) -> [usize; 2] {
        [self.width, 2 * self.width]
    }

    /// Features of the timestep's embedding.
    pub(super) const fn time_width(&self) -> usize {
        4 * self.width
    }

    /// Side of a patch: its values are `channels` times its square.
    pub(super) const fn patch(&self, patch_dim: usize) -> usize {
        (patch_dim / self.channels).isqrt()
    }

    /// Values of the squares that the upper level has as its positions: a quarter of a patch.
    pub(super) const fn square_dim(patch_dim: usize) -> usize {
        patch_dim / 4
    }

    /// Checks every value beside those of the model.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config), naming the field.
    pub fn validate(&self, patch_dim: usize) -> Result<()> {
        let width = self.width;
        let fits = (8..=4096).contains(&width) && width.is_multiple_of(8);
        require(fits, "unet.width", "a multiple of 8 from 8 to 4096", width)?;
        require(self.channels > 0, "unet.channels", "at least 1", self.channels)?;
        let patch = self.patch(patch_dim);
        let whole = patch * patch * self.channels == patch_dim;
        let expected = format!("{} channels times a square, for the unet patcher", self.channels);
        require(whole, "patch_dim", &expected, patch_dim)?;
        if patch == 0 || !patch.is_multiple_of(2) {
            let expected =
                "patches of an even side for the unet patcher, whose upper level has half of a patch for its positions";
            return Err(config("patch_dim", expected, format!("a side of {patch}")));
        }
        Ok(())
    }

    /// Channels in and out of the residual blocks, on the way down and up: of the upper level, of the lower one.
    pub(super) fn blocks(&self) -> Ways {
        let [upper, lower] = self.levels();
        let skips_of_upper = vec![upper; BLOCKS + 1];
        // The lower level's first skip is what came down.
        let mut skips_of_lower = vec![upper];
        skips_of_lower.extend([lower; BLOCKS]);
        let chain = |first: usize, n_out: usize, skips: &[usize]| -> Vec<(usize, usize)> {
            let mut n_in = first;
            skips.iter().rev().map(|skip| (std::mem::replace(&mut n_in, n_out) + skip, n_out)).collect()
        };
        let plain =
            |first: usize, n_out: usize| (0..BLOCKS).map(|i| (if i == 0 { first } else { n_out }, n_out)).collect();
        Ways {
            down: [plain(upper, upper), plain(upper, lower)],
            up: [chain(lower, upper, &skips_of_upper), chain(lower, lower, &skips_of_lower)],
        }
    }

    /// Every layer, and the channels of every norm.
    fn counted(&self, d_model: usize, patch_dim: usize) -> (Vec<Counted>, Vec<usize>) {
        let ([upper, lower], time, square) = (self.levels(), self.time_width(), Self::square_dim(patch_dim));
        let linear = |n_in, n_out, positions| Counted { n_in, n_out, taps: 1, has_bias: true, positions };
        let conv = |n_in, n_out, positions| Counted { taps: 9, ..linear(n_in, n_out, positions) };
        let mut layers = vec![
            linear(TIME_FEATURES, time, 0),
            linear(time, time, 0),
            conv(square, upper, 4),
            conv(upper, upper, 1),
            conv(lower, d_model, 1),
            conv(d_model, lower, 1),
            conv(lower, lower, 4),
            conv(upper, square, 4),
        ];
        let mut norms = vec![lower, upper];
        let Ways { down, up } = self.blocks();
        let blocks = |level: usize| down[level].iter().chain(&up[level]).copied();
        let of_lower = blocks(1).chain([(lower, lower); 2]).map(|of| (of, 1));
        for ((n_in, n_out), positions) in blocks(0).map(|of| (of, 4)).chain(of_lower) {
            layers.push(Counted { has_bias: false, ..conv(n_in, n_out, positions) });
            layers.push(conv(n_out, n_out, positions));
            layers.push(linear(time, n_out, 0));
            if n_in != n_out {
                layers.push(linear(n_in, n_out, positions));
            }
            norms.extend([n_in, n_out]);
        }
        (layers, norms)
    }

    /// Number of parameters.
    pub fn n_parameters(&self, d_model: usize, patch_dim: usize) -> usize {
        let (layers, norms) = self.counted(d_model, patch_dim);
        let of_layer = |l: &Counted| l.n_out * (l.taps * l.n_in + usize::from(l.has_bias));
        layers.iter().map(of_layer).sum::<usize>() + 2 * norms.iter().sum::<usize>()
    }

    /// Forward operations for each patch: two for each multiply-add of its convolutions. What is once for a picture is left
    /// out, as are norms and activations.
    pub fn forward_flops(&self, d_model: usize, patch_dim: usize) -> f64 {
        let (layers, _) = self.counted(d_model, patch_dim);
        layers.iter().map(|l| 2.0 * (l.positions * l.taps * l.n_in * l.n_out) as f64).sum()
    }
}

/// Channels in and out of each residual block, of the upper level and of the lower one.
pub(super) struct Ways {
    pub down: [Vec<(usize, usize)>; 2],
    pub up: [Vec<(usize, usize)>; 2],
}

#[cfg(test)]
mod tests {
    use super::*;

    fn papers() -> UnetConfig {
        UnetConfig::of_paper(2048)
    }

    #[test]
    fn the_papers_width_has_the_papers_weights() {
        let unet = papers();
        assert_eq!(unet.width, 512);
        let n = unet.n_parameters(2048, 32);
        assert_eq!(n, 266_496_520);
        assert_eq!((n as f64 / 1e7).round(), 27.0, "0.27 B");
    }

    #[test]
    fn operations_are_those_of_a_count_by_hand() {
        // In squares of the width: the upper level's blocks at four positions of a patch, the lower level's at one, and the two
        // convolutions between them.
        let (upper, lower, between) = (4 * (36 + 39 + 2 * 29), 56 + 72 + 2 * 72 + 2 * 116 + 96, 9 + 4 * 36);
        let (width, d_model, square) = (512, 2048, 8);
        let products =
            (upper + lower + between) * width * width + 2 * 4 * 9 * square * width + 2 * 9 * 2 * width * d_model;
        assert_eq!(papers().forward_flops(d_model, 4 * square), 2.0 * products as f64);
    }
}
