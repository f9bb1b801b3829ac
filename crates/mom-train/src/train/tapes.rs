//! The way back from a loss to the gradients of all parameters.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use mom_core::autograd::{Sink, Tape};
use mom_core::to_device;
use mom_models::{Losses, Model, Parameters};

use crate::Result;

/// Which tape a model's losses are taken down on.
#[derive(Debug)]
pub(super) enum Tapes {
    /// One of recorded functions alone, from the gradient of the loss itself on: one, which a captured step finds where it was.
    Recorded { seed: Tensor },
    /// candle's; on a device the gradients of parameters come by a sink.
    Candle { sink: Option<Sink> },
}

/// What a forward pass was taken down on: nothing, where candle's tensors hold it themselves.
pub(super) struct Taped(Option<Tape>);

impl Tapes {
    /// Those of a model whose parameters lie on a device.
    pub fn of(model: &Model, parameters: &Parameters, device: &Device) -> Result<Self> {
        if model.is_recorded() {
            // As the loss: f64 only in models that no run has.
            let seed = to_device(&[1f32], 1, device)?;
            return Ok(Self::Recorded { seed });
        }
        let variables = parameters.iter().map(|(_, variable)| variable);
        Ok(Self::Candle { sink: device.is_cuda().then(|| Sink::new(variables, device)).transpose()? })
    }

    /// Runs a forward pass.
    pub fn forward(&self, forward: impl FnOnce() -> Result<Losses>) -> Result<(Losses, Taped)> {
        Ok(match self {
            Self::Recorded { .. } => {
                let tape = Tape::new();
                (tape.scope(forward)?, Taped(Some(tape)))
            }
            Self::Candle { sink: Some(sink) } => (sink.scope(forward)?, Taped(None)),
            Self::Candle { sink: None } => (forward()?, Taped(None)),
        })
    }

    /// Gradients of a loss, by the index of their parameter, each once: of a recorded tape as soon as it is whole. `None`, at once, of
    /// parameters that the loss does not depend on. One that all functions give as absent is not given.
    pub fn gradients(
        &self,
        parameters: &Parameters,
        losses: &Losses,
        taped: Taped,
        mut take: impl FnMut(usize, Option<Tensor>) -> Result<()>,
    ) -> Result<()> {
        let mut all = parameters.iter().map(|(_, variable)| variable.as_tensor().id()).enumerate();
        match (self, taped.0) {
            // A batch without a target has a loss that depends on nothing.
            (Self::Recorded { seed }, Some(tape)) if losses.total.track_op() => {
                let reached = tape.parameters_of(&losses.total);
                let mut index_of = HashMap::new();
                // Before the pass: the order in which ranks exchange rests on it, see `optim::sharded::device`.
                for (index, id) in all {
                    index_of.insert(id, index);
                    if !reached.contains(&id) {
                        take(index, None)?;
                    }
                }
                let mut refused = None;
                let passed = tape.backward(&losses.total, seed.clone(), |id, gradient| {
                    let Some(&index) = index_of.get(&id) else { return Ok(()) };
                    take(index, Some(gradient)).map_err(|error| {
                        let words = candle_core::Error::msg(&error);
                        refused = Some(error);
                        words
                    })
                });
                match refused {
                    Some(error) => Err(error),
                    None => Ok(passed?),
                }
            }
            (Self::Candle { sink }, _) => {
                let mut of = by_candle(parameters, losses, sink.as_ref())?;
                all.try_for_each(|(index, id)| take(index, of.remove(&id)))
            }
            (Self::Recorded { .. }, _) => all.try_for_each(|(index, _)| take(index, None)),
        }
    }
}

fn by_candle(
    parameters: &Parameters,
    losses: &Losses,
    sink: Option<&Sink>,
) -> Result<HashMap<candle_core::TensorId, Tensor>> {
    let backward = losses.total.backward();
    if let (Err(_), Some(sink)) = (&backward, sink) {
        // What came so far is no part of the next step.
        parameters.iter().for_each(|(_, variable)| drop(sink.take(variable)));
    }
    let mut store = backward?;
    let mut gradients = HashMap::new();
    for (_, variable) in parameters.iter() {
        let sunk = sink.and_then(|sink| sink.take(variable));
        let gradient = match (sunk, store.remove(variable)) {
            (Some(sunk), Some(taped)) => Some((sunk + taped)?),
            (sunk, taped) => sunk.or(taped),
        };
        gradients.extend(gradient.map(|gradient| (variable.as_tensor().id(), gradient)));
    }
    Ok(gradients)
}
