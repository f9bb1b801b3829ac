//! What a document begins with, as a user writes it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use mom_data::media::{audio, image};

use super::draft::Draft;
use super::generator::Generator;
use crate::files::At;
use crate::{Error, Result};

/// A part of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromptPart {
    /// Text.
    Text(String),
    /// File of a picture, of any size: it is cut and resized as in training.
    Image(PathBuf),
    /// File of a recording, at any rate.
    Speech(PathBuf),
}

impl PromptPart {
    /// `image:FILE`, `speech:FILE`, or text (`text:...` where it begins with one of these words).
    pub fn parse(part: &str) -> Self {
        match part.split_once(':') {
            Some(("image", path)) => Self::Image(path.into()),
            Some(("speech", path)) => Self::Speech(path.into()),
            Some(("text", text)) => Self::Text(text.to_owned()),
            _ => Self::Text(part.to_owned()),
        }
    }
}

/// Prompts from a file of lines: each is one part, as [`PromptPart::parse`] has it, or several as an array of JSON,
/// `["a red ", "image:star.png"]`. An empty line is a prompt of nothing.
///
/// # Errors
/// A file that cannot be read, an array that does not parse, named by its line; no line.
pub fn read_prompts(path: &Path) -> Result<Vec<Vec<PromptPart>>> {
    let content = |reason: String| Error::Content { path: path.into(), reason };
    let text = fs::read_to_string(path).at("read", path)?;
    let mut prompts = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let parts: Vec<String> = match line {
            "" => Vec::new(),
            line if line.starts_with('[') => serde_json::from_str(line)
                .map_err(|error| content(format!("line {} is no array of strings in JSON: {error}", i + 1)))?,
            line => vec![line.to_owned()],
        };
        prompts.push(parts.iter().map(|part| PromptPart::parse(part)).collect());
    }
    if prompts.is_empty() { Err(content("it has no line".to_owned())) } else { Ok(prompts) }
}

impl Draft<'_> {
    /// Appends a part of a prompt.
    ///
    /// # Errors
    /// A file that cannot be read or does not decode, and as the functions for each kind of part.
    pub fn push(&mut self, part: &PromptPart) -> Result<()> {
        match part {
            PromptPart::Text(text) => self.push_text(text),
            PromptPart::Image(path) => {
                let bytes = fs::read(path).at("read", path)?;
                // As in training: by the publisher's rule where a published network encodes.
                let image = match self.tokenizers().external_image()?.map(|published| published.preparation()) {
                    Some(preparation) => image::decode_prepared(&bytes, preparation),
                    None => image::decode_square(&bytes, self.generator.image_size()),
                };
                self.push_image(&image.map_err(|skip| does_not_decode(path, skip))?)
            }
            PromptPart::Speech(path) => {
                let bytes = fs::read(path).at("read", path)?;
                let wave = wave(self.generator, path, &bytes)?;
                self.push_speech(&wave)
            }
        }
    }
}

fn wave(generator: &Generator, path: &Path, bytes: &[u8]) -> Result<Vec<f32>> {
    let name = path.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
    let recording = audio::decode(bytes, &name).map_err(|skip| does_not_decode(path, skip))?;
    Ok(audio::resample(&recording.mono, recording.facts.sample_rate, generator.sample_rate()))
}

fn does_not_decode(path: &Path, skip: impl ToString) -> Error {
    Error::Content { path: path.into(), reason: skip.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_part_or_an_array_of_parts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompts.txt");
        fs::write(&path, "a red star\n\nimage:a b.png\n[\"text:image:\", \"speech:s.wav\"]\n").unwrap();
        let text = |text: &str| PromptPart::Text(text.to_owned());
        let want = vec![
            vec![text("a red star")],
            vec![],
            vec![PromptPart::Image("a b.png".into())],
            vec![text("image:"), PromptPart::Speech("s.wav".into())],
        ];
        assert_eq!(read_prompts(&path).unwrap(), want);
        fs::write(&path, "a\n[1]\n").unwrap();
        assert!(read_prompts(&path).unwrap_err().to_string().contains("line 2 is no array of strings"));
        fs::write(&path, "").unwrap();
        assert!(read_prompts(&path).unwrap_err().to_string().contains("no line"));
    }
}
