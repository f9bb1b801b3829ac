//! Losses on held-out documents: of a trainer's model, or of any other.

use std::borrow::Borrow;

use mom_core::autograd::without_tape;
use mom_data::Batch;
use mom_models::diffusion::{Noise, Timesteps};
use mom_models::{ModalityLoss, Model, ModelConfig, Normaliser, Setting};

use super::Validation;
use crate::data::view;
use crate::dist::World;
use crate::{Prepared, Result, RunConfig};

/// Seed of the noise in validations: the same in every run.
const SEED: u64 = 0x5eed;

/// The batches that a validation looks at: the same in every run over the same data.
pub(crate) fn batches(config: &RunConfig, prepared: &Prepared) -> Result<Vec<Batch>> {
    let mut loader = prepared.validation_loader(config)?;
    let mut batches = Vec::new();
    while batches.len() < config.train.eval_batches
        && let Some(batch) = loader.next_batch_of_pass()?
    {
        batches.push(batch);
    }
    Ok(batches)
}

/// Losses of a model over batches, with the same noise in every run.
///
/// `bytes_per_text_token`: see [`mom_data::Dataset::bytes_per_text_token`].
pub(crate) fn validate(
    model: &Model,
    batches: impl Iterator<Item = mom_data::Result<impl Borrow<Batch>>>,
    bytes_per_text_token: Option<f64>,
    step: u64,
) -> Result<Validation> {
    let losses = batches.enumerate().map(|(index, batch)| of_batch(model, batch?.borrow(), index));
    finish(model, losses.collect::<Result<Vec<_>>>()?, bytes_per_text_token, step)
}

/// The same of a rank's model: each rank looks at some of the batches, and all have the losses over all of them, as one would.
pub(super) fn shared(
    world: &World,
    model: &Model,
    batches: &[Batch],
    bytes_per_text_token: Option<f64>,
    step: u64,
) -> Result<Validation> {
    let own = batches.iter().enumerate().skip(world.rank()).step_by(world.size());
    let own = own.map(|(index, batch)| of_batch(model, batch, index)).collect::<Result<Vec<_>>>()?;
    // JSON knows no NaN.
    let bits = |losses: &Vec<ModalityLoss>| losses.iter().map(|loss| (loss.sum.to_bits(), loss.count)).collect();
    let own: Vec<Vec<(u64, usize)>> = own.iter().map(bits).collect();
    let all = world.gather("the losses of a validation", own)?;
    let losses = (0..batches.len()).filter_map(|index| all.get(index % world.size())?.get(index / world.size()));
    let floats = |bits: &Vec<(u64, usize)>| {
        bits.iter().map(|&(sum, count)| ModalityLoss { sum: f64::from_bits(sum), count }).collect()
    };
    finish(model, losses.map(floats).collect(), bytes_per_text_token, step)
}

/// Losses of one batch, with its noise.
fn of_batch(model: &Model, batch: &Batch, index: usize) -> Result<Vec<ModalityLoss>> {
    let noise = noise(batch, SEED, index as u64, Timesteps::Stratified);
    let losses = without_tape(|| model.loss(&view(batch), noise.as_ref(), Normaliser::of(&view(batch))))?;
    Ok(losses.by_modality()?)
}

/// A validation of the losses of its batches, in their order.
fn finish(
    model: &Model,
    losses: Vec<Vec<ModalityLoss>>,
    bytes_per_text_token: Option<f64>,
    step: u64,
) -> Result<Validation> {
    let mut by_modality = vec![ModalityLoss::default(); model.config().setting.n_modalities()];
    losses.into_iter().for_each(|of_batch| super::engine::add(&mut by_modality, of_batch));
    let text = by_modality.first().filter(|loss| loss.count > 0);
    let bits_per_byte =
        text.zip(bytes_per_text_token).map(|(loss, bytes)| loss.mean() / std::f64::consts::LN_2 / bytes);
    let joint = joint(model.config(), &by_modality);
    Ok(Validation { step, by_modality, joint, bits_per_byte })
}

/// The objective, from the losses of modalities: the mean over all discrete targets, and the weighted diffusion loss.
fn joint(config: &ModelConfig, by_modality: &[ModalityLoss]) -> f64 {
    let continuous = (config.setting == Setting::Transfusion).then_some(1);
    let mut discrete = ModalityLoss::default();
    let mut diffusion = 0.0;
    for (modality, loss) in by_modality.iter().enumerate() {
        if continuous != Some(modality) {
            discrete += *loss;
        } else if loss.count > 0 {
            diffusion = config.diffusion_weight * loss.mean();
        }
    }
    if discrete.count > 0 { discrete.mean() + diffusion } else { diffusion }
}

/// The noise of a batch's patches; `None` where there are none.
pub(super) fn noise(batch: &Batch, seed: u64, index: u64, timesteps: Timesteps) -> Option<Noise> {
    (batch.n_patches() > 0).then(|| Noise::draw(seed, index, batch.n_images(), batch.patches.len(), timesteps))
}
