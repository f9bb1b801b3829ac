//! Samples that cannot be used are skipped, counted and reported; they never stop a run and never pass unseen.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Examples that are kept.
const MAX_EXAMPLES: usize = 8;

/// Why a sample is skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SkipReason {
    /// No `.txt` member.
    MissingCaption,
    /// The caption is not UTF-8.
    BrokenCaption,
    /// The caption holds nothing but white space.
    EmptyCaption,
    /// No image member, and the recipe needs one.
    MissingImage,
    /// The image does not decode.
    BrokenImage,
    /// No `.wav` member, and the recipe needs one.
    MissingSpeech,
    /// The waveform does not decode.
    BrokenSpeech,
    /// The waveform holds NaN or an infinite value.
    NonFiniteSpeech,
    /// The waveform has no sample.
    EmptySpeech,
    /// Two members of one kind under the same key.
    DuplicateMember,
}

impl SkipReason {
    /// The reason in words.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::MissingCaption => "no caption (.txt)",
            Self::BrokenCaption => "caption is not UTF-8",
            Self::EmptyCaption => "empty caption",
            Self::MissingImage => "no image (.png, .jpg, .jpeg)",
            Self::BrokenImage => "image does not decode",
            Self::MissingSpeech => "no waveform (.wav)",
            Self::BrokenSpeech => "waveform does not decode",
            Self::NonFiniteSpeech => "waveform holds NaN or infinity",
            Self::EmptySpeech => "waveform of length zero",
            Self::DuplicateMember => "two members of one kind",
        }
    }
}

/// Counts of skipped samples per reason, with the first few as examples.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkipReport {
    counts: BTreeMap<SkipReason, usize>,
    examples: Vec<String>,
}

impl SkipReport {
    pub(crate) fn add(&mut self, shard: impl fmt::Display, key: &str, reason: SkipReason) {
        *self.counts.entry(reason).or_default() += 1;
        if self.examples.len() < MAX_EXAMPLES {
            self.examples.push(format!("{shard}: {key}: {}", reason.describe()));
        }
    }

    /// Adds what was skipped among later samples.
    pub(crate) fn append(&mut self, later: &Self) {
        for (&reason, &count) in &later.counts {
            *self.counts.entry(reason).or_default() += count;
        }
        let room = MAX_EXAMPLES - self.examples.len();
        self.examples.extend(later.examples.iter().take(room).cloned());
    }

    /// Number of skipped samples.
    pub fn total(&self) -> usize {
        self.counts.values().sum()
    }

    /// Number of samples skipped for one reason.
    pub fn count(&self, reason: SkipReason) -> usize {
        self.counts.get(&reason).copied().unwrap_or(0)
    }

    /// Counts of all reasons that occurred.
    pub fn counts(&self) -> &BTreeMap<SkipReason, usize> {
        &self.counts
    }

    /// The first few skipped samples, as `shard: key: reason`.
    pub fn examples(&self) -> &[String] {
        &self.examples
    }
}

impl fmt::Display for SkipReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.total() {
            0 => return write!(f, "no sample skipped"),
            1 => write!(f, "1 sample skipped")?,
            n => write!(f, "{n} samples skipped")?,
        }
        for (index, (reason, count)) in self.counts.iter().enumerate() {
            let lead = if index == 0 { ":" } else { "," };
            write!(f, "{lead} {count} with {}", reason.describe())?;
        }
        write!(f, "; for example {}", self.examples.join("; "))
    }
}
