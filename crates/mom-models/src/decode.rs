//! Decoding: token by token, or a whole image by diffusion, from the states of the blocks.

use candle_core::{DType, Tensor};
use mom_core::autograd::without_tape;
use mom_core::{MixerState, ModalityPlan, Plan};
use rand::{Rng, RngExt};

use crate::diffusion::{N_TIMESTEPS, alpha_bar, normals};
use crate::error::{require, require_batch};
use crate::layers::Ids;
use crate::{Model, Patcher, Result};

/// Sequences in the middle of being decoded. A clone is a snapshot: decoding may branch from it.
#[derive(Debug, Clone)]
pub struct Decoder<'a> {
    model: &'a Model,
    batch: usize,
    states: Vec<MixerState>,
}

impl<'a> Decoder<'a> {
    /// `batch` empty sequences.
    ///
    /// # Errors
    /// Parameters of an unsupported element type.
    pub fn new(model: &'a Model, batch: usize) -> Result<Self> {
        Ok(Self { model, batch, states: model.backbone().initial_states(batch)? })
    }

    /// Appends tokens to every sequence and gives the logits of what follows them.
    ///
    /// `tokens` and `modality_ids`: `(batch, n)`, n at least 1. Returns the logits after the last token,
    /// `(batch, vocab_size)`. One token costs the same however long the sequence is.
    ///
    /// # Errors
    /// Sizes that disagree, a token or modality out of range. The states are then as they were.
    pub fn push(&mut self, tokens: &[u32], modality_ids: &[u8]) -> Result<Tensor> {
        let n = tokens.len() / self.batch.max(1);
        require_batch(n > 0 && tokens.len() == n * self.batch, "tokens", None, "a multiple of batch", tokens.len())?;
        let n_modalities = self.model.config().setting.n_modalities();
        let plan = Plan::from(ModalityPlan::new(self.batch, n, n_modalities, modality_ids, None)?);
        let ordered = plan.position_of_row().iter().map(|&position| tokens[position as usize]);
        let ordered = Ids::new(ordered.collect::<Vec<_>>(), self.model.like().device())?;
        let x = self.run(&self.model.embed(&ordered)?.detach(), &plan)?;
        let last: Vec<u32> = (0..self.batch).map(|b| plan.row_of_position()[b * n + n - 1]).collect();
        let last = Tensor::from_vec(last, self.batch, x.device())?;
        Ok(self.model.logits(&x.index_select(&last, 0)?)?.detach())
    }

    /// Runs rows through the blocks; on an error the states are as they were.
    fn run(&mut self, x: &Tensor, plan: &Plan) -> Result<Tensor> {
        let mut states = self.states.clone();
        let x = without_tape(|| self.model.backbone().forward_from(x, plan, &mut states))?;
        self.states = states;
        Ok(x)
    }

    /// Generates one image in every sequence by diffusion, and appends it (Transfusion; the image's begin marker has been
    /// pushed).
    ///
    /// Ancestral sampling over `n_steps` of the 1000 timesteps, evenly spaced. With `guidance` the noise is
    /// `e_free + w (e - e_free)`, where e_free comes from the decoder `free`, whose sequences have no caption (classifier-free
    /// guidance, arXiv 2207.12598). Returns patches `(batch, n_patches, patch_dim)` in [-1, 1].
    ///
    /// # Errors
    /// A model of another setting, no step, a guiding decoder of another batch.
    pub fn sample_image(
        &mut self,
        n_patches: usize,
        n_steps: u32,
        guidance: Option<Guidance<'_, 'a>>,
        rng: &mut impl Rng,
    ) -> Result<Vec<f32>> {
        let Some(patcher) = self.model.patcher() else {
            return require(false, "setting", "transfusion", self.model.config().setting).map(|()| Vec::new());
        };
        require((1..=N_TIMESTEPS).contains(&n_steps), "n_steps", "between 1 and 1000", n_steps)?;
        require(n_patches > 0, "n_patches", "at least 1", n_patches)?;
        if let Some(guidance) = &guidance {
            require(guidance.weight.is_finite(), "guidance", "finite", guidance.weight)?;
            require(guidance.free.batch == self.batch, "guidance.batch", &self.batch.to_string(), guidance.free.batch)?;
        }
        // Evenly spaced up to the last timestep, where nothing of an image is left: however few the steps, the first one
        // sees what it was trained on.
        let timestep = |i: u32| ((i + 1) * N_TIMESTEPS).div_ceil(n_steps) - 1;
        let n_values = self.batch * n_patches * self.model.config().patch_dim;
        let mut x = normals(rng, n_values);
        for i in (0..n_steps).rev() {
            let t = timestep(i);
            let mut epsilon = self.clone().epsilon(patcher, &x, t, n_patches)?.1;
            if let Some(Guidance { free, weight }) = &guidance {
                let without = (*free).clone().epsilon(patcher, &x, t, n_patches)?.1;
                for (e, free) in epsilon.iter_mut().zip(without) {
                    *e = free + weight * (*e - free);
                }
            }
            let bar = alpha_bar(t);
            let previous = if i == 0 { 1.0 } else { alpha_bar(timestep(i - 1)) };
            let alpha = bar / previous;
            // The posterior of the step, with the clean image estimated and kept in range.
            let from_clean = previous.sqrt() * (1.0 - alpha) / (1.0 - bar);
            let from_noisy = alpha.sqrt() * (1.0 - previous) / (1.0 - bar);
            let deviation = ((1.0 - alpha) * (1.0 - previous) / (1.0 - bar)).sqrt();
            // The last step adds no noise.
            let noise = if i > 0 { normals(rng, n_values) } else { vec![0.0; n_values] };
            for ((x, e), noise) in x.iter_mut().zip(epsilon).zip(noise) {
                let clean = ((*x - (1.0 - bar).sqrt() * e) / bar.sqrt()).clamp(-1.0, 1.0);
                *x = from_clean * clean + from_noisy * *x + deviation * noise;
            }
        }
        let patches: Vec<f32> = x.into_iter().map(|x| x as f32).collect();
        self.push_image(&patches)?;
        Ok(patches)
    }

