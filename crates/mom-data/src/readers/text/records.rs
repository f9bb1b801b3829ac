//! Files of one JSON record a line.
//!
//! Uncompressed files are cut into units of about 64 MiB at line ends. Lines are counted from 0, blank ones too; a blank
//! line is no record and is not counted among the items, nor is a byte order mark at the start of a line part of one. A
//! line that is longer than 64 MiB is never held in memory. `NaN` and `Infinity`, which Python writes and JSON does not
//! know, are read as `null`.
//!
//! Where images and recordings lie in the source, it has one unit more: it reads all records a second time and gives the
//! files that none of them names, as ignored.

use std::fs::File;
use std::io::{BufRead, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::json_lines::{Lines, parse};
use super::media::{Found, MediaFiles, is_media};
use super::pieces::{Counts, Piece, broken_stream, cut, head};
use crate::error::IoContext;
use crate::readers::listing::{Entry, Listing};
use crate::readers::{Outcome, Place, Unit, compressed, json};
use crate::{DataError, Result, rng};

/// Endings of files of records.
const ENDINGS: [&str; 8] =
    ["jsonl", "jsonl.gz", "jsonl.zst", "ndjson", "ndjson.gz", "ndjson.zst", "json.gz", "json.zst"];

/// Bytes of a unit.
const UNIT_BYTES: u64 = 64 << 20;

/// Files of records, and the media that lie with them.
#[derive(Debug)]
pub(in crate::readers) struct RecordFiles {
    files: Vec<Entry>,
    /// One for each unit, save the one of files that no record names.
    pieces: Vec<Piece>,
    /// Lines of the pieces.
    lines: Counts,
    /// Images and recordings.
    pub media: MediaFiles,
    pub units: Vec<Unit>,
    pub ignored: Vec<Outcome>,
}

/// A record and where it lies.
#[derive(Debug)]
pub(in crate::readers) struct Line<'a> {
    /// Its file.
    pub file: &'a Entry,
    /// Its line, from 0.
    pub row: u64,
}

/// What a format makes of records.
pub(in crate::readers) trait Records {
    /// The files that a record names, without those that are missing.
    fn files(&self, file: &Entry, record: &Map<String, Value>) -> Vec<Found>;

    /// The sample.
    fn outcome(&self, line: &Line, record: &Map<String, Value>) -> Outcome;
}

impl Line<'_> {
    /// The record's `id`, `key` or `url`, or else `FILE:LINE`.
    pub fn key(&self, record: &Map<String, Value>) -> String {
        let named = ["id", "key", "url"].into_iter().find_map(|field| json::scalar(record.get(field)?));
        named.filter(|key| !key.is_empty()).unwrap_or_else(|| self.number())
    }

    /// Where it lies.
    pub fn place(&self) -> Place {
        Place { file: self.file.name.clone(), row: Some(self.row) }
    }

    /// Items of its sample: the line and the files that it names.
    pub fn items<'f>(&self, files: impl IntoIterator<Item = &'f Found>) -> Vec<String> {
        std::iter::once(self.file.ending()).chain(files.into_iter().map(Found::ending)).collect()
    }

    fn number(&self) -> String {
        format!("{}:{}", self.file.name, self.row)
    }
}

impl RecordFiles {
    /// The files of records of a source, or the one file that it is, whatever its ending. `.json` files are taken where there
    /// are no others.
    pub fn open(listing: Listing) -> Self {
        let named = listing.root.is_file();
        let has_others = listing.entries.iter().any(|entry| ENDINGS.contains(&entry.ending().as_str()));
        let mut ignored = listing.ignored;
        let (mut files, mut media) = (Vec::new(), Vec::new());
        for entry in listing.entries {
            let ending = entry.ending();
            if named || ENDINGS.contains(&ending.as_str()) || (ending == "json" && !has_others) {
                files.push(entry);
            } else if is_media(&ending) {
                media.push(entry);
            } else {
                ignored.push(entry.ignored());
            }
        }
        if files.is_empty() {
            ignored.extend(media.drain(..).map(|entry| entry.ignored()));
        }
        let (pieces, mut units): (Vec<_>, Vec<_>) =
            files.iter().enumerate().flat_map(|(index, entry)| cut(index, entry, UNIT_BYTES)).unzip();
        if !media.is_empty() {
            // What a record gives depends on the files that it names.
            let stamp = stamp_of(&media);
            units.iter_mut().for_each(|unit| unit.stamp ^= stamp);
            units.push(unnamed_unit(&files, &media));
        }
        let media = if named {
            MediaFiles::Beside(listing.root.parent().map_or_else(PathBuf::new, Into::into))
        } else {
            MediaFiles::listed(media)
        };
        Self { files, lines: Counts::new(pieces.len()), pieces, media, units, ignored }
    }

