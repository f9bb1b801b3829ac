//! A model in a folder of its own: `model.safetensors` (f32, the published state-dict names), `config.json`, `tokenizers/`, and
//! `checksums.json`.

use std::fs;
use std::path::Path;

use mom_data::Tokenizers;
use mom_models::ModelConfig;
use serde::{Deserialize, Serialize};

use super::Trained;
use crate::checkpoint::{Broken, Sealed, Sealing};
use crate::files::At;
use crate::{Error, Result, RunConfig};

pub(super) const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const TOKENIZERS: &str = "tokenizers";

/// Raised whenever an export of before cannot be read as it was.
const FORMAT_VERSION: u32 = 1;

/// Contents of `config.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format_version: u32,
    /// Optimiser steps it was trained for.
    step: u64,
    /// A hash of the documents it was trained on.
    data: String,
    model: ModelConfig,
    /// How it was trained.
    run: RunConfig,
}

impl Trained {
    /// Writes the model into a new folder, whole or not at all.
    ///
    /// # Errors
    /// A folder that is there already; a file that cannot be written.
    pub fn export(&self, out: &Path) -> Result<()> {
        let content = |reason: String| Error::Content { path: out.into(), reason };
        if out.exists() {
            return Err(content("is there already; an export goes into a new folder".to_owned()));
        }
        let name = out.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let partial = out.with_file_name(format!(".{name}.partial"));
        let head = Head {
            format_version: FORMAT_VERSION,
            step: self.step,
            data: self.data.clone(),
            model: self.config.clone(),
            run: self.run.clone(),
        };
        let json = serde_json::to_vec_pretty(&head).map_err(|error| content(error.to_string()))?;
        let written = (|| {
            let mut sealing = Sealing::new(&partial)?;
            sealing.write(WEIGHTS, |to| to.write_all(&self.weights))?;
            sealing.write(CONFIG, |to| to.write_all(&json))?;
            sealing.finish()?;
            self.tokenizers.save(partial.join(TOKENIZERS))?;
            Ok(fs::rename(&partial, out).at("rename", &partial)?)
        })();
        if written.is_err() {
            // The first failure is the one to report.
            let _ = fs::remove_dir_all(&partial);
        }
        written
    }
}

/// Reads what was exported.
pub(super) fn open(folder: &Path) -> Result<Trained> {
    let content = |reason: String| Error::Content { path: folder.into(), reason };
    let broken = |broken: Broken| match broken {
        Broken::Damaged(what) => content(what),
        Broken::File(error) => error.into(),
    };
    let sealed = Sealed::open(folder).map_err(broken)?;
    let head = sealed.read(CONFIG).map_err(broken)?;
    let version = serde_json::from_slice::<serde_json::Value>(&head).map_err(|error| content(error.to_string()))?;
    if version["format_version"] != FORMAT_VERSION {
        let got = &version["format_version"];
        return Err(content(format!("{CONFIG} is of version {got}, this program's is {FORMAT_VERSION}")));
    }
    let head: Head = serde_json::from_slice(&head).map_err(|error| content(format!("{CONFIG}: {error}")))?;
    Ok(Trained {
        config: head.model,
        tokenizers: Tokenizers::load(folder.join(TOKENIZERS))?,
        run: head.run,
        step: head.step,
        data: head.data,
        folder: None,
        file: folder.join(WEIGHTS),
        weights: sealed.read(WEIGHTS).map_err(broken)?,
        ema: None,
        damaged: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_a_model_says_so() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("out")).unwrap();
        let error = open(&folder.path().join("out")).unwrap_err().to_string();
        assert!(error.contains("checksums.json is missing"), "{error}");
    }
}
