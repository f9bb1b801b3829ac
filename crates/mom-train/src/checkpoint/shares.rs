//! A checkpoint of several ranks: each wrote what it owns.
//!
//! `rank-00001-of-00004.safetensors` holds stretches of parameters as arrays of one dimension, `weights.NAME@START` with `first.`, `second.`
//! and, where there is an average, `ema.` beside it; START counts elements. `ranks.json` has the shapes. Any number of ranks reads it: put
//! together it is what one process would have written.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::kind::Kind;

/// Shapes of all parameters, and how many ranks wrote.
pub(super) const RANKS: &str = "ranks.json";

/// Contents of `ranks.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ranks {
    pub ranks: usize,
    pub shapes: BTreeMap<String, Vec<usize>>,
}

/// The file of a rank.
pub(super) fn file_of(rank: usize, ranks: usize) -> String {
    format!("rank-{rank:05}-of-{ranks:05}.safetensors")
}

/// The name of a stretch, without its kind.
pub(super) fn name_of(parameter: &str, range: &Range<usize>) -> String {
    format!("{parameter}@{}", range.start)
}

/// Kind, parameter and first element of a stretch, by its whole name.
pub(super) fn place_of(key: &str) -> Option<(Kind, &str, usize)> {
    let (kind, rest) = key.split_once('.')?;
    let (parameter, start) = rest.rsplit_once('@')?;
    let kind = Kind::ALL.into_iter().find(|known| known.name() == kind)?;
    Some((kind, parameter, start.parse().ok()?))
}
