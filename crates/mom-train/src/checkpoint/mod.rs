//! Checkpoints: everything that a run needs to go on as if it had not stopped.
//!
//! `checkpoints/step-00000500/` holds `weights.safetensors` (the published state-dict names), `optimizer.safetensors`
//! (`first.NAME`, `second.NAME`), `ema.safetensors` where there is an average of the weights, `state.json`, and `checksums.json`
//! over all of them. A checkpoint is written under a
//! hidden name, synced, and renamed; what stands under its final name was whole once, and its checksums tell whether it still
//! is. Noise and data order are functions of the seed and the step, so no generator's state need be kept beside them.
//!
//! Several ranks write files of their own instead of the first three, see `shares`; they are whole or absent as one.
//!
//! Only folders whose name is `step-` and digits are checkpoints of a run: others, such as `step-400.keep`, are the user's.

mod arrays;
mod keep;
mod kind;
mod part;
mod read;
mod sealed;
mod shares;
mod state;
mod write;

use std::fs;
use std::path::{Path, PathBuf};

pub(crate) use read::{Loaded, newest, set_weights};
pub(crate) use sealed::{Broken, Check, Sealed, Sealing};
pub(crate) use state::State;
pub(crate) use write::Writer;

use crate::Result;
use crate::files::At;

pub(crate) const WEIGHTS: &str = "weights.safetensors";
pub(crate) const EMA: &str = "ema.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

/// A folder that has a checkpoint's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    step: u64,
    path: PathBuf,
}

impl Named {
    fn of_step(run: &Path, step: u64) -> Self {
        Self { step, path: folder_of(run).join(format!("step-{step:08}")) }
    }
}

fn folder_of(run: &Path) -> PathBuf {
    run.join("checkpoints")
}

/// The step in a checkpoint's name.
fn step_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("step-")?;
    let all_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    all_digits.then(|| digits.parse().ok()).flatten()
}

/// Whether a folder has a checkpoint's name and content.
pub(crate) fn is_one(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("step-")) && path.join(STATE).is_file()
}

/// Whether a run has a checkpoint, by its name.
pub(crate) fn any(run: &Path) -> bool {
    list(run).is_ok_and(|all| !all.is_empty())
}

/// Checkpoints of a run by their names, oldest first.
fn list(run: &Path) -> Result<Vec<Named>> {
    let folder = folder_of(run);
    let mut all = Vec::new();
    if !folder.is_dir() {
        return Ok(all);
    }
    for entry in fs::read_dir(&folder).at("read", &folder)? {
        let path = entry.at("read", &folder)?.path();
        let step = path.file_name().and_then(|name| name.to_str()).and_then(step_of);
        if let Some(step) = step.filter(|_| path.is_dir()) {
            all.push(Named { step, path });
        }
    }
    all.sort();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_digits_make_a_checkpoint() {
        for (name, step) in [
            ("step-00000500", Some(500)),
            ("step-7", Some(7)),
            ("step-123456789", Some(123_456_789)),
            ("step-", None),
            ("step-best", None),
            ("step-4.keep", None),
            ("step-notes.txt", None),
            ("step-+4", None),
            ("step-99999999999999999999999", None),
            (".step-00000500.partial", None),
            ("4", None),
        ] {
            assert_eq!(step_of(name), step, "{name}");
        }
        let run = tempfile::tempdir().unwrap();
        assert!(list(run.path()).unwrap().is_empty());
        let folder = folder_of(run.path());
        for name in ["step-00000020", "step-9", "step-best"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        fs::write(folder.join("step-30"), "a file").unwrap();
        let steps: Vec<u64> = list(run.path()).unwrap().iter().map(|named| named.step).collect();
        assert_eq!(steps, [9, 20]);
    }
}
