//! Sizes of a transformer's block.

use mom_core::ops::Rotary;

use crate::Result;
use crate::error::require;

/// What is per modality.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tying {
    /// Nothing: a transformer.
    Shared,
    /// Everything but the attention itself: Mixture-of-Transformers.
    PerModality,
}

/// Sizes and choices of a block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TransformerConfig {
    /// Features of input and output.
    pub d_model: usize,
    /// Heads; they divide d_model.
    pub n_heads: usize,
    /// Features inside of the feed-forward layer.
    pub d_ff: usize,
    /// Number of modalities.
    pub n_modalities: usize,
    /// What is per modality.
    pub tying: Tying,
    /// Added to the mean square in the norms.
    pub norm_eps: f64,
}

/// Base of the rotary embedding.
const ROTARY_BASE: f64 = 10_000.0;

impl TransformerConfig {
    /// Heads of 64 features where that gives four of them at least, and smaller ones for small models.
    pub fn heads(d_model: usize) -> usize {
        let fits = |head_dim: &usize| d_model.is_multiple_of(*head_dim) && d_model / head_dim >= 4;
        d_model / [64, 32, 16, 8, 4, 2].into_iter().find(fits).unwrap_or(d_model.max(1))
    }

    /// Features of the feed-forward layer that make the block cost `budget` operations forward for each token, of which the
    /// products of queries and keys, and of weights and values, cost what `mean_keys` of them do.
    pub fn d_ff_for(d_model: usize, budget: f64, mean_keys: usize) -> usize {
        let rest = budget - Self::attention_flops(d_model, mean_keys) - (8 * d_model * d_model) as f64;
        let exact = rest / (6 * d_model) as f64;
        // Whole vectors of 8 features.
        ((exact / 8.0).round() as usize).max(1) * 8
    }

    /// The most keys that a query may meet on average, so that the products of attention leave room in `budget` for a
    /// feed-forward layer of d_model features: below that it would be a transformer in name alone.
    pub fn most_mean_keys(d_model: usize, budget: f64) -> usize {
        let rest = budget - (14 * d_model * d_model) as f64;
        (rest / (4 * d_model) as f64).max(0.0) as usize
    }

    /// Operations of the attention itself for each token.
    pub fn attention_flops(d_model: usize, mean_keys: usize) -> f64 {
        (4 * d_model * mean_keys) as f64
    }

    /// Operations forward for each token.
    pub fn forward_flops(&self, mean_keys: usize) -> f64 {
        (8 * self.d_model * self.d_model + 6 * self.d_model * self.d_ff) as f64
            + Self::attention_flops(self.d_model, mean_keys)
    }

    /// The number of modalities, where each has weights of its own.
    pub(super) fn own(&self) -> Option<usize> {
        (self.tying == Tying::PerModality).then_some(self.n_modalities)
    }

    /// The angles of the rotary embedding, which all blocks share.
    ///
    /// # Errors
    /// Heads of an odd number of features.
    pub fn rotary(&self) -> Result<Rotary> {
        self.validate()?;
        Ok(Rotary::new(self.d_model / self.n_heads, ROTARY_BASE)?)
    }

    /// Weights that a token meets.
    pub fn active_parameters(&self) -> usize {
        2 * self.d_model + 4 * self.d_model * self.d_model + 3 * self.d_model * self.d_ff
    }

    /// Weights of all modalities together.
    pub fn total_parameters(&self) -> usize {
        self.own().unwrap_or(1) * self.active_parameters()
    }

    /// Checks every value.
    ///
    /// # Errors
    /// [`crate::Error::Config`], naming the field.
    pub fn validate(&self) -> Result<()> {
        let heads = self.n_heads > 0 && self.d_model.is_multiple_of(2 * self.n_heads) && self.d_model > 0;
        require(heads, "d_model", "a multiple of twice the number of heads", self.d_model)?;
        require(self.d_ff > 0, "d_ff", "at least 1", self.d_ff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_have_64_features_where_there_are_four() {
        let of = |d_model| d_model / TransformerConfig::heads(d_model);
        assert_eq!([of(2048), of(768), of(256), of(128), of(64), of(16), of(320)], [64, 64, 64, 32, 16, 4, 64]);
    }

    #[test]
    fn a_budget_is_met() {
        for (d_model, keys) in [(64, 60), (256, 500), (768, 2048)] {
            let budget = 2.0 * (12.0 * (d_model * d_model) as f64 + 4.0 * (d_model * keys) as f64);
            let d_ff = TransformerConfig::d_ff_for(d_model, budget, keys);
            let config = TransformerConfig {
                d_model,
                n_heads: TransformerConfig::heads(d_model),
                d_ff,
                n_modalities: 2,
                tying: Tying::PerModality,
                norm_eps: 1e-5,
            };
            config.validate().unwrap();
            assert!((config.forward_flops(keys) / budget - 1.0).abs() < 0.02, "{d_model}");
            let most = TransformerConfig::most_mean_keys(d_model, budget);
            assert!(keys < most && TransformerConfig::d_ff_for(d_model, budget, most).abs_diff(d_model) <= 8);
            assert_eq!(config.total_parameters(), 2 * config.active_parameters());
        }
    }
}
