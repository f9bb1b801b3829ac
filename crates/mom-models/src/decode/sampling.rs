//! A token from logits.

use rand::{Rng, RngExt};

use crate::Result;
use crate::error::{config, require, require_batch};

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
        let likeliest = likeliest(logits, &allowed)?;
        let Some((first, max)) = likeliest else { return Err(config("allowed", "true for some token", "none")) };
        if self.temperature == 0.0 {
            return Ok(first);
        }
        let mut candidates: Vec<(u32, f64)> =
            (0u32..).zip(logits).filter(|&(token, _)| allowed(token)).map(|(t, &l)| (t, f64::from(l))).collect();
        let likelier = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if (1..candidates.len()).contains(&self.top_k) {
            candidates.select_nth_unstable_by(self.top_k, likelier);
            candidates.truncate(self.top_k);
        }
        for (_, value) in &mut candidates {
            *value = ((*value - max) / self.temperature).exp();
        }
        let mut total: f64 = candidates.iter().map(|(_, weight)| weight).sum();
        if self.top_p < 1.0 {
            // All that weigh less than this have less than 1 - top_p together: none of them is needed, and few are left to sort.
            let least = (1.0 - self.top_p) * total / candidates.len() as f64;
            candidates.retain(|(_, weight)| *weight >= least);
            candidates.sort_by(likelier);
            let (bound, mut n) = (self.top_p * total, 0);
            total = 0.0;
            while n < candidates.len() && (n == 0 || total < bound) {
                total += candidates[n].1;
                n += 1;
            }
            candidates.truncate(n);
        }
        let mut left = rng.random::<f64>() * total;
        for (token, weight) in &candidates {
            left -= weight;
            if left < 0.0 {
                return Ok(*token);
            }
        }
        // What is left after rounding belongs to the last.
        Ok(candidates.last().map_or(first, |(token, _)| *token))
    }
}

/// The first of the likeliest tokens that are allowed, and its logit; fails for a logit that is not a number.
///
/// Vocabularies are large and a token on a GPU is short: most logits are only looked at several at a time.
fn likeliest(logits: &[f32], allowed: impl Fn(u32) -> bool) -> Result<Option<(u32, f64)>> {
    const CHUNK: usize = 256;
    const LANES: usize = 16;
    let mut best: Option<(u32, f32)> = None;
    for (i, chunk) in logits.chunks(CHUNK).enumerate() {
        let (mut largest, mut has_nan) = ([f32::NEG_INFINITY; LANES], [false; LANES]);
        for group in chunk.chunks(LANES) {
            for ((largest, has_nan), &logit) in largest.iter_mut().zip(&mut has_nan).zip(group) {
                *largest = if logit > *largest { logit } else { *largest };
                *has_nan |= logit.is_nan();
            }
        }
        if has_nan.contains(&true) {
            let at = chunk.iter().position(|logit| logit.is_nan()).map(|at| i * CHUNK + at);
            require_batch(false, "logits", at, "a number", "NaN")?;
        }
        let least = best.map_or(f32::NEG_INFINITY, |(_, logit)| logit);
        if best.is_some() && !largest.iter().any(|&logit| logit > least) {
            continue;
        }
        for (token, &logit) in (0u32..).skip(i * CHUNK).zip(chunk) {
            if best.is_none_or(|(_, best)| logit > best) && allowed(token) {
                best = Some((token, logit));
            }
        }
    }
    Ok(best.map(|(token, logit)| (token, f64::from(logit))))
}
