//! A step on a GPU that is captured once, as a CUDA graph, and replayed for other batches.

use candle_core::Device;
use mom_core::cuda::{Captured, capture};
use mom_models::{Inputs, Losses};

use crate::Result;

/// Steps before the one that is captured, launched one by one: they load the kernels and choose the products' algorithms.
const WARMUP: usize = 2;

/// The memory that a graph reads and writes, and the graph.
#[derive(Debug)]
pub(super) struct CapturedStep {
    inputs: Inputs,
    /// Of the last step.
    losses: Losses,
    /// Steps over this memory.
    steps: usize,
    graph: Option<Captured>,
}

impl CapturedStep {
    /// Keeps the memory of a first step, which was launched.
    pub fn first(inputs: Inputs, losses: Losses) -> Self {
        Self { inputs, losses, steps: 1, graph: None }
    }

    /// What the last step read.
    pub fn inputs(&self) -> &Inputs {
        &self.inputs
    }

    /// What the last step gave.
    pub fn losses(&self) -> &Losses {
        &self.losses
    }

    /// Puts a step after the first on the stream. `launch` puts its kernels there, frees what it allocates, and waits for
    /// nothing. `singly`: they are launched one by one in any case.
    pub fn next(
        &mut self,
        device: &Device,
        inputs: &Inputs,
        singly: bool,
        mut launch: impl FnMut(&Inputs) -> Result<Losses>,
    ) -> Result<()> {
        self.inputs.copy_from(inputs)?;
        self.losses.of_inputs(inputs);
        self.steps += 1;
        if singly || self.steps <= WARMUP {
            return Ok(launch(&self.inputs)?.copy_to(&self.losses)?);
        }
        let graph = match self.graph.take() {
            Some(graph) => graph,
            None => {
                let step = || Ok::<_, crate::Error>(launch(&self.inputs)?.copy_to(&self.losses)?);
                // SAFETY: the step frees what it allocates; inputs and losses are this state's, which holds the graph too, and
                // weights, moments and sums are those of the engine that holds the state. That no other thread uses the
                // device is asked of whoever makes a trainer, at `Graph`.
                unsafe { capture(device, step)? }
            }
        };
        Ok(self.graph.insert(graph).launch()?)
    }
}
