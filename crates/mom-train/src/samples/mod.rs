//! What a model makes of held-out documents: captions drawn and spoken, pictures and speech described, beside the truth.
//!
//! The prompts are the same for every model of one setting and data, so that variants stand side by side. A set lies in
//! `samples/step-00000500/` of a run: `samples.json` and the files that it names.

mod prompts;

use std::fs;
use std::path::{Path, PathBuf};

use mom_data::{Content, Modality, encode};
use serde::{Deserialize, Serialize};

use crate::files::{self, At};
use crate::{Error, GenerateOptions, Generator, Part, Result, draw};

pub(crate) use prompts::{Prompt, prompts_of, unshown};

/// Prompts of each kind.
pub(crate) const EACH: usize = 4;
/// Diffusion steps of a sampled picture.
const STEPS: u32 = 50;
/// Tokens of a sampled text, or units of speech.
const TOKENS: usize = 96;
const INDEX: &str = "samples.json";

/// A part of a document, as somebody looks at it or listens to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shown {
    /// Text.
    Text(String),
    /// Name of a PNG file in the folder.
    Image(PathBuf),
    /// Name of a WAV file in the folder.
    Speech(PathBuf),
}

/// One prompt, what the document has behind it, and what the model drew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// Key of the document.
    pub key: String,
    /// What the model was given.
    pub prompt: Shown,
    /// What the document has.
    pub truth: Shown,
    /// What the model drew.
    pub drawn: Shown,
}

/// What stands in a folder of samples.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Samples {
    /// Optimiser steps that the model had done.
    pub step: u64,
    /// One for each prompt.
    pub samples: Vec<Sample>,
}

impl Samples {
    /// Reads a folder of samples; `None` where there is none.
    ///
    /// # Errors
    /// A file that cannot be read, or is something else.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(INDEX);
        if !path.is_file() {
            return Ok(None);
        }
        let text = fs::read(&path).at("read", &path)?;
        serde_json::from_slice(&text).map(Some).map_err(|error| Error::Content { path, reason: error.to_string() })
    }

    /// The newest of a run, and its folder.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn newest(run: &Path) -> Result<Option<(PathBuf, Self)>> {
        let folder = run.join("samples");
        if !folder.is_dir() {
            return Ok(None);
        }
        let mut newest: Option<(PathBuf, Self)> = None;
        for entry in fs::read_dir(&folder).at("read", &folder)? {
            let path = entry.at("read", &folder)?.path();
            if let Some(samples) = Self::read(&path)?
                && newest.as_ref().is_none_or(|(_, newest)| newest.step < samples.step)
            {
                newest = Some((path, samples));
            }
        }
        Ok(newest)
    }
}

/// Files of samples, by name.
pub(crate) type Files = Vec<(PathBuf, Vec<u8>)>;

/// Draws a sample for each prompt. Nothing of a model in training changes by it.
///
/// # Errors
/// What the model reports.
pub(crate) fn take(generator: &Generator, prompts: &[Prompt], step: u64) -> Result<(Samples, Files)> {
    let (mut samples, mut files) = (Vec::new(), Vec::new());
    let options = GenerateOptions { n_steps: STEPS, max_tokens: TOKENS, ..GenerateOptions::default() };
    for prompts in prompts.chunk_by(|a, b| (a.given, a.wanted) == (b.given, b.wanted)) {
        let mut drafts = Vec::new();
        for (prompt, seed) in prompts.iter().zip(0..) {
            let mut draft = generator.draft(&GenerateOptions { seed, ..options })?;
            draft.push_content(&prompt.content)?;
            drafts.push(draft);
        }
        for (prompt, part) in prompts.iter().zip(draw(&mut drafts, prompts[0].wanted)?) {
            let mut show = |part, what: &str| {
                let name = format!("{:02}-{}-to-{}-{what}", samples.len(), prompt.given.name(), prompt.wanted.name());
                shown(part, &name, generator.sample_rate(), &mut files)
            };
            let of_content = |content: &Content| generator.part(content);
            samples.push(Sample {
                prompt: show(of_content(&prompt.content)?, "prompt")?,
                truth: show(of_content(&prompt.truth)?, "truth")?,
                drawn: show(part, "drawn")?,
                key: prompt.key.clone(),
            });
        }
    }
    Ok((Samples { step, samples }, files))
}

fn shown(part: Part, name: &str, sample_rate: u32, files: &mut Files) -> Result<Shown> {
    let (path, bytes, of) = match part {
        Part::Text(text) => return Ok(Shown::Text(text)),
        Part::Units(units) => {
            let units = units.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
            return Ok(Shown::Text(format!("units {units} (they have no decoder here, and cannot be heard)")));
        }
        Part::Image(image) => (format!("{name}.png"), encode::png(&image)?, Shown::Image as fn(PathBuf) -> Shown),
        Part::Speech(wave) => (format!("{name}.wav"), encode::wav(&wave, sample_rate)?, Shown::Speech as _),
    };
    files.push((path.clone().into(), bytes));
    Ok(of(path.into()))
}

/// Writes a set into the folder of its step in a run; the index comes last.
///
/// # Errors
/// A file that cannot be written.
pub(crate) fn write(run: &Path, samples: &Samples, files: &Files) -> Result<PathBuf> {
    let folder = run.join("samples").join(format!("step-{:08}", samples.step));
    files::create_folder(&folder)?;
    for (name, bytes) in files {
        files::replace(&folder.join(name), bytes)?;
    }
    files::write_json(&folder.join(INDEX), samples)?;
    Ok(folder)
}

/// The pairs of a setting: what is given, and what is drawn from it.
fn pairs(setting: mom_models::Setting) -> &'static [(Modality, Modality)] {
    use Modality::{Image, Speech, Text};
    if setting.has_speech() {
        &[(Text, Image), (Image, Text), (Text, Speech), (Speech, Text)]
    } else {
        &[(Text, Image), (Image, Text)]
    }
}
