//! Codecs as a data pipeline sees them: opened by a file's content, plain host arrays in and out, and an identity that
//! changes with anything that codes depend on.

mod image;
mod speech;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use image::{Draw, Encoded, ImageCodec, ImageForm};
pub use speech::{SpeechCodec, Units};

use super::{CodecError, Network, Weights};
use crate::Result;

/// A weights file that something was made with: what a run keeps of it, and what it is known again by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightsReference {
    /// Where it lay.
    pub path: PathBuf,
    /// BLAKE3 of its bytes, in hexadecimal.
    pub blake3: String,
}

impl WeightsReference {
    /// A file's reference.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn of(weights: &Weights) -> Result<Self> {
        let path = std::path::absolute(weights.path()).unwrap_or_else(|_| weights.path().to_owned());
        Ok(Self { path, blake3: weights.hash()? })
    }

    /// Opens the file again, where it lay or at `elsewhere`.
    ///
    /// # Errors
    /// No such file, or one with other bytes.
    pub fn open(&self, elsewhere: Option<&Path>) -> Result<Weights> {
        let weights = Weights::open(elsewhere.unwrap_or(&self.path))?;
        let got = weights.hash()?;
        if got == self.blake3 {
            return Ok(weights);
        }
        let (path, expected) = (weights.path().to_owned(), format!("bytes with BLAKE3 {}", self.blake3));
        Err(CodecError::Format { path, offset: None, expected, got }.into())
    }
}

/// A hash of weights and of everything else that codes depend on.
fn identity(references: &[WeightsReference], settings: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    for reference in references {
        hasher.update(reference.blake3.as_bytes());
    }
    hasher.update(settings.as_bytes());
    hasher.finalize().to_hex().to_string()
}

/// A file that holds none of the networks asked for.
fn other_network(weights: &Weights, expected: &'static str) -> crate::Error {
    let found = match Network::of(weights) {
        Some((network, _)) => network.name().to_owned(),
        None => "tensors of no network that is known".to_owned(),
    };
    CodecError::OtherNetwork { path: weights.path().to_owned(), expected, found }.into()
}
