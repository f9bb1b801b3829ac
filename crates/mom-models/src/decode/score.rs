//! How likely continuations are.

use mom_core::autograd::without_tape;
use mom_core::{ModalityPlan, Plan};

use super::Decoder;
use crate::Result;
use crate::error::require_batch;
use crate::layers::{Ids, embedding, linear_cross_entropy};

/// Tokens that may come next in a sequence. The first one is read, each of the others is judged by all before it: what a decoder
/// was given last cannot be judged from, since what it said is gone.
#[derive(Debug, Clone, Copy)]
pub struct Continuation<'b> {
    /// At least one.
    pub tokens: &'b [u32],
    /// Modality of each.
    pub modality_ids: &'b [u8],
}

impl Decoder<'_> {
    /// The log-likelihood, in nats, of a continuation of each sequence: the sum over its tokens behind the first. The sequences stay
    /// as they are.
    ///
    /// All go through the model together, shorter ones padded behind their end, where nothing that counts sees it. A continuation
    /// of one token has a log-likelihood of zero.
    ///
    /// # Errors
    /// Not one continuation for each sequence, an empty one, sizes that disagree, a token or modality out of range.
    pub fn log_likelihoods(&self, continuations: &[Continuation<'_>]) -> Result<Vec<f64>> {
        let n = continuations.iter().map(|of| of.tokens.len()).max().unwrap_or(0);
        require_batch(continuations.len() == self.batch, "continuations", None, self.batch, continuations.len())?;
        let (mut tokens, mut modality_ids) = (vec![0; self.batch * n], vec![0; self.batch * n]);
        let (mut positions, mut targets, mut sequences) = (Vec::new(), Vec::new(), Vec::new());
        for (b, of) in continuations.iter().enumerate() {
            let len = of.tokens.len();
            require_batch(len > 0, "continuations", Some(b), "at least one token", 0)?;
            let fits = of.modality_ids.len() == len;
            require_batch(fits, "continuations.modality_ids", Some(b), len, of.modality_ids.len())?;
            tokens[b * n..b * n + len].copy_from_slice(of.tokens);
            modality_ids[b * n..b * n + len].copy_from_slice(of.modality_ids);
            for (t, &target) in of.tokens.iter().enumerate().skip(1) {
                positions.push(b * n + t - 1);
                targets.push(target);
                sequences.push(b);
            }
        }
        let mut sums = vec![0.0; self.batch];
        if targets.is_empty() {
            return Ok(sums);
        }
        let n_modalities = self.model.config().setting.n_modalities();
        let plan = Plan::from(ModalityPlan::new(self.batch, n, n_modalities, &modality_ids, None)?);
        let device = self.model.like().device();
        let ordered = plan.position_of_row().iter().map(|&position| tokens[position as usize]);
        let ordered = Ids::new(ordered.collect::<Vec<_>>(), device)?;
        let rows = positions.iter().map(|&position| plan.row_of_position()[position]).collect::<Vec<_>>();
        let (rows, n_targets) = (Ids::new(rows, device)?, targets.len());
        let targets = Ids::new(targets, device)?;
        let mut states = self.current()?;
        let nll = without_tape(|| -> Result<Vec<f64>> {
            let x = self.model.backbone().forward_from(&self.model.embed(&ordered)?, &plan, &mut states)?;
            let judged = embedding(&x, &rows)?;
            linear_cross_entropy(&judged, self.model.lm_head(), &targets, 0.0, n_targets)?.rows.nll()
        })?;
        sequences.into_iter().zip(nll).for_each(|(b, nll)| sums[b] -= nll);
        Ok(sums)
    }
}
