//! A step that is launched once, captured, and replayed.

use mom_models::{Inputs, Losses, Model, Normaliser};

use super::{Engine, StepControl, value};
use crate::config::OptimizerSection;
use crate::optim::Optimiser;
use crate::train::StepReport;
use crate::train::captured::CapturedStep;
use crate::train::gradients::Gradients;
use crate::train::work::Work;
use crate::{Error, Result};

impl Engine {
    /// [`Self::step`] over a single batch. The first steps are launched one by one, all later ones are a graph's: the same
    /// kernels over the same memory, and so the same bits.
    pub(super) fn captured_step(
        &mut self,
        state: Option<CapturedStep>,
        work: Work,
        control: StepControl,
        config: &OptimizerSection,
        meanwhile: impl FnOnce(&Model) -> Result<()>,
    ) -> Result<(StepReport, CapturedStep)> {
        // A graph waits for nothing that was put on its way before it.
        self.settle();
        let step = self.optimiser.steps() + 1;
        let Work { first: inputs, rest, .. } = work;
        if !rest.is_empty() {
            return Err(crate::error::config("train.accumulate", "1 for a captured step", 1 + rest.len()));
        }
        self.optimiser.on_device()?.begin_step(control.learning_rate, control.skip_above)?;
        let world = self.world.clone();
        let state = world.waiting(|| match state {
            None => {
                let losses = self.launch(&inputs, config)?.detached();
                Ok::<_, Error>(CapturedStep::first(inputs, losses))
            }
            Some(mut state) => {
                let (device, singly) = (self.mode.device.open()?, self.singly);
                state.next(&device, &inputs, singly, |inputs| self.launch(inputs, config))?;
                Ok(state)
            }
        })?;
        self.optimiser.on_device()?.take_step();
        let after = meanwhile(&self.model);
        // The step's own gradients are gone.
        let again = |engine: &Self| {
            let (losses, tape) = engine.loss(state.inputs(), Normaliser::default())?;
            let mut gradients = Gradients::of(&engine.parameters, 1);
            engine.tapes.gradients(&engine.parameters, &losses, tape, |index, it| gradients.add(index, it))?;
            gradients.all(&engine.parameters)
        };
        let grad_norm = self.checked_norm(step, control, again)?;
        after?;
        let (loss, by_modality) = (value(state.losses())?, state.losses().by_modality()?);
        let (loss, by_modality) = self.of_all_ranks(loss, by_modality)?;
        self.finite(step, "the loss", loss)?;
        Ok((StepReport { step, loss, by_modality, grad_norm, learning_rate: control.learning_rate }, state))
    }

    /// Forward pass, backward pass and update, none of which waits for the device, nor leaves anything on its way to other ranks.
    fn launch(&mut self, inputs: &Inputs, config: &OptimizerSection) -> Result<Losses> {
        let (losses, tape) = self.loss(inputs, Normaliser::default())?;
        match &mut self.optimiser {
            Optimiser::ShardedOnDevice(sharded) => {
                sharded.begin(false);
                self.tapes.gradients(&self.parameters, &losses, tape, |index, it| sharded.take(index, it))?;
                sharded.update(config)?;
                sharded.forget();
                sharded.settle();
            }
            optimiser => {
                let mut gradients = Gradients::of(&self.parameters, 1);
                self.tapes.gradients(&self.parameters, &losses, tape, |index, it| gradients.add(index, it))?;
                optimiser.on_device()?.update(&gradients.all(&self.parameters)?, config)?;
            }
        }
        Ok(losses)
    }
}