    /// Appends one image to every sequence (Transfusion; the image's begin marker has been pushed).
    ///
    /// `patches`: `(batch, n_patches, patch_dim)` in [-1, 1]. The model sees them with as little noise as there is.
    ///
    /// # Errors
    /// A model of another setting, values that are no whole patches.
    pub fn push_image(&mut self, patches: &[f32]) -> Result<()> {
        let Some(patcher) = self.model.patcher() else {
            return require(false, "setting", "transfusion", self.model.config().setting);
        };
        let per_patch = self.batch * self.model.config().patch_dim;
        let whole = !patches.is_empty() && patches.len().is_multiple_of(per_patch);
        require_batch(whole, "patches", None, format!("a multiple of {per_patch} values"), patches.len())?;
        let x: Vec<f64> = patches.iter().map(|&x| f64::from(x)).collect();
        self.states = self.clone().epsilon(patcher, &x, 0, patches.len() / per_patch)?.0;
        Ok(())
    }

    /// States behind an image of noisy patches, and the noise that the model sees in it.
    fn epsilon(
        mut self,
        patcher: &Patcher,
        x: &[f64],
        t: u32,
        n_patches: usize,
    ) -> Result<(Vec<MixerState>, Vec<f64>)> {
        let (batch, patch_dim) = (self.batch, self.model.config().patch_dim);
        let values: Vec<f32> = x.iter().map(|&x| x as f32).collect();
        let like = self.model.like();
        let noisy = Patcher::tensor(&values, patch_dim, like)?;
        let images: Vec<u32> = (0..batch * n_patches).map(|i| (i / n_patches) as u32).collect();
        let features = Patcher::time_features(&vec![t; batch], like)?;
        let embedded = patcher.embed(&noisy, &Ids::new(images, like.device())?, &features)?.detach();
        let plan = Plan::from(ModalityPlan::new(batch, n_patches, 2, &vec![1; batch * n_patches], None)?);
        let out = self.run(&embedded, &plan)?;
        let epsilon = patcher.predict(&out)?.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?;
        Ok((self.states, epsilon))
    }
}

/// Classifier-free guidance of [`Decoder::sample_image`].
#[derive(Debug)]
pub struct Guidance<'b, 'a> {
    /// Sequences without a caption, at the same point.
    pub free: &'b Decoder<'a>,
    /// Weight w; 1 is none.
    pub weight: f64,
}

/// How a token is drawn from logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the largest.
    pub temperature: f64,
    /// Only the k largest logits are drawn from; 0 means all.
    pub top_k: usize,
    /// Only the likeliest tokens are drawn from, as many as have this probability together (nucleus sampling, arXiv 1904.09751);
    /// 1 means all.
    pub top_p: f64,
}

impl Default for Sampling {
    /// From all tokens, by their probabilities.
    fn default() -> Self {
        Self { temperature: 1.0, top_k: 0, top_p: 1.0 }
    }
}

impl Sampling {
    /// Checks every value.
    ///
    /// # Errors
    /// [`crate::Error::Config`], naming the field.
    pub fn validate(&self) -> Result<()> {
        let is_temperature = self.temperature.is_finite() && self.temperature >= 0.0;
        require(is_temperature, "temperature", "finite and not negative", self.temperature)?;
        require(self.top_p > 0.0 && self.top_p <= 1.0, "top_p", "above 0, and 1 at most", self.top_p)
    }

    /// Draws a token among those `allowed`, from the logits of one sequence.
    ///
    /// # Errors
    /// A value out of range, no token allowed, a logit that is not a number.
    pub fn draw(&self, logits: &[f32], allowed: impl Fn(u32) -> bool, rng: &mut impl Rng) -> Result<u32> {
        self.validate()?;
        if let Some(i) = logits.iter().position(|logit| logit.is_nan()) {
            require_batch(false, "logits", Some(i), "a number", "NaN")?;
        }
        let mut candidates: Vec<(u32, f64)> =
            (0u32..).zip(logits).filter(|&(token, _)| allowed(token)).map(|(t, &l)| (t, f64::from(l))).collect();
        require(!candidates.is_empty(), "allowed", "true for some token", "none")?;
        candidates.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        if self.top_k > 0 {
            candidates.truncate(self.top_k);
        }
        if self.temperature == 0.0 {
            return Ok(candidates[0].0);
        }
        let max = candidates[0].1;
        let weights: Vec<f64> = candidates.iter().map(|c| ((c.1 - max) / self.temperature).exp()).collect();
        let mut total = weights.iter().sum::<f64>();
        let mut n = weights.len();
        if self.top_p < 1.0 {
            let bound = self.top_p * total;
            (n, total) = (0, 0.0);
            while n < weights.len() && (n == 0 || total < bound) {
                total += weights[n];
                n += 1;
            }
        }
        let mut left = rng.random::<f64>() * total;
        for ((token, _), weight) in candidates[..n].iter().zip(&weights) {
            left -= weight;
            if left < 0.0 {
                return Ok(*token);
            }
        }
        Ok(candidates[n - 1].0)
    }
}