    /// Gives what a format makes of a unit's records.
    pub fn read(
        &self,
        unit: usize,
        records: &dyn Records,
        sink: &mut dyn FnMut(Outcome) -> ControlFlow<()>,
    ) -> Result<()> {
        let Some(piece) = self.pieces.get(unit) else {
            return self.unnamed(records, sink);
        };
        let first = self.lines.before(unit, &self.pieces, |piece| count_lines(&self.files[piece.file], piece))?;
        let file = &self.files[piece.file];
        let Some(mut lines) = open_piece(file, piece)? else { return Ok(()) };
        let mut row = first;
        while let Some(length) = lines.advance() {
            let line = Line { file, row };
            if row == 0 && lines.buffer.starts_with(b"PK\x03\x04") {
                let reason = "this is a zip archive: unpack it".to_owned();
                return Err(DataError::Damaged { path: file.path.clone(), place: "at byte 0".to_owned(), reason });
            }
            row += 1;
            let outcome = match parse(&lines.buffer, length, row) {
                None => None,
                Some(Ok(record)) => Some(records.outcome(&line, &record)),
                Some(Err(skip)) => {
                    let (key, place, items) = (line.number(), line.place(), line.items(&[]));
                    Some(Outcome::Skipped { key, place, items, skip })
                }
            };
            if outcome.is_some_and(|outcome| sink(outcome).is_break()) {
                return Ok(());
            }
        }
        if let Some(error) = lines.error {
            return Err(broken_stream(&file.path, format!("after {row} lines"), error));
        }
        self.lines.set(unit, row - first);
        Ok(())
    }

    /// Gives the files that no record names. What cannot be read names nothing; its own unit says so.
    fn unnamed(&self, records: &dyn Records, sink: &mut dyn FnMut(Outcome) -> ControlFlow<()>) -> Result<()> {
        let mut is_named = vec![false; self.media.entries().len()];
        for file in &self.files {
            let mut lines = Lines::new(compressed::open(&file.path)?, 0, u64::MAX);
            while let Some(length) = lines.advance() {
                if let Some(Ok(record)) = parse(&lines.buffer, length, 0) {
                    for found in records.files(file, &record) {
                        found.index.into_iter().for_each(|index| is_named[index] = true);
                    }
                }
            }
        }
        for (entry, _) in self.media.entries().iter().zip(is_named).filter(|(_, is_named)| !is_named) {
            if sink(entry.ignored()).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// The first record of the first file of records, if there is one that parses.
pub(in crate::readers) fn first_record(listing: &Listing) -> Result<Option<Map<String, Value>>> {
    let Some(file) = listing.entries.iter().find(|entry| ENDINGS.contains(&entry.ending().as_str())) else {
        return Ok(None);
    };
    let mut lines = Lines::new(compressed::open(&file.path)?, 0, u64::MAX);
    while let Some(length) = lines.advance() {
        if let Some(record) = parse(&lines.buffer, length, 0) {
            return Ok(record.ok());
        }
    }
    Ok(None)
}

/// Changes when any of the files does.
fn stamp_of(files: &[Entry]) -> u64 {
    let words = files.iter().flat_map(|file| [rng::stable_hash(file.name.as_bytes()), file.stamp]);
    rng::stable_hash(&words.flat_map(u64::to_le_bytes).collect::<Vec<u8>>())
}

/// The unit of files that no record names.
fn unnamed_unit(files: &[Entry], media: &[Entry]) -> Unit {
    let all = files.iter().chain(media);
    let stamps: Vec<u8> =
        all.flat_map(|file| [rng::stable_hash(file.name.as_bytes()), file.stamp]).flat_map(u64::to_le_bytes).collect();
    let len_bytes = files.iter().fold(0, |sum: u64, file| sum.saturating_add(file.len_bytes));
    Unit { name: "files that no line names".to_owned(), len_bytes, stamp: rng::stable_hash(&stamps) }
}

/// The lines that begin in a piece. `None`: all of the file belongs to its first piece.
fn open_piece(file: &Entry, piece: &Piece) -> Result<Option<Lines>> {
    // Cut by its name, and yet compressed.
    let whole = piece.end == u64::MAX;
    let is_compressed = !whole && matches!(head::<4>(&file.path)?[..], [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd]);
    if piece.start == 0 {
        let end = if is_compressed { u64::MAX } else { piece.end };
        return Ok(Some(Lines::new(compressed::open(&file.path)?, 0, end)));
    }
    if is_compressed {
        return Ok(None);
    }
    let mut source = File::open(&file.path).at("open", &file.path)?;
    source.seek(SeekFrom::Start(piece.start - 1)).at("read", &file.path)?;
    let mut lines = Lines::new(Box::new(source), piece.start - 1, piece.end);
    // What is left of a line that began before.
    lines.at += lines.source.skip_until(b'\n').at("read", &file.path)? as u64;
    Ok(Some(lines))
}

/// Lines that begin in a piece that is not compressed.
fn count_lines(file: &Entry, piece: &Piece) -> Result<u64> {
    let mut source = File::open(&file.path).at("open", &file.path)?;
    // A line begins at the start of the file and behind each line end that is not the file's last byte.
    let from = piece.start.saturating_sub(1);
    let to = piece.end.min(file.len_bytes).saturating_sub(1);
    source.seek(SeekFrom::Start(from)).at("read", &file.path)?;
    let mut source = source.take(to.saturating_sub(from));
    let mut count = u64::from(piece.start == 0);
    let mut buffer = vec![0; 1 << 18];
    loop {
        let n = source.read(&mut buffer).at("read", &file.path)?;
        if n == 0 {
            return Ok(count);
        }
        count += buffer[..n].iter().filter(|&&byte| byte == b'\n').count() as u64;
    }
}
