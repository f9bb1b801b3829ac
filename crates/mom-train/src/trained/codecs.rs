//! The published networks that a trained model's tokens were made by: wherever their files lie now.

use std::path::PathBuf;

use mom_data::Tokenizers;

use super::Trained;
use crate::data::{OtherBytes, attach};
use crate::{DeviceKind, Error, Result};

impl Trained {
    /// The same model, with files of its published tokenizers elsewhere: `data.tokenizers.image.weights=FILE`, likewise
    /// `image.config`, `speech.weights`, `speech.config` and `speech.quantizer`.
    ///
    /// # Errors
    /// [`Error::Override`] for another key, or a modality that no network made the tokens of; [`Error::Content`] for a file that is
    /// not there.
    pub fn with_files(mut self, settings: &[String]) -> Result<Self> {
        for text in settings {
            let wrong = |reason: String| Error::Override { text: text.clone(), reason };
            let (key, path) = text.split_once('=').ok_or_else(|| wrong("there is no =".to_owned()))?;
            let path = PathBuf::from(path.trim().trim_matches('"'));
            let (image, speech) = (&mut self.run.data.tokenizers.image, &mut self.run.data.tokenizers.speech);
            let key = key.trim();
            let (kind, slot) = match key.strip_prefix("data.tokenizers.").unwrap_or(key) {
                "image.weights" => (image.kind, &mut image.weights),
                "image.config" => (image.kind, &mut image.config),
                "speech.weights" => (speech.kind, &mut speech.weights),
                "speech.config" => (speech.kind, &mut speech.config),
                "speech.quantizer" => (speech.kind, &mut speech.quantizer),
                _ => {
                    let keys = "image.weights, image.config, speech.weights, speech.config or speech.quantizer";
                    return Err(wrong(format!("the key of a trained model must be data.tokenizers.{keys}")));
                }
            };
            if !kind.is_network() {
                return Err(wrong(format!("no network made these tokens: they are of kind {}", kind.name())));
            }
            if !path.is_file() {
                return Err(Error::Content { path, reason: format!("there is no such file ({key})") });
            }
            *slot = Some(path);
        }
        Ok(self)
    }

    /// Its tokenizers, with the published networks that made the tokens where their weights are here; where they are not, that is
    /// told by whatever needs them.
    ///
    /// # Errors
    /// A device that cannot be had.
    pub(crate) fn tokenizers_on(&self, device: DeviceKind) -> Result<Tokenizers> {
        // Where the run encoded does not matter any more.
        let mut now = self.run.data.tokenizers.clone();
        (now.image.device, now.speech.device) = (None, None);
        let (tokenizers, _) = attach(self.tokenizers.clone(), &now, device, OtherBytes::Tell)?;
        Ok(tokenizers)
    }
}
