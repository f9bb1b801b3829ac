//! The end of a step: clipping, the update, and what stands against it.

use candle_core::Tensor;
use mom_models::Model;

use super::Engine;
use crate::config::OptimizerSection;
use crate::optim::{Optimiser, global_norm, squares};
use crate::train::gradients::Gradients;
use crate::{Error, Result};

/// How a step is taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct StepControl {
    pub learning_rate: f64,
    /// The largest norm of a gradient that does not stand out, if there is one.
    pub skip_above: Option<f64>,
}

impl StepControl {
    fn stands_out(self, norm: f64) -> bool {
        // As the device compares them: it is told of the limit in f32.
        self.skip_above.is_some_and(|limit| norm as f32 > limit as f32)
    }

    fn check(self, step: u64, norm: f64) -> Result<()> {
        match self.skip_above {
            Some(limit) if norm.is_finite() && self.stands_out(norm) => {
                Err(Error::Spike { step, norm, limit, origin: None, checkpoint: None })
            }
            _ => Ok(()),
        }
    }
}

/// What gradients of a norm are multiplied by.
fn clipping(norm: f64, config: &OptimizerSection) -> f64 {
    if norm > config.clip_norm { config.clip_norm / norm } else { 1.0 }
}

impl Engine {
    /// Clips and updates, unless a gradient is not finite; returns their norm. The gradients of ranks on GPUs were taken before.
    pub(super) fn update(
        &mut self,
        step: u64,
        gradients: Gradients,
        control: StepControl,
        config: &OptimizerSection,
        meanwhile: impl FnOnce(&Model) -> Result<()>,
    ) -> Result<f64> {
        let (norm, gradients) = match &mut self.optimiser {
            Optimiser::Host(adamw) => {
                let gradients = gradients.all(&self.parameters)?;
                let norm = global_norm(&gradients)?;
                if norm.is_finite() && !control.stands_out(norm) {
                    adamw.step(&gradients, clipping(norm, config), control.learning_rate, config)?;
                }
                (norm, gradients)
            }
            Optimiser::Sharded(adamw) => {
                let gradients = gradients.all(&self.parameters)?;
                let norm = adamw.reduce(&gradients)?;
                if norm.is_finite() && !control.stands_out(norm) {
                    adamw.step(&self.parameters, clipping(norm, config), control.learning_rate, config)?;
                }
                (norm, gradients)
            }
            #[cfg(feature = "cuda")]
            Optimiser::Device(adamw) => {
                let gradients = gradients.all(&self.parameters)?;
                adamw.begin_step(control.learning_rate, control.skip_above)?;
                adamw.update(&gradients, config)?;
                adamw.take_step();
                let after = meanwhile(&self.model);
                let norm = self.checked_norm(step, control, |_| Ok(gradients))?;
                after?;
                return Ok(norm);
            }
            #[cfg(feature = "cuda")]
            Optimiser::ShardedOnDevice(sharded) => {
                sharded.adamw_mut().begin_step(control.learning_rate, control.skip_above)?;
                self.world.waiting(|| sharded.update(config))?;
                sharded.adamw_mut().take_step();
                let after = meanwhile(&self.model);
                let norm = self.checked_norm(step, control, |_| Ok(Vec::new()));
                if let Optimiser::ShardedOnDevice(sharded) = &mut self.optimiser {
                    sharded.forget();
                }
                let norm = norm?;
                after?;
                return Ok(norm);
            }
        };
        meanwhile(&self.model)?;
        control.check(step, norm)?;
        if norm.is_finite() {
            return Ok(norm);
        }
        Err(self.non_finite_gradient(step, &gradients, norm)?)
    }

    /// The norm of the gradients of a step on the device; the step was taken if it is finite and does not stand out.
    /// `gradients` are asked for where it is not finite, to name one that is the cause.
    #[cfg(feature = "cuda")]
    pub(super) fn checked_norm(
        &mut self,
        step: u64,
        control: StepControl,
        gradients: impl FnOnce(&Self) -> Result<Vec<Tensor>>,
    ) -> Result<f64> {
        let adamw = self.optimiser.on_device()?;
        let norm = self.world.waiting(|| adamw.norm())?;
        // A group of ranks that was aborted gives numbers that mean nothing.
        self.world.check()?;
        if norm.is_finite() && !control.stands_out(norm) {
            return Ok(norm);
        }
        adamw.untake_step();
        control.check(step, norm)?;
        let gradients = gradients(self)?;
        Err(self.non_finite_gradient(step, &gradients, norm)?)
    }

    fn non_finite_gradient(&mut self, step: u64, gradients: &[Tensor], norm: f64) -> Result<Error> {
        #[cfg(feature = "cuda")]
        if let Optimiser::ShardedOnDevice(sharded) = &mut self.optimiser
            && let Some(index) = sharded.not_finite()?
            && let Some((name, _)) = self.parameters.iter().nth(index)
        {
            return self.non_finite(step, format!("the gradient of {name}"), norm);
        }
        for ((name, _), gradient) in self.parameters.iter().zip(gradients) {
            if !squares(gradient)?.is_finite() {
                return self.non_finite(step, format!("the gradient of {name}"), norm);
            }
        }
        self.non_finite(step, "the gradient's norm".to_owned(), norm)
    }

    /// Fails with the cause where a value is not finite.
    pub fn finite(&self, step: u64, what: &str, value: f64) -> Result<()> {
        if value.is_finite() { Ok(()) } else { Err(self.non_finite(step, what.to_owned(), value)?) }
    }

    /// The error of a step that failed; a weight that is not finite itself is the cause, and is named.
    fn non_finite(&self, step: u64, tensor: String, value: f64) -> Result<Error> {
        self.settle();
        for (name, variable) in self.parameters.iter() {
            let squares = squares(variable.as_tensor())?;
            if !squares.is_finite() {
                return Ok(Error::NonFinite {
                    step,
                    tensor: name.to_owned(),
                    value: squares,
                    origin: None,
                    checkpoint: None,
                });
            }
        }
        Ok(Error::NonFinite { step, tensor, value, origin: None, checkpoint: None })
    }
}
