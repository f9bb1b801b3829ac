//! The convolutional encoder and decoder that Chameleon's VQGAN and the KL autoencoders share: levels of residual blocks with
//! a halving or doubling between them, attention in the middle.
//!
//! Source: Esser, Rombach and Ommer 2021 (arXiv 2012.09841), appendix A; `ldm/modules/diffusionmodules/model.py` of
//! CompVis/latent-diffusion, whose names are this module's names. All sizes follow from the weights' shapes.

mod blocks;
mod decoder;
mod encoder;
mod names;

pub(super) use decoder::Decoder;
pub(super) use encoder::Encoder;
pub(super) use names::naming;

use super::network::Scope;
use crate::Result;

/// What weights do not tell.
#[derive(Debug, Clone, Copy)]
pub(super) struct Norms {
    /// Groups of every group norm.
    pub n_groups: usize,
    /// Added to every variance.
    pub eps: f64,
}

impl Norms {
    /// Fails unless the groups divide the channels at a place.
    fn check(self, n_channels: usize, scope: &Scope<'_>) -> Result<()> {
        if n_channels.is_multiple_of(self.n_groups) {
            return Ok(());
        }
        let expected = format!("a divisor of the {n_channels} channels");
        Err(scope.setting("norm_num_groups", expected, self.n_groups))
    }
}

/// Levels and blocks of a level of one half: the numbers that its names reach to.
fn sizes(scope: &Scope<'_>, levels: &str) -> (usize, usize) {
    let n_levels = scope.count(&format!("{levels}."));
    let blocks = (0..n_levels).map(|level| scope.count(&format!("{levels}.{level}.block.")));
    (n_levels, blocks.max().unwrap_or(0))
}
