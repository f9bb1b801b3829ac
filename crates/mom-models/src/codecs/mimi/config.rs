//! What Mimi's weights do not tell.

use crate::Result;
use crate::codecs::{CodecError, Settings};

/// Heads, window, positions: as published where nothing else is stated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MimiSettings {
    /// Heads of attention: 8.
    pub n_heads: usize,
    /// Layers of each transformer; none: as many as there are.
    pub n_layers: Option<usize>,
    /// Frames (25 a second) that attention sees, with its own: 250. transformers 4.57 leaves the window out, but for flash
    /// attention, so that its codes differ after 10 seconds.
    pub window: usize,
    /// Base of rotary positions: 10,000.
    pub rope_theta: f64,
    /// Added to variances: 1e-5.
    pub norm_eps: f64,
    /// Samples a second: 24,000.
    pub sample_rate: usize,
}

impl Default for MimiSettings {
    fn default() -> Self {
        Self { n_heads: 8, n_layers: None, window: 250, rope_theta: 10_000.0, norm_eps: 1e-5, sample_rate: 24_000 }
    }
}

impl MimiSettings {
    /// These settings with those that Hugging Face's `config.json`, or the dictionary that Kyutai's loader takes, state.
    ///
    /// # Errors
    /// A value of another type.
    pub fn with(self, settings: &Settings) -> Result<Self> {
        let count = |hugging_face: &str, kyutai: &[&str], ours: usize| -> Result<usize> {
            Ok(settings.count(&[hugging_face])?.or(settings.count(kyutai)?).unwrap_or(ours))
        };
        let theta = settings.number(&["rope_parameters", "rope_theta"])?.or(settings.number(&["rope_theta"])?);
        let merged = Self {
            n_heads: count("num_attention_heads", &["transformer", "num_heads"], self.n_heads)?,
            n_layers: settings
                .count(&["num_hidden_layers"])?
                .or(settings.count(&["transformer", "num_layers"])?)
                .or(self.n_layers),
            window: count("sliding_window", &["transformer", "context"], self.window)?,
            rope_theta: theta.or(settings.number(&["transformer", "max_period"])?).unwrap_or(self.rope_theta),
            norm_eps: settings.number(&["norm_eps"])?.unwrap_or(self.norm_eps),
            sample_rate: count("sampling_rate", &["sample_rate"], self.sample_rate)?,
        };
        if merged.rope_theta <= 0.0 {
            return Err(settings.error("rope_theta", "above 0", merged.rope_theta));
        }
        Ok(merged)
    }

    /// Fails unless a width falls into heads of an even size.
    pub(super) fn check_width(&self, inner: usize) -> Result<()> {
        if inner.is_multiple_of(self.n_heads.saturating_mul(2)) {
            return Ok(());
        }
        let (place, field) = ("Mimi".to_owned(), "num_attention_heads".to_owned());
        let expected = format!("a divisor of half of the attention's {inner} channels");
        Err(CodecError::Setting { place, field, expected, got: self.n_heads.to_string() }.into())
    }
}
