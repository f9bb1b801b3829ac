//! The batches of a step on their way to the device.

use candle_core::DType;
use mom_data::Batch;
use mom_models::diffusion::Noise;
use mom_models::{Inputs, Model, Normaliser};

use crate::data::view;
use crate::{DeviceKind, Recompute, Result};

/// A batch and its noise.
#[derive(Debug)]
pub(crate) struct Input {
    pub batch: Batch,
    pub noise: Option<Noise>,
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
    /// What their losses are divided by.
    pub counts: Normaliser,
    /// Positions of all batches.
    pub n_tokens: usize,
}

impl Work {
    /// Brings the first batch to where the model is. On a device this waits for nothing.
    ///
    /// # Errors
    /// A batch that does not fit the model, out of memory.
    pub fn new(model: &Model, first: &Input, rest: Vec<Input>, mode: Mode) -> Result<Self> {
        let all = || std::iter::once(first).chain(&rest).map(|input| &input.batch);
        let counts = all().map(|batch| Normaliser::of(&view(batch))).fold(Normaliser::default(), |a, b| a + b);
        let n_tokens = all().map(|batch| batch.batch * batch.seqlen).sum();
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
