//! Losses on held-out documents: of a trainer's model, or of any other.

use std::borrow::Borrow;

use mom_core::autograd::without_tape;
use mom_data::{Batch, Share, Tokenizers};
use mom_models::diffusion::{Noise, Timesteps};
use mom_models::{ModalityLoss, Model, ModelConfig, Normaliser, Setting};

use super::Validation;
use super::work::Input;
use crate::data::view;
use crate::dist::World;
use crate::{Prepared, Result, RunConfig};

/// Seed of the noise in validations: the same in every run.
const SEED: u64 = 0x5eed;

/// A batch that a validation looks at.
#[derive(Debug)]
pub(crate) struct HeldOut {
    batch: Batch,
    /// Bytes that its text targets stand for.
    text_bytes: Option<u64>,
}

impl HeldOut {
    /// A batch, with the bytes of its text by the tokenizers that made it.
    pub fn new(batch: Batch, tokenizers: &Tokenizers) -> mom_data::Result<Self> {
        Ok(Self { text_bytes: tokenizers.target_bytes(&batch)?, batch })
    }
}

/// The batches that a validation looks at: the same in every run over the same data.
pub(crate) fn batches(config: &RunConfig, prepared: &Prepared) -> Result<Vec<HeldOut>> {
    let mut loader = prepared.validation_loader(config)?;
    let mut batches = Vec::new();
    while batches.len() < config.train.eval_batches
        && let Some(batch) = loader.next_batch_of_pass()?
    {
        batches.push(HeldOut::new(batch, &prepared.tokenizers)?);
    }
    Ok(batches)
}

/// Losses of a model over batches, with the same noise in every run. Bits per byte are those of all text targets, special tokens
/// among them (where documents and their parts begin and end), over the bytes that the same targets stand for.
pub(crate) fn validate(
    model: &Model,
    batches: impl Iterator<Item = mom_data::Result<impl Borrow<HeldOut>>>,
    step: u64,
) -> Result<Validation> {
    let seen = batches.enumerate().map(|(index, batch)| look(model, batch?.borrow(), index, Share::WHOLE));
    finish(model, seen.collect::<Result<Vec<_>>>()?, step)
}

/// The same of a rank's model: each rank looks at some of the batches, or at its chunk of them, and all have the losses over all of them, as
/// one would. `context`: ranks that have the chunks of the same sequences.
pub(super) fn shared(
    world: &World,
    model: &Model,
    batches: &[HeldOut],
    context: usize,
    step: u64,
) -> Result<Validation> {
    let (group, n_groups) = (world.rank() / context, world.size() / context);
    let chunk = Share { rank: world.rank() % context, of: context };
    let mut own = Vec::new();
    for first in (0..batches.len()).step_by(n_groups) {
        match batches.get(first + group) {
            Some(batch) => own.push(look(model, batch, first + group, chunk)?),
            // Where chunks ask each other, all ranks come to it equally often.
            None if context > 1 => drop(look(model, &batches[0], 0, chunk)?),
            None => {}
        }
    }
    // JSON knows no NaN.
    let bits = |seen: &Seen| seen.losses.iter().map(|loss| (loss.sum.to_bits(), loss.count)).collect();
    let own: Vec<Vec<(u64, usize)>> = own.iter().map(bits).collect();
    let all = world.gather("the losses of a validation", own)?;
    let floats = |bits: &Vec<(u64, usize)>| {
        bits.iter().map(|&(sum, count)| ModalityLoss { sum: f64::from_bits(sum), count }).collect()
    };
    let seen = batches.iter().enumerate().filter_map(|(index, held_out)| {
        let first = index % n_groups * context;
        let mut losses = vec![ModalityLoss::default(); model.config().setting.n_modalities()];
        for of_rank in all.get(first..first + context)? {
            super::engine::add(&mut losses, floats(of_rank.get(index / n_groups)?));
        }
        Some(Seen { losses, text_bytes: held_out.text_bytes })
    });
    finish(model, seen.collect(), step)
}

/// What a batch gave.
struct Seen {
    losses: Vec<ModalityLoss>,
    text_bytes: Option<u64>,
}

/// Losses of one batch, or of a chunk of its sequences, with its noise.
fn look(model: &Model, HeldOut { batch, text_bytes }: &HeldOut, index: usize, chunk: Share) -> Result<Seen> {
    let noise = noise(batch, SEED, index as u64, Timesteps::Stratified);
    let cut = (chunk.of > 1).then(|| Input { batch: batch.clone(), noise: noise.clone() }.chunk(chunk));
    let (batch, noise) = cut.as_ref().map_or((batch, &noise), |cut| (&cut.batch, &cut.noise));
    let losses = without_tape(|| model.loss(&view(batch), noise.as_ref(), Normaliser::of(&view(batch))))?;
    Ok(Seen { losses: losses.by_modality()?, text_bytes: *text_bytes })
}

/// A validation of what its batches gave, in their order.
fn finish(model: &Model, seen: Vec<Seen>, step: u64) -> Result<Validation> {
    let mut by_modality = vec![ModalityLoss::default(); model.config().setting.n_modalities()];
    let mut text_bytes = Some(0);
    for Seen { losses, text_bytes: of_batch } in seen {
        text_bytes = text_bytes.zip(of_batch).map(|(sum, n)| sum + n);
        super::engine::add(&mut by_modality, losses);
    }
    let bits_per_byte = by_modality
        .first()
        .zip(text_bytes.filter(|&bytes| bytes > 0))
        .map(|(text, bytes)| text.sum / std::f64::consts::LN_2 / bytes as f64);
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
