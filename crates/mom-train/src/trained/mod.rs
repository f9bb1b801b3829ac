//! A trained model, wherever it lies: in a run, in one of its checkpoints, in a folder that was exported, or as a file of weights.

mod codecs;
mod export;
mod start;

use std::fs;
use std::path::{Path, PathBuf};

use mom_data::Tokenizers;
use mom_models::{Model, ModelConfig, Parameters};
pub(crate) use start::{check, start};

use crate::checkpoint::{self, Check, Loaded};
use crate::config::tokenizers_of;
use crate::files::At;
use crate::{DeviceKind, Error, Precision, Result, RunConfig};

/// A trained model with its tokenizers.
#[derive(Debug)]
pub struct Trained {
    config: ModelConfig,
    tokenizers: Tokenizers,
    run: RunConfig,
    step: u64,
    /// A hash of the documents it was trained on, see [`crate::Prepared::fingerprint`].
    data: String,
    /// The run's folder; `None` of an export.
    folder: Option<PathBuf>,
    /// The file of weights, and its contents.
    file: PathBuf,
    weights: Vec<u8>,
    /// The average of the weights, and its file.
    ema: Option<(PathBuf, Vec<u8>)>,
    /// Newer checkpoints that could not be read, and why.
    damaged: Vec<(PathBuf, String)>,
}

impl Trained {
    /// Reads a model: of a run's folder the newest whole checkpoint, of a checkpoint's folder that one, or what
    /// [`Self::export`] wrote.
    ///
    /// # Errors
    /// A folder that is none of these; a file that is missing or damaged.
    pub fn open(path: &Path) -> Result<Self> {
        if path.join(export::CONFIG).is_file() {
            return export::open(path);
        }
        let content = |reason: &str| Error::Content { path: path.into(), reason: reason.to_owned() };
        // A checkpoint may be named from inside of its folder.
        let path = std::path::absolute(path).at("find", path)?;
        let path = path.as_path();
        let (run, loaded, damaged) = if checkpoint::is_one(path) {
            let run = path.parent().and_then(Path::parent).ok_or_else(|| content("it lies in no run's folder"))?;
            (run, Loaded::open(path)?, Vec::new())
        } else if path.join("config.toml").is_file() {
            let newest = checkpoint::newest(path, Check::Sums)?.ok_or_else(|| content("the run has no checkpoint"))?;
            (path, newest.loaded, newest.damaged)
        } else {
            return Err(content("it is neither a run, nor a checkpoint of one, nor an exported model"));
        };
        let tokenizers = Tokenizers::load(tokenizers_of(run).ok_or_else(|| content("the run has no tokenizers"))?)?;
        let config = loaded.state.config.clone();
        Ok(Self {
            config: config.model_config(&tokenizers),
            tokenizers,
            run: config,
            step: loaded.state.step,
            data: loaded.state.data.clone(),
            folder: Some(run.to_path_buf()),
            file: loaded.path.join(checkpoint::WEIGHTS),
            weights: loaded.weights()?,
            ema: loaded.ema()?.map(|ema| (loaded.path.join(checkpoint::EMA), ema)),
            damaged,
        })
    }

    /// The same model with the average of its weights (`train.ema`) in their place.
    ///
    /// # Errors
    /// A run that had none; an export, which has the one or the other.
    pub fn with_ema(self) -> Result<Self> {
        match self.ema {
            Some((file, weights)) => Ok(Self { file, weights, ema: None, ..self }),
            None => {
                let reason = "it has no average of weights: the run had no train.ema, or an export chose".to_owned();
                Err(Error::Content { path: self.file, reason })
            }
        }
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Its tokenizers.
    pub fn tokenizers(&self) -> &Tokenizers {
        &self.tokenizers
    }

    /// How it was trained.
    pub fn run(&self) -> &RunConfig {
        &self.run
    }

    /// Checkpoints of its run that are newer than the one it was read from, and damaged: where, and how.
    pub fn damaged(&self) -> &[(PathBuf, String)] {
        &self.damaged
    }

    /// The folder of its run; `None` of an export.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// A hash of the documents it was trained on.
    pub(crate) fn data(&self) -> &str {
        &self.data
    }

    /// Optimiser steps it was trained for.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The model, on a device, in an element type (the device's own if absent).
    ///
    /// # Errors
    /// A device or element type that cannot be had; weights of another model.
    pub fn model(&self, device: DeviceKind, precision: Option<Precision>) -> Result<(Model, Parameters)> {
        let dtype = precision.unwrap_or(Precision::of(device)).dtype();
        let (model, parameters) = Model::seeded(&self.config, self.run.train.seed, dtype, &device.open()?)?;
        checkpoint::set_weights(&self.file, &self.weights, &parameters)?;
        Ok((model, parameters))
    }
}

/// The weights at a path, and the file they are in.
fn weights_at(path: &Path) -> Result<(PathBuf, Vec<u8>)> {
    if path.is_file() {
        return Ok((path.to_path_buf(), fs::read(path).at("read", path)?));
    }
    let trained = Trained::open(path)?;
    Ok((trained.file, trained.weights))
}
