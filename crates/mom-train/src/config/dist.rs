//! `[train.dist]`: how the ranks of a run work together.

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::error::require;

/// How gradients of several ranks are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reduce {
    /// As NCCL does it: in an order that depends on how cards are linked, and in the gradients' own element type.
    #[default]
    Fastest,
    /// In the order of the ranks, in f32: every run of one number of ranks, one `bucket_mib` and one `ctas` has the same bits.
    FixedOrder,
}

/// How the ranks of a run work together; nothing of it matters to a run of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DistSection {
    /// How gradients are added.
    pub reduce: Reduce,
    /// Seconds without a sign of life, or within a step without progress, after which a rank has failed, and with it the run.
    pub timeout_secs: u64,
    /// Seconds that ranks wait for each other at the start: a queue may start hosts one by one.
    pub start_secs: u64,
    /// MiB of a bucket, in the type of the weights; about four times as much is sent in one launch.
    pub bucket_mib: usize,
    /// Thread blocks that NCCL has on a GPU at once (its CTAs) while the rank computes: each takes a multiprocessor, which products then
    /// leave free. What chunks of a sequence say to each other is not bound by it: nothing is computed meanwhile.
    pub ctas: usize,
    /// Ranks that share each sequence, a chunk of it each (context parallel): ranks `0..context` have the chunks of the same sequences,
    /// the next ones those of others.
    pub context: usize,
}

impl Default for DistSection {
    fn default() -> Self {
        Self {
            reduce: Reduce::default(),
            timeout_secs: 25,
            start_secs: 300,
            bucket_mib: 32,
            ctas: Self::CTAS,
            context: 1,
        }
    }
}

impl DistSection {
    /// NCCL's thread blocks where nothing else is asked for.
    pub const CTAS: usize = 4;

    /// Refuses more of them than NCCL makes, or none.
    pub(crate) fn check_ctas(field: &'static str, ctas: usize) -> Result<()> {
        require((1..=32).contains(&ctas), field, "from 1 to 32", ctas)
    }

    pub(super) fn validate(&self) -> Result<()> {
        require(self.timeout_secs >= 1, "train.dist.timeout_secs", "at least 1", self.timeout_secs)?;
        require(self.start_secs >= 1, "train.dist.start_secs", "at least 1", self.start_secs)?;
        require(self.bucket_mib >= 1, "train.dist.bucket_mib", "at least 1", self.bucket_mib)?;
        Self::check_ctas("train.dist.ctas", self.ctas)?;
        require(self.context >= 1, "train.dist.context", "at least 1", self.context)
    }
}
