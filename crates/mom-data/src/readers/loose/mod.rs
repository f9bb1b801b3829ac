//! Loose files: those of one folder that differ only in their ending belong together.
//!
//! `KEY.jpg`, `KEY.txt`, `KEY.wav`, and the `KEY.json` of img2dataset's `files` output. At most one of each kind; one kind
//! alone is a sample too, except for a sidecar.

pub(super) mod folder;

use std::ops::{ControlFlow, Range};

use serde_json::{Map, Value};

use self::folder::Made;
use super::listing::{self, Entry, Listing};
use super::{Format, Outcome, Place, ReadOptions, Reader, Skip, SkipReason, Unit, json};
use crate::Result;
use crate::readers::Part;

/// Reads files of equal stem.
#[derive(Debug)]
pub(super) struct Loose {
    options: ReadOptions,
    /// Files that belong to a sample, by folder and stem.
    entries: Vec<Entry>,
    units: Vec<Unit>,
    /// The files of each unit.
    ranges: Vec<Range<usize>>,
    ignored: Vec<Outcome>,
}

/// What a file is to its sample.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Image,
    Audio,
    Sidecar,
}

/// The kind of a file, by its ending.
fn kind(entry: &Entry) -> Option<Kind> {
    match entry.ending().as_str() {
        "txt" | "text" | "caption" | "transcript" | "lab" => Some(Kind::Text),
        "json" => Some(Kind::Sidecar),
        ending if listing::is_image(ending) => Some(Kind::Image),
        ending if listing::is_audio(ending) => Some(Kind::Audio),
        _ => None,
    }
}

impl Loose {
    pub fn open(listing: Listing, options: &ReadOptions) -> Result<Self> {
        let mut ignored = listing.ignored;
        let (known, others): (Vec<Entry>, Vec<Entry>) = listing.entries.into_iter().partition(|e| kind(e).is_some());
        ignored.extend(others.iter().map(Entry::ignored));

        // A sidecar with nothing beside it describes something else: a whole folder, statistics.
        let mut sorted = known;
        folder::sort(&mut sorted, folder::stem);
        let mut entries = Vec::with_capacity(sorted.len());
        for files in sorted.chunk_by(together) {
            if files.iter().all(|entry| kind(entry) == Some(Kind::Sidecar)) {
                ignored.extend(files.iter().map(Entry::ignored));
            } else {
                entries.extend_from_slice(files);
            }
        }
        let (units, ranges) = folder::cut(&entries, folder::stem);
        Ok(Self { options: options.clone(), entries, units, ranges, ignored })
    }

    fn make(&self, files: &[Entry]) -> Result<Made, Skip> {
        let the = |wanted: Kind| {
            let mut of_kind = files.iter().filter(|entry| kind(entry) == Some(wanted));
            match (of_kind.next(), of_kind.next()) {
                (Some(first), Some(second)) => Err(folder::duplicates(first, second)),
                (only, _) => Ok(only),
            }
        };
        let (text, image, audio, sidecar) =
            (the(Kind::Text)?, the(Kind::Image)?, the(Kind::Audio)?, the(Kind::Sidecar)?);

        // A sidecar that nothing is asked of is not opened: if it is damaged, that costs nothing.
        let named = !self.options.text_fields.is_empty();
        let record = match sidecar {
            Some(entry) if named || text.is_none() || self.options.group_field.is_some() => read_sidecar(entry)?,
            _ => Map::new(),
        };
        let in_record = if named || text.is_none() { json::text(&record, &self.options) } else { None };
        let text = match (in_record, text) {
            (Some(text), _) => Some(text),
            (None, Some(entry)) => Some(folder::read_text(entry)?),
            (None, None) => None,
        };
        let mut parts: Vec<Part> = text.map(Part::Text).into_iter().collect();
        for entry in image.into_iter().chain(audio) {
            parts.push(folder::read_media(entry)?);
        }
        Ok(Made { group: json::group(&record, &self.options), parts })
    }
}

/// Whether two files belong to one sample.
fn together(a: &Entry, b: &Entry) -> bool {
    folder::stem(a) == folder::stem(b)
}

/// The fields of a sidecar; none if it holds something else than an object.
fn read_sidecar(entry: &Entry) -> Result<Map<String, Value>, Skip> {
    let bytes = folder::read(entry)?;
    let bytes = bytes.strip_prefix(folder::BYTE_ORDER_MARK).unwrap_or(&bytes);
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(record)) => Ok(record),
        Ok(_) => Ok(Map::new()),
        Err(error) => Err(Skip::new(SkipReason::BrokenRecord, format!("{}: {error}", entry.name))),
    }
}

impl Reader for Loose {
    fn format(&self) -> Format {
        Format::Loose
    }

    fn units(&self) -> &[Unit] {
        &self.units
    }

    fn ignored(&self) -> &[Outcome] {
        &self.ignored
    }

    fn read(&self, unit: usize, sink: &mut dyn FnMut(Outcome) -> ControlFlow<()>) -> Result<()> {
        for files in self.entries[self.ranges[unit].clone()].chunk_by(together) {
            let place = Place { file: files[0].name.clone(), row: None };
            let items = files.iter().map(Entry::ending).collect();
            let outcome = folder::outcome(folder::stem(&files[0]).to_owned(), place, items, self.make(files));
            if sink(outcome).is_break() {
                break;
            }
        }
        Ok(())
    }
}
