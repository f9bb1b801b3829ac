//! Model and optimiser: a step over batches that somebody else provides.
//!
//! ```text
//! update     clipping, the update, and what stands against it
//! capture    a step as a graph
//! ```

#[cfg(feature = "cuda")]
mod capture;
#[cfg(test)]
mod tests;
mod update;

use std::sync::Arc;

use candle_core::DType;
use mom_core::Context;
use mom_models::{Inputs, Losses, ModalityLoss, Model, ModelConfig, Normaliser, Parameters};

use super::StepReport;
#[cfg(feature = "cuda")]
use super::captured::CapturedStep;
use super::gradients::Gradients;
use super::tapes::{Taped, Tapes};
use super::work::{Mode, Work, bring};
use crate::config::{DistSection, OptimizerSection};
use crate::dist::{Chunks, World};
use crate::lease::Lease;
use crate::optim::Optimiser;
use crate::{DeviceKind, Error, Recompute, Result};

pub(crate) use update::StepControl;

const GIB: f64 = (1u64 << 30) as f64;

/// Model, optimiser and, on a device, what takes the gradients.
#[derive(Debug)]
pub(crate) struct Engine {
    /// Its weights, and those of `parameters`, may be on their way from other ranks, which a training step waits for where it reads
    /// them; whoever else does calls [`Self::settle`] before.
    pub model: Model,
    pub parameters: Parameters,
    /// Goes before the group of ranks, which may be part of it.
    #[cfg(feature = "cuda")]
    captured: Option<CapturedStep>,
    pub optimiser: Optimiser,
    pub mode: Mode,
    tapes: Tapes,
    /// Launches a captured step's kernels one by one all the same: for a profile.
    #[cfg(feature = "cuda")]
    pub singly: bool,
    /// On a GPU. What lies there goes before it.
    lease: Option<Lease>,
    world: Arc<World>,
}

impl Engine {
    /// A new model of a process that is alone.
    #[cfg(test)]
    fn new(config: &ModelConfig, seed: u64, mode: Mode) -> Result<Self> {
        Self::in_world(config, seed, mode, Arc::new(World::alone()), &DistSection::default())
    }

    /// A new model: the same on all ranks of a world.
    ///
    /// # Errors
    /// A configuration, device or element type that cannot be had; on a GPU of several ranks, no NCCL.
    pub fn in_world(
        config: &ModelConfig,
        seed: u64,
        mode: Mode,
        world: Arc<World>,
        dist: &DistSection,
    ) -> Result<Self> {
        Self::try_new(config, seed, mode, world, dist).map_err(|error| {
            error.or_out_of_memory(|| {
                // Weights of 16 bits have masters beside them; all have two moments.
                let bytes = if mode.dtype == DType::F32 { 12 } else { 14 };
                let gib = bytes as f64 * (config.total_parameters() + config.patcher_parameters()) as f64 / GIB;
                format!("the weights and their optimiser take {gib:.2} GiB; choose a smaller model.scale")
            })
        })
    }

    fn try_new(config: &ModelConfig, seed: u64, mode: Mode, world: Arc<World>, dist: &DistSection) -> Result<Self> {
        let lease = Lease::on(mode.device, mode.captures)?;
        let device = mode.device.open()?;
        let (model, parameters) = Model::seeded(config, seed, mode.dtype, &device)?;
        let optimiser = Optimiser::in_world(&parameters, &world, dist)?;
        let chunks = Chunks::of(&world, dist.context, &device)?.map(|chunks| Arc::new(chunks) as Arc<dyn Context>);
        let model = model.with_recompute(mode.recompute == Recompute::Block).with_context(chunks)?;
        #[cfg(feature = "cuda")]
        let model = match &optimiser {
            Optimiser::ShardedOnDevice(sharded) => model.with_arrivals(sharded.arrivals()),
            _ => model,
        };
        let tapes = Tapes::of(&model, &parameters, &device)?;
        Ok(Self {
            model,
            parameters,
            optimiser,
            mode,
            tapes,
            #[cfg(feature = "cuda")]
            captured: None,
            #[cfg(feature = "cuda")]
            singly: false,
            lease,
            world,
        })
    }

    /// One optimiser step over batches whose gradients are summed. `meanwhile(model, i)` runs once the work of batch i is on
    /// its way to the device, before the host waits for it; what it sends there itself comes behind.
    ///
    /// # Errors
    /// [`Error::NonFinite`] where the loss or a gradient is not finite, before any weight is touched.
    pub fn step(
        &mut self,
        work: Work,
        control: StepControl,
        config: &OptimizerSection,
        meanwhile: impl FnMut(&Model, usize) -> Result<()>,
    ) -> Result<StepReport> {
        self.lease.as_ref().map_or(Ok(()), Lease::work)?;
        let captures = self.mode.captures;
        self.try_step(work, control, config, meanwhile).map_err(|error| {
            error.or_out_of_memory(|| {
                let graph = if captures { " train.graph=never" } else { "" };
                format!(
                    "set train.recompute=block{graph} (a run may go on with it), or lower data.batch or data.seqlen and raise \
                     train.accumulate, in another folder"
                )
            })
        })
    }

