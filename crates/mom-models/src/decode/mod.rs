//! Decoding: token by token, or a whole image by diffusion, from the states of the blocks.

#[cfg(feature = "cuda")]
mod captured;
mod image;
mod sampling;
mod score;

use candle_core::Tensor;
use mom_core::autograd::without_tape;
use mom_core::{ModalityPlan, Part, Plan};

use crate::blocks::States;
use crate::error::{config, require, require_batch};
use crate::layers::{Ids, embedding};
use crate::{Model, Result};

pub use image::Guidance;
pub use sampling::Sampling;
pub use score::Continuation;

/// Sequences in the middle of being decoded. A clone is a snapshot: decoding may branch from it.
#[derive(Debug, Clone)]
pub struct Decoder<'a> {
    model: &'a Model,
    batch: usize,
    states: States,
    /// Steps of a token on a GPU, which may have got ahead of `states`: see [`Self::settle`].
    #[cfg(feature = "cuda")]
    captured: captured::CapturedSteps,
}

impl<'a> Decoder<'a> {
    /// `batch` empty sequences.
    ///
    /// # Errors
    /// Parameters of an unsupported element type.
    pub fn new(model: &'a Model, batch: usize) -> Result<Self> {
        Ok(Self::at(model, batch, model.backbone().initial_states(batch)?))
    }

    fn at(model: &'a Model, batch: usize, states: States) -> Self {
        // What a model is trained to meanwhile, another decoder sees.
        model.backbone().wait_for(Part::Last);
        Self {
            model,
            batch,
            states,
            #[cfg(feature = "cuda")]
            captured: captured::CapturedSteps::default(),
        }
    }

    /// Number of sequences.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// A decoder of sequences of this one, in the order that is asked for: some of them, or one several times.
    ///
    /// # Errors
    /// A sequence that is not there; none at all; out of memory.
    pub fn select(&self, sequences: &[usize]) -> Result<Self> {
        require(!sequences.is_empty(), "sequences", "at least one", 0)?;
        let states = self.current()?.select(sequences)?;
        Ok(Self::at(self.model, sequences.len(), states))
    }

    /// A decoder of all sequences of several ones of the same model, one after the other.
    ///
    /// # Errors
    /// None at all, decoders of different models, out of memory.
    pub fn join<'b>(decoders: impl IntoIterator<Item = &'b Self>) -> Result<Self>
    where
        'a: 'b,
    {
        let decoders: Vec<&Self> = decoders.into_iter().collect();
        let Some(first) = decoders.first() else {
            return Err(config("decoders", "at least one", 0));
        };
        let same = decoders.iter().all(|decoder| std::ptr::eq(decoder.model, first.model));
        require(same, "decoders", "of one model", "several")?;
        let all = decoders.iter().map(|decoder| decoder.current()).collect::<Result<Vec<_>>>()?;
        let states = States::join(&all.iter().collect::<Vec<_>>())?;
        Ok(Self::at(first.model, decoders.iter().map(|decoder| decoder.batch).sum(), states))
    }

    /// Appends tokens to every sequence and gives the logits of what follows them.
    ///
    /// `tokens` and `modality_ids`: `(batch, n)`, n at least 1. Returns the logits after the last token,
    /// `(batch, vocab_size)`. One token costs the same however long the sequence is. On a GPU one token of a modality for
    /// each of a few sequences is a captured graph, whose logits are f32.
    ///
    /// # Errors
    /// Sizes that disagree, a token or modality out of range. The states are then as they were.
    pub fn push(&mut self, tokens: &[u32], modality_ids: &[u8]) -> Result<Tensor> {
        let n = tokens.len() / self.batch.max(1);
        require_batch(n > 0 && tokens.len() == n * self.batch, "tokens", None, "a multiple of batch", tokens.len())?;
        #[cfg(feature = "cuda")]
        if let Some(states) = self.states.mamba()
            && let Some(logits) = self.captured.push(self.model, states, tokens, modality_ids)?
        {
            return Ok(logits);
        }
        let n_modalities = self.model.config().setting.n_modalities();
        let plan = Plan::from(ModalityPlan::new(self.batch, n, n_modalities, modality_ids, None)?);
        let ordered = plan.position_of_row().iter().map(|&position| tokens[position as usize]);
        let ordered = Ids::new(ordered.collect::<Vec<_>>(), self.model.like().device())?;
        let x = self.run(&self.model.embed(&ordered)?.detach(), &plan)?;
        let last: Vec<u32> = (0..self.batch).map(|b| plan.row_of_position()[b * n + n - 1]).collect();
        let last = Ids::new(last, x.device())?;
        let x = without_tape(|| embedding(&x, &last))?;
        Ok(self.model.logits(&x)?.detach())
    }

    /// Where the sequences are.
    fn current(&self) -> Result<States> {
        #[cfg(feature = "cuda")]
        if let Some(states) = self.captured.states()? {
            return Ok(States::Mamba(states));
        }
        Ok(self.states.clone())
    }

    /// Brings `states` to where the sequences are; whatever reads or writes them comes behind it.
    fn settle(&mut self) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let Some(states) = self.captured.settle()? {
            self.states = States::Mamba(states);
        }
        Ok(())
    }

    /// Runs rows through the blocks; on an error the states are as they were.
    fn run(&mut self, x: &Tensor, plan: &Plan) -> Result<Tensor> {
        self.settle()?;
        let mut states = self.states.clone();
        let x = without_tape(|| self.model.backbone().forward_from(x, plan, &mut states))?;
        self.states = states;
        Ok(x)
    }
}
