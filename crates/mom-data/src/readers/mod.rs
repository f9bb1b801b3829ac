//! Readers: each gives the samples of one format, in an order of its own, without decoding them.
//!
//! A source is a file or a folder. Its reader cuts it into *units*, pieces that are read on their own (a shard, a table, a
//! folder of files, a stretch of a long file), and gives the samples of a unit one after the other. Nothing that a reader
//! finds is passed over: it is part of a sample, of a sample that is skipped, or ignored ([`Outcome`]).

mod ahead;
mod compressed;
mod guess;
mod json;
mod librispeech;
mod listing;
mod loose;
mod megatron;
mod metadata;
mod mmc4;
mod parquet;
mod sample;
mod text;
mod token_bin;
mod tuxpaint;
mod webdataset;

use std::ops::ControlFlow;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub(crate) use ahead::{Chunk, read_units};
pub use sample::{Outcome, Part, PartOrder, Picture, Place, Sample, Sound};

pub use crate::tally::{ItemCounts, Skip, SkipReason, Tally, escaped, printable};
use crate::vocabulary::Modality;
use crate::{DataError, Result};

/// How a source is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Format {
    /// Tar archives of members `KEY.ENDING`, also `.tar.gz` and `.tar.zst`.
    Webdataset,
    /// Files of equal stem: `NAME.jpg`, `NAME.txt`, `NAME.wav`.
    Loose,
    /// Files named by a `metadata.jsonl` or `metadata.csv` (Hugging Face's imagefolder and audiofolder).
    Metadata,
    /// Tables with media as bytes, text, or interleaved lists (`images`, `texts`).
    Parquet,
    /// `.jsonl`, also `.gz` and `.zst`: one text a line.
    Jsonl,
    /// `.txt`, also `.gz` and `.zst`: one text a file.
    Text,
    /// Dictionaries of dictd, `.dict` and `.dict.dz`: one text an entry.
    Dictd,
    /// MMC4: `.jsonl` of `text_list` and `image_info`, with the images beside.
    Mmc4,
    /// LibriSpeech: `SPEAKER/CHAPTER/*.flac` and `*.trans.txt`.
    Librispeech,
    /// Tux Paint's stamps: a picture, its names in many languages, and recordings.
    Tuxpaint,
    /// Megatron-LM's `.bin` and `.idx`: tokens, with modes as modalities.
    Megatron,
    /// nanoGPT's and llm.c's `.bin`: tokens.
    TokenBin,
    /// Generated scenes, which lie at no path.
    Scenes,
}

/// What of a source is read as what.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReadOptions {
    /// Fields (of JSON sidecars, lines, columns) that hold the text, the first that is there is taken. Empty: the format's
    /// usual ones (`text`, `caption`, `txt`, `transcription`, `transcript`, `sentence`). A `.txt` member comes first unless
    /// fields are named here.
    pub text_fields: Vec<String>,
    /// Field whose value keeps samples on one side of a split.
    pub group_field: Option<String>,
    /// Token that ends or begins a document in a `token-bin` file; the file's own where its header tells it.
    pub end_of_document: Option<u32>,
    /// Modality of the tokens of a `token-bin` or `megatron` file without modes; text by default.
    pub token_modality: Option<Modality>,
    /// Modalities of Megatron's modes, by mode. Empty: 0 text, 1 image, 2 speech.
    pub mode_modalities: Vec<Modality>,
}

/// A piece of a source that is read on its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Name, unique within the source: a path relative to it, with a suffix where a file is cut into several units.
    pub name: String,
    /// Bytes of all files that belong to it.
    pub len_bytes: u64,
    /// Changes when the unit's files are exchanged: a hash of names, sizes and times of change.
    pub stamp: u64,
}

/// Reads one format.
pub trait Reader: Send + Sync + std::fmt::Debug {
    /// The format.
    fn format(&self) -> Format;

    /// The pieces of the source, in reading order.
    fn units(&self) -> &[Unit];

    /// What lies in the source's folder and belongs to no unit.
    fn ignored(&self) -> &[Outcome];