    fn try_step(
        &mut self,
        work: Work,
        control: StepControl,
        config: &OptimizerSection,
        mut meanwhile: impl FnMut(&Model, usize) -> Result<()>,
    ) -> Result<StepReport> {
        let step = self.optimiser.steps() + 1;
        #[cfg(feature = "cuda")]
        if self.mode.captures {
            let state = self.captured.take();
            let (report, state) = self.captured_step(state, work, control, config, |model| meanwhile(model, 0))?;
            self.captured = Some(state);
            return Ok(report);
        }
        let mut losses = Vec::new();
        let mut gradients = Gradients::of(&self.parameters, 1 + work.rest.len());
        let Work { first, rest, counts, .. } = work;
        let (last, mut rest) = (rest.len(), rest.into_iter());
        let mut next = Some(first);
        while let Some(inputs) = next.take() {
            let (of_batch, tape) = self.loss(&inputs, counts)?;
            // On a device reading the loss would wait for it; the gradients are not finite either then. Nor does one rank alone end a step.
            if self.mode.device == DeviceKind::Cpu && !self.world.is_shared() {
                self.finite(step, "the loss", value(&of_batch)?)?;
            }
            match &mut self.optimiser {
                // The sums of several ranks are on their way while the backward pass goes on.
                #[cfg(feature = "cuda")]
                Optimiser::ShardedOnDevice(sharded) if rest.len() == 0 => {
                    sharded.begin(gradients.are_sums());
                    self.tapes.gradients(&self.parameters, &of_batch, tape, |index, gradient| {
                        sharded.take(index, gradients.with(index, gradient)?)
                    })?;
                    // Of the batches before this one alone.
                    gradients.rest().try_for_each(|(index, sum)| sharded.take(index, Some(sum)))?;
                }
                _ => {
                    self.tapes.gradients(&self.parameters, &of_batch, tape, |i, gradient| gradients.add(i, gradient))?
                }
            }
            losses.push(of_batch.detached());
            if let Some(input) = rest.next() {
                next = Some(bring(&self.model, &input, counts, self.mode)?);
                meanwhile(&self.model, losses.len() - 1)?;
            }
        }
        let grad_norm = self.update(step, gradients, control, config, |model| meanwhile(model, last))?;
        let (mut loss, mut by_modality) = (0.0, self.no_losses());
        for of_batch in losses {
            loss += value(&of_batch)?;
            add(&mut by_modality, of_batch.by_modality()?);
        }
        let (loss, by_modality) = self.of_all_ranks(loss, by_modality)?;
        self.finite(step, "the loss", loss)?;
        Ok(StepReport { step, loss, by_modality, grad_norm, learning_rate: control.learning_rate })
    }

    /// The loss of a batch, and the tape that leads back from it.
    fn loss(&self, inputs: &Inputs, counts: Normaliser) -> Result<(Losses, Taped)> {
        self.tapes.forward(|| Ok(self.model.loss_of(inputs, counts)?))
    }

    /// What is launched from now on reads the weights that the last step left.
    pub fn settle(&self) {
        self.optimiser.settle();
    }

    /// Losses of a step, summed over all ranks in their order.
    fn of_all_ranks(&self, loss: f64, by_modality: Vec<ModalityLoss>) -> Result<(f64, Vec<ModalityLoss>)> {
        // JSON knows no NaN.
        let own: Vec<(u64, usize)> = by_modality.iter().map(|loss| (loss.sum.to_bits(), loss.count)).collect();
        let (mut loss_of_all, mut sums) = (0.0, self.no_losses());
        let order = self.world.order().so_far();
        let all = self.world.gather("the losses of a step", (loss.to_bits(), own, order))?;
        for (rank, (loss, by_modality, of_rank)) in all.into_iter().enumerate() {
            if of_rank != order {
                let message = "it launched what ranks exchange in another order, or not as often".to_owned();
                return Err(Error::Rank { rank, message });
            }
            loss_of_all += f64::from_bits(loss);
            let of_rank = by_modality.into_iter().map(|(sum, count)| ModalityLoss { sum: f64::from_bits(sum), count });
            add(&mut sums, of_rank.collect());
        }
        Ok((loss_of_all, sums))
    }

    /// A loss of zero for each modality.
    pub fn no_losses(&self) -> Vec<ModalityLoss> {
        vec![ModalityLoss::default(); self.model.config().setting.n_modalities()]
    }
}

fn value(losses: &Losses) -> Result<f64> {
    Ok(f64::from(losses.total.to_vec1::<f32>()?[0]))
}

/// Adds losses by modality.
pub(super) fn add(sums: &mut [ModalityLoss], losses: Vec<ModalityLoss>) {
    for (sum, loss) in sums.iter_mut().zip(losses) {
        *sum += loss;
    }
}
