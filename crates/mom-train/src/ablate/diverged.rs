//! Runs of a sweep that diverged: what is done once is not done again when the sweep goes on.
//!
//! A run is a function of its configuration and data, so that it would diverge once more. `diverged.json` in its folder holds the
//! configuration and what happened; with another configuration (of operation, `train.on_spike` for example), or where the file
//! was removed, the run is tried again.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Planned;
use crate::files::{self, At};
use crate::{Error, Result};

const DIVERGED: &str = "diverged.json";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Memo {
    /// What happened, in words.
    reason: String,
    /// The resolved configuration, as TOML.
    config: String,
}

/// Where it is written.
pub(super) fn path(folder: &Path) -> PathBuf {
    folder.join(DIVERGED)
}

/// Whether an error says that training diverged: it is the learning rate's, and no matter of the machine.
pub(super) fn is_divergence(error: &Error) -> bool {
    matches!(error, Error::NonFinite { .. } | Error::Spike { .. })
}

/// Remembers that a run diverged.
pub(super) fn remember(planned: &Planned, error: &Error) -> Result<()> {
    let memo = Memo { reason: error.to_string(), config: planned.config.to_toml()? };
    files::write_json(&path(&planned.folder), &memo)
}

/// What happened when this very run diverged before; `None` if it did not.
///
/// # Errors
/// A file that cannot be read, or is none of these.
pub fn diverged(planned: &Planned) -> Result<Option<String>> {
    let path = path(&planned.folder);
    if !path.is_file() {
        return Ok(None);
    }
    let text = std::fs::read(&path).at("read", &path)?;
    let memo: Memo = serde_json::from_slice(&text)
        .map_err(|error| Error::Content { path: path.clone(), reason: error.to_string() })?;
    Ok((memo.config == planned.config.to_toml()?).then_some(memo.reason))
}
