//! What a reader gives: the parts that belong together, not decoded yet.

use bytes::Bytes;

use crate::pixels::RgbImage;
use crate::tally::{Skip, Tally};
use crate::vocabulary::Modality;

/// Parts that belong together, as they lie in their source.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Name of the sample as its format has it. Bytes that are not UTF-8 are escaped, so that different keys stay different.
    pub key: String,
    /// Where it lies.
    pub place: Place,
    /// What keeps samples on one side of a split: the value of the source's `group` field. `None`: the sample's key.
    pub group: Option<String>,
    /// Whether the order of the parts says something.
    pub order: PartOrder,
    /// The parts.
    pub parts: Vec<Part>,
    /// Endings of the files, members, rows or lines that the sample is made of, one entry for each of them (`jpg`, `txt`,
    /// `json`); a sample that is used uses all of these, one that is skipped loses all of these.
    pub items: Vec<String>,
}

/// Where a sample lies.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// File or folder, relative to the source's path, with `/` between its parts.
    pub file: String,
    /// Row, line or document within the file, from 0, where the format counts them.
    pub row: Option<u64>,
}

/// Whether the order of a sample's parts says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartOrder {
    /// A set, at most one part of a modality: the order of a document is drawn.
    Free,
    /// An interleaved document: the order is part of it.
    Fixed,
}

/// One part of a sample.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// Text, without byte order mark.
    Text(String),
    /// An image.
    Image(Picture),
    /// A recording.
    Audio(Sound),
    /// Ready tokens of a modality, in row-major order.
    Codes {
        /// Whose tokens these are.
        modality: Modality,
        /// Sizes of the array they came in; `[n]` where they came in none.
        shape: Vec<usize>,
        /// The tokens.
        values: Vec<u32>,
    },
    /// Ready continuous values of an image, in row-major order.
    Latents {
        /// Sizes of the array.
        shape: Vec<usize>,
        /// The values, all finite.
        values: Vec<f32>,
    },
}

/// An image: a file as it was found, or pixels of a generator.
#[derive(Debug, Clone, PartialEq)]
pub enum Picture {
    /// Bytes of an image file; what they are is told by the bytes, not by the name.
    File {
        /// Member or stored name.
        name: String,
        /// Contents.
        bytes: Bytes,
    },
    /// Pixels.
    Pixels(RgbImage),
}

/// A recording: a file as it was found, or the samples of a generator.
#[derive(Debug, Clone, PartialEq)]
pub enum Sound {
    /// Bytes of an audio file; what they are is told by the bytes, the name helps where they do not.
    File {
        /// Member or stored name.
        name: String,
        /// Contents.
        bytes: Bytes,
    },
    /// Mono samples.
    Wave {
        /// In Hz.
        sample_rate: u32,
        /// In [-1, 1].
        values: Vec<f32>,
    },
}

/// What a reader gives, one after the other.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// A sample. Whether it decodes is not known yet.
    Sample(Sample),
    /// A sample that cannot be used, whatever is asked for.
    Skipped {
        /// Its key.
        key: String,
        /// Where it lies.
        place: Place,
        /// As in [`Sample::items`].
        items: Vec<String>,
        /// Why.
        skip: Skip,
    },
    /// An item that belongs to no sample.
    Ignored {
        /// Its ending, in lower case: all behind the first dot of a member's name, the last one of a file's; `(none)`.
        ending: String,
        /// Its name.
        name: String,
    },
}

impl Tally {
    /// Counts an outcome as its reader gave it: a sample as used.
    pub fn count(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Sample(sample) => self.used(&sample.items),
            Outcome::Skipped { key, place, items, skip } => self.skipped(&place.file, key, items, skip),
            Outcome::Ignored { ending, name } => self.ignored(ending, name),
        }
    }

    /// The same, and whether a sample has the field that groups are told by, where its source names one (`is_grouped`).
    pub(crate) fn count_grouped(&mut self, outcome: &Outcome, is_grouped: bool) {
        self.count(outcome);
        let lacks = is_grouped && matches!(outcome, Outcome::Sample(sample) if sample.group.is_none());
        self.ungrouped += u64::from(lacks);
    }
}
