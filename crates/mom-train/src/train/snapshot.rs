//! A trainer's whole state in memory, to come back to.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use mom_data::Position;

use super::{Counters, Trainer};
use crate::Result;
use crate::optim::{Moments, Norms};

/// Weights, moments, averages, and the place in the data.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// As [`Trainer::copy_state`] lays them out.
    values: Vec<f32>,
    step: u64,
    position: Position,
    counters: Counters,
    norms: Norms,
}

impl Snapshot {
    /// Copies it to the host.
    ///
    /// # Errors
    /// What the device reports.
    pub fn of(trainer: &mut Trainer) -> Result<Self> {
        let mut values = vec![0.0; trainer.state_len()];
        trainer.copy_state(&mut values)?;
        Ok(Self {
            values,
            step: trainer.steps_done(),
            position: trainer.position(),
            counters: trainer.counters(),
            norms: trainer.norms().clone(),
        })
    }

    /// Puts the trainer where it was.
    ///
    /// # Errors
    /// What the device reports.
    pub fn put_back(self, trainer: &mut Trainer) -> Result<()> {
        if trainer.put_back_share(self.step, &self.values)? {
            return trainer.restore(self.position, self.counters, self.norms);
        }
        let n = trainer.parameters().n_elements();
        let block = |index: usize| self.values.get(index * n..(index + 1) * n);
        let weights = tensors(trainer, block(0).unwrap_or_default())?;
        for ((_, variable), tensor) in trainer.parameters().iter().zip(&weights) {
            variable.set(&tensor.to_dtype(variable.dtype())?.to_device(variable.device())?)?;
        }
        let [first, second] = [1, 2].map(|index| split(trainer, block(index).unwrap_or_default()));
        let names = trainer.parameters().iter().map(|(name, _)| name.to_owned());
        let moments = first.into_iter().zip(second).map(|(first, second)| Moments { first, second });
        let mut moments: HashMap<String, Moments> = names.zip(moments).collect();
        let place = Path::new("memory");
        let take = |name: &str| Ok(moments.remove(name).unwrap_or_default());
        trainer.restore_optimiser(place, self.step, &weights, take)?;
        let averages = block(3).map(|values| tensors(trainer, values)).transpose()?;
        trainer.restart_average(averages.as_deref())?;
        trainer.restore(self.position, self.counters, self.norms)
    }
}

/// A block of values cut into those of each parameter.
fn split(trainer: &Trainer, values: &[f32]) -> Vec<Vec<f32>> {
    let mut rest = values;
    let cut = |(_, variable): (&str, &candle_core::Var)| {
        let (own, behind) = rest.split_at(variable.elem_count().min(rest.len()));
        rest = behind;
        own.to_vec()
    };
    trainer.parameters().iter().map(cut).collect()
}

/// The same as tensors on the host.
fn tensors(trainer: &Trainer, values: &[f32]) -> Result<Vec<Tensor>> {
    let parameters = trainer.parameters().iter().zip(split(trainer, values));
    let tensors = parameters.map(|((_, variable), values)| Tensor::from_vec(values, variable.shape(), &Device::Cpu));
    Ok(tensors.collect::<candle_core::Result<_>>()?)
}
