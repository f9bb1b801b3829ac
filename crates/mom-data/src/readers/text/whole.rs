//! Text files: each is one document.
//!
//! The text is the file's, without a byte order mark, with its line ends as they are. `.gz` and `.zst` are decompressed. A
//! text of more than 16 MiB is given in stretches: each ends where a paragraph ends (or a line, or a character, where
//! there is no paragraph), and all together are the file. Small files of a folder are read together, as one unit.

use std::io::{self, Read};
use std::ops::ControlFlow;

use super::paragraphs;
use super::pieces::broken_stream;
use crate::readers::listing::{Entry, Listing};
use crate::readers::{
    Format, Outcome, Part, PartOrder, Place, ReadOptions, Reader, Sample, Skip, SkipReason, Unit, compressed,
};
use crate::{DataError, Result, rng};

/// Endings of text files.
const ENDINGS: [&str; 9] = ["txt", "txt.gz", "txt.zst", "text", "text.gz", "text.zst", "md", "md.gz", "md.zst"];

/// Bytes of the longest text that is one document.
const MAX_TEXT_BYTES: usize = 16 << 20;

/// A unit of several files ends with the file that reaches one of these.
const UNIT_BYTES: u64 = 64 << 20;
const UNIT_FILES: usize = 4096;

/// Text files, one document each.
#[derive(Debug)]
pub(in crate::readers) struct Text {
    /// Files of each unit.
    files: Vec<Vec<Entry>>,
    units: Vec<Unit>,
    ignored: Vec<Outcome>,
}

impl Text {
    /// All text files of a source, or the one file that it is, whatever its ending.
    pub fn open(listing: Listing, _options: &ReadOptions) -> Result<Self> {
        let named = listing.root.is_file();
        let mut reader = Self { files: Vec::new(), units: Vec::new(), ignored: listing.ignored };
        let mut open: Vec<Entry> = Vec::new();
        for entry in listing.entries {
            if !named && !ENDINGS.contains(&entry.ending().as_str()) {
                reader.ignored.push(entry.ignored());
                continue;
            }
            let bytes: u64 = open.iter().map(|file| file.len_bytes).sum();
            let full = bytes.saturating_add(entry.len_bytes) > UNIT_BYTES || open.len() == UNIT_FILES;
            if open.last().is_some_and(|last| full || last.folder() != entry.folder()) {
                reader.close(std::mem::take(&mut open));
            }
            open.push(entry);
        }
        reader.close(open);
        Ok(reader)
    }

    /// Makes a unit of files.
    fn close(&mut self, files: Vec<Entry>) {
        let Some(first) = files.first() else { return };
        let mut unit = first.unit();
        if files.len() > 1 {
            unit.name.push_str(&format!(" and {} more", files.len() - 1));
            unit.len_bytes = files.iter().fold(0, |sum, file| sum.saturating_add(file.len_bytes));
            let stamps: Vec<u8> = files
                .iter()
                .flat_map(|file| [rng::stable_hash(file.name.as_bytes()), file.stamp])
                .flat_map(u64::to_le_bytes)
                .collect();
            unit.stamp = rng::stable_hash(&stamps);
        }
        self.units.push(unit);
        self.files.push(files);
    }
}

impl Reader for Text {
    fn format(&self) -> Format {
        Format::Text
    }

    fn units(&self) -> &[Unit] {
        &self.units
    }

    fn ignored(&self) -> &[Outcome] {
        &self.ignored
    }

    fn read(&self, unit: usize, sink: &mut dyn FnMut(Outcome) -> ControlFlow<()>) -> Result<()> {
        for file in &self.files[unit] {
            if read_file(file, sink)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// Gives the text of one file, in stretches where it is long. What does not decompress is a skipped sample, so that it
/// costs no other file.
fn read_file(file: &Entry, sink: &mut dyn FnMut(Outcome) -> ControlFlow<()>) -> Result<ControlFlow<()>> {
    let mut source = compressed::open(&file.path)?;
    let mut bytes = Vec::new();
    let mut row = 0;
    loop {
        // One byte more than fits tells whether this is the end.
        let wanted = MAX_TEXT_BYTES + 1 - bytes.len();
        let read = source.by_ref().take(wanted as u64).read_to_end(&mut bytes);
        let end = read.is_err() || bytes.len() <= MAX_TEXT_BYTES;
        let outcome = match read {
            Err(error) => unreadable(file, row, error)?,
            Ok(_) if end => document(file, (row > 0).then_some(row), std::mem::take(&mut bytes)),
            Ok(_) => {
                let rest = bytes.split_off(paragraphs::cut_at(&bytes[..MAX_TEXT_BYTES]));
                document(file, Some(row), std::mem::replace(&mut bytes, rest))
            }
        };
        if sink(outcome).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        if end {
            return Ok(ControlFlow::Continue(()));
        }
        row += 1;
    }
}

/// A text, or one stretch of it.
fn document(file: &Entry, row: Option<u64>, mut bytes: Vec<u8>) -> Outcome {
    let (key, place, items) = name(file, row);
    let skip = if row.unwrap_or(0) == 0 && (bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff])) {
        Skip::new(SkipReason::BrokenText, "it has the byte order mark of UTF-16")
    } else {
        if row.unwrap_or(0) == 0 && bytes.starts_with(b"\xef\xbb\xbf") {
            bytes.drain(..3);
        }
        match String::from_utf8(bytes) {
            Ok(text) => {
                // Stretches of one text stay on one side of a split.
                let group = row.map(|_| stem(file));
                let parts = vec![Part::Text(text)];
                return Outcome::Sample(Sample { key, place, group, order: PartOrder::Free, parts, items });
            }
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                Skip::new(SkipReason::BrokenText, format!("byte {at} of {}", error.as_bytes().len()))
            }
        }
    };
    Outcome::Skipped { key, place, items, skip }
}

/// A file that ends in an error.
fn unreadable(file: &Entry, row: u64, error: io::Error) -> Result<Outcome> {
    match broken_stream(&file.path, String::new(), error) {
        DataError::Damaged { reason, .. } => {
            let (key, place, items) = name(file, (row > 0).then_some(row));
            let skip = Skip::new(SkipReason::BrokenText, format!("it does not decompress: {reason}"));
            Ok(Outcome::Skipped { key, place, items, skip })
        }
        error => Err(error),
    }
}

/// Key, place and items of a text or of one stretch of it. The first stretch stands for the file.
fn name(file: &Entry, row: Option<u64>) -> (String, Place, Vec<String>) {
    let key = row.map_or_else(|| stem(file), |row| format!("{}:{row}", stem(file)));
    let items = if row.unwrap_or(0) == 0 { vec![file.ending()] } else { Vec::new() };
    (key, Place { file: file.name.clone(), row }, items)
}

/// The name without its ending.
fn stem(file: &Entry) -> String {
    let dots = file.ending().matches('.').count() + 1;
    let base_at = file.name.len() - file.base().len();
    let mut end = file.name.len();
    for _ in 0..dots {
        end = file.name[base_at..end].rfind('.').map_or(end, |dot| base_at + dot);
    }
    file.name[..end].to_owned()
}
