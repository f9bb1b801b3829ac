//! What a checkpoint holds beside tensors.

use mom_data::Position;
use serde::{Deserialize, Serialize};

use crate::RunConfig;
use crate::optim::Norms;
use crate::telemetry::{EvalPoint, Lengths};
use crate::train::Counters;

/// Contents of `state.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    pub config: RunConfig,
    /// Hash of the data, see [`crate::Prepared::fingerprint`]; a string, since JSON readers may round a large number.
    pub data: String,
    pub step: u64,
    pub position: Position,
    pub counters: Counters,
    pub norms: Norms,
    pub curve: Vec<EvalPoint>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub horizons: Vec<EvalPoint>,
    pub wall_secs: f64,
    pub peak_memory_bytes: u64,
    pub metrics: Lengths,
}