    /// Gives everything in a unit to `sink`, in reading order, until it breaks. Uses memory for a sample or so at a time.
    ///
    /// # Errors
    /// [`DataError::Io`] and [`DataError::Damaged`], naming the file and the place: what was given before stands.
    fn read(&self, unit: usize, sink: &mut dyn FnMut(Outcome) -> ControlFlow<()>) -> Result<()>;
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 13] = [
        Self::Webdataset,
        Self::Loose,
        Self::Metadata,
        Self::Parquet,
        Self::Jsonl,
        Self::Text,
        Self::Dictd,
        Self::Mmc4,
        Self::Librispeech,
        Self::Tuxpaint,
        Self::Megatron,
        Self::TokenBin,
        Self::Scenes,
    ];

    /// Name: `webdataset`, `token-bin`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Webdataset => "webdataset",
            Self::Loose => "loose",
            Self::Metadata => "metadata",
            Self::Parquet => "parquet",
            Self::Jsonl => "jsonl",
            Self::Text => "text",
            Self::Dictd => "dictd",
            Self::Mmc4 => "mmc4",
            Self::Librispeech => "librispeech",
            Self::Tuxpaint => "tuxpaint",
            Self::Megatron => "megatron",
            Self::TokenBin => "token-bin",
            Self::Scenes => "scenes",
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Format {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name).ok_or_else(|| DataError::Config {
            field: "format",
            expected: format!("one of {}", Self::ALL.map(Self::name).join(", ")),
            got: printable(name, 40),
        })
    }
}

/// Opens a source: lists its units, reads none.
///
/// # Errors
/// [`DataError::Io`] if it cannot be read; [`DataError::UnknownFormat`] if no format is given and none fits;
/// [`DataError::NoUnits`] if it holds nothing of the format.
pub fn open(path: &Path, format: Option<Format>, options: &ReadOptions) -> Result<Box<dyn Reader>> {
    let listing = listing::Listing::of(path)?;
    let format = match format {
        Some(format) => format,
        None => guess::guess(&listing)?,
    };
    let reader: Box<dyn Reader> = match format {
        Format::Webdataset => Box::new(webdataset::WebDataset::open(listing, options)?),
        Format::Loose => Box::new(loose::Loose::open(listing, options)?),
        Format::Metadata => Box::new(metadata::Metadata::open(listing, options)?),
        Format::Parquet => Box::new(parquet::Parquet::open(listing, options)?),
        Format::Jsonl => Box::new(text::Jsonl::open(listing, options)?),
        Format::Text => Box::new(text::Text::open(listing, options)?),
        Format::Dictd => Box::new(text::Dictionary::open(listing, options)?),
        Format::Mmc4 => Box::new(mmc4::Mmc4::open(listing, options)?),
        Format::Librispeech => Box::new(librispeech::LibriSpeech::open(listing, options)?),
        Format::Tuxpaint => Box::new(tuxpaint::TuxPaint::open(listing, options)?),
        Format::Megatron => Box::new(megatron::Megatron::open(listing, options)?),
        Format::TokenBin => Box::new(token_bin::TokenBin::open(listing, options)?),
        Format::Scenes => return Err(DataError::NoUnits { path: path.to_path_buf(), format: format.name() }),
    };
    if reader.units().is_empty() {
        return Err(DataError::NoUnits { path: path.to_path_buf(), format: format.name() });
    }
    Ok(reader)
}

/// Changes when any file at a path does: a hash of names, sizes and times of change. Reads no file.
pub(crate) fn stamp(path: &Path) -> Result<u64> {
    hash(path, |entry| entry.stamp)
}

/// A hash of names and sizes of all files at a path.
pub(crate) fn contents(path: &Path) -> Result<u64> {
    hash(path, |entry| entry.len_bytes)
}

fn hash(path: &Path, word: impl Fn(&listing::Entry) -> u64) -> Result<u64> {
    let mut bytes = Vec::new();
    for entry in &listing::Listing::of(path)?.entries {
        bytes.extend(entry.name.as_bytes());
        bytes.push(0);
        bytes.extend(word(entry).to_le_bytes());
    }
    Ok(crate::rng::stable_hash(&bytes))
}
