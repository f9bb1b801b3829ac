//! JSON lines: a record is a sample.
//!
//! The text is that of the usual or the named fields; the key is `id`, `key` or `url`, or else `FILE:LINE` with the line
//! counted from 0. Fields `image`, `image_path`, `images`, `file_name`, `audio`, `audio_path`, `audio_filepath` may name
//! files by their paths from the file's folder (LLaVA, Energon, NeMo's manifests); addresses (`https:`) are no paths, and
//! `file_name` counts only with the ending of an image or a recording. At most one image and one recording make a set with
//! the text. Of several ones the order stands: images, recordings, then the text. Text may be empty.
//!
//! Several gzip members or zstd frames are read as one; a record that begins on the line on which another ends is not.

use std::collections::HashSet;
use std::ops::ControlFlow;

use serde_json::{Map, Value};

use super::media::{Found, MAX_MEDIA_BYTES, is_media};
use super::records::{Line, RecordFiles, Records};
use crate::Result;
use crate::readers::listing::{Entry, Listing, ending};
use crate::readers::{Format, Outcome, Part, PartOrder, ReadOptions, Reader, Sample, Skip, SkipReason, Unit, json};

/// Fields that name files.
pub(super) const FILE_FIELDS: [&str; 7] =
    ["image", "image_path", "images", "file_name", "audio", "audio_path", "audio_filepath"];

/// Records as samples.
#[derive(Debug)]
pub(in crate::readers) struct Jsonl {
    files: RecordFiles,
    options: ReadOptions,
}

impl Jsonl {
    /// All files of records of a source.
    pub fn open(listing: Listing, options: &ReadOptions) -> Result<Self> {
        Ok(Self { files: RecordFiles::open(listing), options: options.clone() })
    }

    /// The paths in a record, in the order of the fields.
    fn paths<'r>(&self, record: &'r Map<String, Value>) -> Vec<&'r str> {
        let mut paths = Vec::new();
        for field in FILE_FIELDS.into_iter().filter(|&field| !self.options.text_fields.iter().any(|text| text == field))
        {
            let values = match record.get(field) {
                Some(Value::Array(values)) => &values[..],
                Some(value) => std::slice::from_ref(value),
                None => &[],
            };
            for path in values.iter().filter_map(Value::as_str) {
                let is_address = path.contains("://") || path.starts_with("data:");
                let names_file = field != "file_name" || is_media(&ending(path));
                if !path.is_empty() && !is_address && names_file {
                    paths.push(path);
                }
            }
        }
        paths
    }

    /// The files of a record, each once, with the names that it has for them, and the first of those that are missing.
    fn find<'r>(&self, file: &Entry, record: &'r Map<String, Value>) -> (Vec<(&'r str, Found)>, Option<Skip>) {
        let (mut found, mut seen) = (Vec::new(), HashSet::new());
        let mut missing = None;
        for path in self.paths(record) {
            match self.files.media.find(file.folder(), path) {
                Ok(file) if !seen.insert(file.name().to_owned()) => {}
                Ok(file) => found.push((path, file)),
                Err(skip) => missing = missing.or(Some(skip)),
            }
        }
        (found, missing)
    }

    /// The parts of a sample, and whether their order says something.
    fn parts(&self, record: &Map<String, Value>, found: &[(&str, Found)]) -> Result<(PartOrder, Vec<Part>), Skip> {
        let offset = record.get("offset").and_then(Value::as_f64).unwrap_or(0.0);
        let mut room = MAX_MEDIA_BYTES;
        let mut images = Vec::new();
        let mut recordings = Vec::new();
        for (path, file) in found {
            match file.read(path, &mut room)? {
                part @ Part::Image(_) => images.push(part),
                _ if offset != 0.0 => {
                    let detail = format!("{path} from {offset} s: parts of a recording are not read");
                    return Err(Skip::new(SkipReason::BrokenRecord, detail));
                }
                part => recordings.push(part),
            }
        }
        let order = if images.len() > 1 || recordings.len() > 1 { PartOrder::Fixed } else { PartOrder::Free };
        let mut parts = images;
        parts.append(&mut recordings);
        parts.extend(json::text(record, &self.options).map(Part::Text));
        if parts.is_empty() {
            let fields: Vec<&str> = record.keys().map(String::as_str).take(12).collect();
            return Err(Skip::new(SkipReason::NoPart, format!("its fields are {}", fields.join(", "))));
        }
        Ok((order, parts))
    }
}

impl Records for Jsonl {
    fn files(&self, file: &Entry, record: &Map<String, Value>) -> Vec<Found> {
        self.find(file, record).0.into_iter().map(|(_, file)| file).collect()
    }

    fn outcome(&self, line: &Line, record: &Map<String, Value>) -> Outcome {
        let (key, place) = (line.key(record), line.place());
        let (found, missing) = self.find(line.file, record);
        let items = line.items(found.iter().map(|(_, file)| file));
        match missing.map_or_else(|| self.parts(record, &found), Err) {
            Ok((order, parts)) => {
                let group = json::group(record, &self.options);
                Outcome::Sample(Sample { key, place, group, order, parts, items })
            }
            Err(skip) => Outcome::Skipped { key, place, items, skip },
        }
    }
}

impl Reader for Jsonl {
    fn format(&self) -> Format {
        Format::Jsonl
    }

    fn units(&self) -> &[Unit] {
        &self.files.units
    }

    fn ignored(&self) -> &[Outcome] {
        &self.files.ignored
    }

    fn read(&self, unit: usize, sink: &mut dyn FnMut(Outcome) -> ControlFlow<()>) -> Result<()> {
        self.files.read(unit, self, sink)
    }
}
