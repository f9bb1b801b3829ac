//! The batches of a step on their way to the device.

use candle_core::DType;
use mom_data::{Batch, Chunk, Share};
use mom_models::diffusion::Noise;
use mom_models::{Inputs, Model, Normaliser};

use crate::data::view;
use crate::{DeviceKind, Recompute, Result};

/// A batch and its noise.
#[derive(Debug, Clone)]
pub(crate) struct Input {
    pub batch: Batch,
    pub noise: Option<Noise>,
}

impl Input {
    /// One of as many chunks of each sequence as there are ranks in the share, with its part of the noise.
    pub fn chunk(self, Share { rank, of }: Share) -> Self {
        if of == 1 {
            return self;
        }
        let len = self.batch.seqlen / of;
        let patch_dim = self.batch.patch_dim;
        let Chunk { batch, patches, images } = self.batch.chunk(rank * len..(rank + 1) * len);
        let noise = self.noise.filter(|_| !patches.is_empty()).map(|noise| noise.chosen(&images, &patches, patch_dim));
        Self { batch, noise }
    }
}

/// How an engine computes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mode {
    pub dtype: DType,
    pub device: DeviceKind,
    pub recompute: Recompute,
    /// Whether a step is captured, see [`crate::config::Graph`].
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    pub captures: bool,
}

/// The batches of a step. The first is where the model is; each of the others is sent there while the one before is worked on,
/// so that two are there at a time.
#[derive(Debug)]
pub(crate) struct Work {
    pub first: Inputs,
    pub rest: Vec<Input>,
    /// What their losses are divided by: of all ranks.
    pub counts: Normaliser,
    /// Positions of all batches, of all ranks.
    pub n_tokens: usize,
}

/// What the batches of a step, or of a rank's share of it, hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Content {
    pub counts: Normaliser,
    /// Positions.
    pub n_tokens: usize,
}

impl std::iter::Sum for Content {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), |a, b| Self { counts: a.counts + b.counts, n_tokens: a.n_tokens + b.n_tokens })
    }
}

impl Work {
    /// Brings the first batch to where the model is. On a device this waits for nothing. `of_all` gives what the step holds on all ranks, from
    /// what it holds on this one.
    ///
    /// # Errors
    /// A batch that does not fit the model, out of memory; those of `of_all`.
    pub fn new(
        model: &Model,
        first: &Input,
        rest: Vec<Input>,
        mode: Mode,
        of_all: impl FnOnce(Content) -> Result<Content>,
    ) -> Result<Self> {
        let content =
            |batch: &Batch| Content { counts: Normaliser::of(&view(batch)), n_tokens: batch.batch * batch.seqlen };
        let own = std::iter::once(first).chain(&rest).map(|input| content(&input.batch)).sum();
        let Content { counts, n_tokens } = of_all(own)?;
        Ok(Self { first: bring(model, first, counts, mode)?, rest, counts, n_tokens })
    }
}

/// Checks a batch and brings it to where the model is.
pub(super) fn bring(model: &Model, input: &Input, counts: Normaliser, mode: Mode) -> Result<Inputs> {
    let Input { batch, noise } = input;
    #[cfg(feature = "cuda")]
    if mode.captures {
        return Ok(model.inputs_for_graph(&view(batch), counts)?);
    }
    let _ = (counts, mode);
    Ok(model.inputs(&view(batch), noise.as_ref())?)
}
