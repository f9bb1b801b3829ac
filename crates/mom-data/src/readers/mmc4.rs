//! MMC4: documents of sentences and pictures, one a line, with the pictures beside.
//!
//! `text_list` holds the sentences; each picture of `image_info` belongs to the sentence of its `matched_text_index` and
//! stands before it, as OpenFlamingo reads MMC4 (Zhu et al., 2023, arXiv:2304.06939); pictures of one sentence stand in the
//! order of `image_info`. An `image_name` is looked up beside the file, then in a folder `images` beside it or in the
//! source, then in any folder of the source. A document that lacks one of its pictures is skipped.

use std::ops::ControlFlow;

use serde_json::{Map, Value};

use super::listing::{Entry, Listing};
use super::text::media::{Found, MAX_MEDIA_BYTES};
use super::text::records::{self, Line, RecordFiles, Records};
use super::{Format, Outcome, Part, PartOrder, ReadOptions, Reader, Sample, Skip, SkipReason, Unit, json};
use crate::{DataError, Result};

/// Documents of MMC4.
#[derive(Debug)]
pub(super) struct Mmc4 {
    files: RecordFiles,
    options: ReadOptions,
}

/// A document as its record has it.
struct Document<'r> {
    sentences: Vec<&'r str>,
    /// Name and sentence of each picture.
    pictures: Vec<(&'r str, usize)>,
}

impl Mmc4 {
    /// All documents of a source.
    pub fn open(listing: Listing, options: &ReadOptions) -> Result<Self> {
        let zip = listing.entries.iter().find(|entry| entry.ending() == "zip").map(|entry| entry.path.clone());
        let files = RecordFiles::open(listing);
        match zip {
            Some(path) if files.units.is_empty() || files.units.iter().all(|unit| unit.name.ends_with(".zip")) => {
                let reason = "zip archives are not read: unpack it, or compress the .jsonl as .gz or .zst".to_owned();
                Err(DataError::Damaged { path, place: "at byte 0".to_owned(), reason })
            }
            _ => Ok(Self { files, options: options.clone() }),
        }
    }

    /// The picture of a name.
    fn find(&self, file: &Entry, name: &str) -> Result<Found, Skip> {
        let media = &self.files.media;
        let beside = media.find(file.folder(), name);
        let in_folder = || media.find(file.folder(), &format!("images/{name}"));
        let in_source = || media.find("", &format!("images/{name}"));
        beside.or_else(|_| in_folder()).or_else(|_| in_source()).or_else(|_| media.find_base(name))
    }

    /// The parts of a document whose pictures are all there.
    fn parts(document: &Document, found: Vec<Result<Found, Skip>>) -> Result<Vec<Part>, Skip> {
        let found = found.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut room = MAX_MEDIA_BYTES;
        let mut pictures: Vec<_> = document.pictures.iter().zip(&found).collect();
        // Stable: pictures of one sentence keep their order.
        pictures.sort_by_key(|((_, at), _)| *at);
        let mut pictures = pictures.into_iter().peekable();
        let mut parts = Vec::new();
        for (index, sentence) in document.sentences.iter().enumerate() {
            while let Some(((name, _), file)) = pictures.next_if(|((_, at), _)| *at == index) {
                parts.push(file.read(name, &mut room)?);
            }
            parts.push(Part::Text((*sentence).to_owned()));
        }
        Ok(parts)
    }
}

impl<'r> Document<'r> {
    fn of(record: &'r Map<String, Value>) -> Result<Self, Skip> {
        let broken = |detail: String| Skip::new(SkipReason::BrokenRecord, detail);
        let list = |field: &str| {
            let list = record.get(field).and_then(Value::as_array);
            list.ok_or_else(|| broken(format!("{field} is no list")))
        };
        let sentences = list("text_list")?
            .iter()
            .enumerate()
            .map(|(index, text)| text.as_str().ok_or_else(|| broken(format!("text_list[{index}] is no text"))));
        let sentences = sentences.collect::<Result<Vec<_>, _>>()?;
        if sentences.is_empty() {
            return Err(Skip::new(SkipReason::NoPart, "text_list is empty"));
        }
        let pictures = list("image_info")?.iter().enumerate().map(|(index, info)| {
            let name = info.get("image_name").and_then(Value::as_str);
            let name = name.ok_or_else(|| broken(format!("image_info[{index}] has no image_name")))?;
            let at = info.get("matched_text_index").and_then(Value::as_u64);
            let at = at.and_then(|at| usize::try_from(at).ok()).filter(|&at| at < sentences.len());
            let at = at.ok_or_else(|| broken(format!("matched_text_index of image_info[{index}] names no text")))?;
            Ok((name, at))
        });
        let pictures = pictures.collect::<Result<Vec<_>, _>>()?;
        Ok(Self { sentences, pictures })
    }
}

impl Records for Mmc4 {
    fn files(&self, file: &Entry, record: &Map<String, Value>) -> Vec<Found> {
        let pictures = Document::of(record).map(|document| document.pictures).unwrap_or_default();
        pictures.into_iter().filter_map(|(name, _)| self.find(file, name).ok()).collect()
    }

    fn outcome(&self, line: &Line, record: &Map<String, Value>) -> Outcome {
        let (key, place) = (line.key(record), line.place());
        let document = match Document::of(record) {
            Ok(document) => document,
            Err(skip) => return Outcome::Skipped { key, place, items: line.items(&[]), skip },
        };
        let found: Vec<_> = document.pictures.iter().map(|(name, _)| self.find(line.file, name)).collect();
        let items = line.items(found.iter().flatten());
        match Self::parts(&document, found) {
            Ok(parts) => {
                let group = json::group(record, &self.options);
                Outcome::Sample(Sample { key, place, group, order: PartOrder::Fixed, parts, items })
            }
            Err(skip) => Outcome::Skipped { key, place, items, skip },
        }
    }
}

impl Reader for Mmc4 {
    fn format(&self) -> Format {
        Format::Mmc4
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

/// Whether the first record of the first `.jsonl` is a document of MMC4.
pub(super) fn looks_like(listing: &Listing) -> Result<bool> {
    let record = records::first_record(listing)?;
    Ok(record.is_some_and(|record| {
        let is_list = |field: &str| record.get(field).is_some_and(Value::is_array);
        is_list("text_list") && is_list("image_info")
    }))
}
