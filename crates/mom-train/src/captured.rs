//! A step on a GPU that is captured once, as a CUDA graph, and replayed for other batches.

use mom_core::cuda::{Captured, capture};
use mom_models::{Inputs, Losses, Model, Normaliser};

use crate::config::OptimizerSection;
use crate::engine::{Engine, Work, value};
use crate::{Result, StepReport, error};

/// Steps before the one that is captured, launched one by one: they load the kernels and choose the products' algorithms.
const WARMUP: usize = 2;

/// The memory that a graph reads and writes, and the graph.
#[derive(Debug)]
pub(crate) struct CapturedStep {
    inputs: Inputs,
    /// Of the last step.
    losses: Losses,
    /// Steps over this memory.
    steps: usize,
    graph: Option<Captured>,
}

impl Engine {
    /// [`Engine::step`] over a single batch. The first steps are launched one by one, all later ones are a graph's: the same
    /// kernels over the same memory, and so the same bits. `singly`: this one is launched one by one in any case.
    pub(crate) fn captured_step(
        &mut self,
        state: Option<CapturedStep>,
        work: Work,
        learning_rate: f64,
        config: &OptimizerSection,
        singly: bool,
        meanwhile: impl FnOnce(&Model) -> Result<()>,
    ) -> Result<(StepReport, CapturedStep)> {
        let step = self.optimiser.steps() + 1;
        let Work { first: inputs, rest, .. } = work;
        if !rest.is_empty() {
            return Err(error::config("train.accumulate", "1 for a captured step", 1 + rest.len()));
        }
        self.optimiser.on_device()?.begin_step(learning_rate)?;
        let mut state = match state {
            None => {
                let losses = self.launch(&inputs, config)?.detached();
                CapturedStep { inputs, losses, steps: 0, graph: None }
            }
            Some(mut state) => {
                state.inputs.copy_from(&inputs)?;
                state.losses.of_inputs(&inputs);
                self.run(&mut state, config, singly)?;
                state
            }
        };
        state.steps += 1;
        self.optimiser.on_device()?.take_step();
        let after = meanwhile(&self.model);
        // The step's own gradients are gone.
        let again = |engine: &Self| engine.gradients(&engine.loss(&state.inputs, Normaliser::default())?);
        let grad_norm = self.checked_norm(step, again)?;
        after?;
        let loss = value(&state.losses)?;
        self.finite(step, "the loss", loss)?;
        let by_modality = state.losses.by_modality()?;
        Ok((StepReport { step, loss, by_modality, grad_norm, learning_rate }, state))
    }

    /// Puts a step after the first on the stream.
    fn run(&mut self, state: &mut CapturedStep, config: &OptimizerSection, singly: bool) -> Result<()> {
        if singly || state.steps < WARMUP {
            return Ok(self.launch(&state.inputs, config)?.copy_to(&state.losses)?);
        }
        let graph = match state.graph.take() {
            Some(graph) => graph,
            None => {
                let device = self.mode.device.open()?;
                let CapturedStep { inputs, losses, .. } = &*state;
                let step = || Ok::<_, crate::Error>(self.launch(inputs, config)?.copy_to(losses)?);
                // SAFETY: the step frees what it allocates; inputs and losses are the state's, which holds the graph too, and
                // weights, moments and sums are this engine's, which holds the state. That no other thread uses the device
                // is asked of whoever makes a trainer, at `Graph`.
                unsafe { capture(&device, step)? }
            }
        };
        Ok(state.graph.insert(graph).launch()?)
    }

    /// Forward pass, backward pass and update, none of which waits for the device.
    fn launch(&mut self, inputs: &Inputs, config: &OptimizerSection) -> Result<Losses> {
        let losses = self.loss(inputs, Normaliser::default())?;
        let gradients = self.gradients(&losses)?;
        self.optimiser.on_device()?.update(&gradients, config)?;
        Ok(losses)
    }
}
