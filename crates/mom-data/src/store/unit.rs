//! The file of one unit.
//!
//! ```text
//! magic | documents, in reading order | records, sorted by hash | foot (JSON) | its length (u64) | magic
//! ```
//!
//! A document is a head (lengths, one entry for each part), its key and its values, little-endian, tokens of two bytes where
//! all of a part fit. A [`Record`] says where a document lies, how long its parts are, and its checksum. Records are sorted
//! by the hash that decides the split, so that the held-out documents of *any* fraction are the first ones, and whoever
//! changes the fraction tokenises nothing again.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use serde::{Deserialize, Serialize};

use crate::document::{Content, Document};
use crate::error::IoContext;
use crate::readers::PartOrder;
use crate::{DataError, Modality, Result};

/// Raised whenever the same samples and tokenizers would give another file.
pub(super) const FORMAT_VERSION: u32 = 2;
const MAGIC: &[u8; 8] = b"MOMUNIT2";
const HEAD_BYTES: usize = 8;
const PART_BYTES: usize = 8;
/// More parts than any document has that is worth training on; also bounds what a damaged head can ask for.
pub(crate) const MAX_PARTS: usize = 65_535;

/// What packing needs to know of a document, and where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Record {
    pub hash: u64,
    /// Of its first byte in the file.
    pub offset: u64,
    pub len_bytes: u32,
    /// CRC-32C of its bytes.
    pub checksum: u32,
    /// Text tokens.
    pub text: u32,
    /// Image codes or continuous patches, without markers.
    pub image: u32,
    /// Speech units, without markers.
    pub speech: u32,
    /// Images and utterances, each of which has two markers.
    pub n_media: u16,
    /// 1 where the order of parts is fixed.
    pub fixed: u16,
}

const RECORD_BYTES: usize = size_of::<Record>();

impl Record {
    /// Positions of the document with all of its parts: begin-of-document, tokens, markers.
    pub fn n_positions(&self) -> u64 {
        1 + u64::from(self.text) + u64::from(self.image) + u64::from(self.speech) + 2 * u64::from(self.n_media)
    }

    /// Values of a modality.
    pub fn len_of(&self, modality: Modality) -> u32 {
        match modality {
            Modality::Text => self.text,
            Modality::Image => self.image,
            Modality::Speech => self.speech,
        }
    }
}

/// What is in a unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UnitSums {
    pub n_documents: u64,
    pub text: u64,
    pub text_bytes: u64,
    pub image: u64,
    pub speech: u64,
    pub n_media: u64,
}

impl UnitSums {
    pub fn append(&mut self, other: &Self) {
        self.n_documents += other.n_documents;
        self.text += other.text;
        self.text_bytes += other.text_bytes;
        self.image += other.image;
        self.speech += other.speech;
        self.n_media += other.n_media;
    }

    /// Positions of all documents with all of their parts.
    pub fn n_positions(&self) -> u64 {
        self.n_documents + self.text + self.image + self.speech + 2 * self.n_media
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Foot {
    format_version: u32,
    records_offset: u64,
    records_checksum: u32,
    /// Values of one patch: pixels are counted in patches by it.
    patch_dim: usize,
    sums: UnitSums,
}

/// Writes a unit under a temporary name; [`Self::finish`] gives it its own.
pub(crate) struct UnitWriter {
    path: PathBuf,
    temporary: PathBuf,
    out: BufWriter<File>,
    offset: u64,
    records: Vec<Record>,
    sums: UnitSums,
    patch_dim: usize,
    bytes: Vec<u8>,
}

impl UnitWriter {
    /// `patch_dim` is the number of values in a continuous patch; 1 without.
    pub fn create(path: &Path, patch_dim: usize) -> Result<Self> {
        let temporary = crate::files::temporary_name(path);
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&temporary).at("create", path)?);
        out.write_all(MAGIC).at("write", path)?;
        Ok(Self {
            path: path.to_path_buf(),
            temporary,
            out,
            offset: MAGIC.len() as u64,
            records: Vec::new(),
            sums: UnitSums::default(),
            patch_dim: patch_dim.max(1),
            bytes: Vec::new(),
        })
    }

    /// Appends a document; `text_bytes` is the length of its text before tokenisation.
    pub fn push(&mut self, document: &Document, text_bytes: u64) -> Result<()> {
        self.bytes.clear();
        let record = encode(document, self.patch_dim, self.offset, &mut self.bytes);
        self.out.write_all(&self.bytes).at("write", &self.path)?;
        self.offset += self.bytes.len() as u64;
        self.sums.append(&UnitSums {
            n_documents: 1,
            text: record.text.into(),
            text_bytes,
            image: record.image.into(),
            speech: record.speech.into(),
            n_media: record.n_media.into(),
        });
        self.records.push(record);
        Ok(())
    }

    /// Number of documents so far whose hash is below `bound`.
    pub fn n_below(&self, bound: u64) -> u64 {
        self.records.iter().filter(|record| record.hash < bound).count() as u64
    }

    /// Writes records and foot, syncs, and renames.
    pub fn finish(mut self) -> Result<UnitSums> {
        self.records.sort_by_key(|record| (record.hash, record.offset));
        let records: &[u8] = bytemuck::cast_slice(&self.records);
        let foot = Foot {
            format_version: FORMAT_VERSION,
            records_offset: self.offset,
            records_checksum: crc32c::crc32c(records),
            patch_dim: self.patch_dim,
            sums: self.sums,
        };
        let json = |source| DataError::Json { path: self.path.clone(), source };
        let foot = serde_json::to_vec(&foot).map_err(json)?;
        let len = (foot.len() as u64).to_le_bytes();
        for bytes in [records, &foot, &len, MAGIC] {
            self.out.write_all(bytes).at("write", &self.path)?;
        }
        self.out.flush().at("write", &self.path)?;
        self.out.get_ref().sync_all().at("write", &self.path)?;
        std::fs::rename(&self.temporary, &self.path).at("rename", &self.path)?;
        Ok(self.sums)
    }
}

impl Drop for UnitWriter {
    /// Where it was not finished, nothing stays; a rename has made this a removal of nothing.
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.temporary);
    }
}

const TEXT: u8 = 0;
const IMAGE_CODES: u8 = 1;
const SPEECH: u8 = 2;
const PIXELS: u8 = 3;
const PATCHES: u8 = 4;

fn encode(document: &Document, patch_dim: usize, offset: u64, out: &mut Vec<u8>) -> Record {
    let mut record = Record::zeroed();
    record.hash = document.hash;
    record.offset = offset;
    record.fixed = u16::from(document.order == PartOrder::Fixed);
    let parts = &document.parts[..document.parts.len().min(MAX_PARTS)];
    // A key is for people: one that is longer than this is cut.
    let key = &document.key.as_bytes()[..document.key.floor_char_boundary(1024)];
    out.extend((key.len() as u16).to_le_bytes());
    out.extend((parts.len() as u16).to_le_bytes());
    out.extend([0; 4]);
    for part in parts {
        let (kind, width, n_values, count) = match part {
            Content::Text(tokens) => (TEXT, width_of(tokens), tokens.len(), &mut record.text),
            Content::ImageCodes(codes) => (IMAGE_CODES, width_of(codes), codes.len(), &mut record.image),
            Content::Speech(units) => (SPEECH, width_of(units), units.len(), &mut record.speech),
            Content::Pixels(pixels) => (PIXELS, 1, pixels.len(), &mut record.image),
            Content::Patches(values) => (PATCHES, 4, values.len(), &mut record.image),
        };
        let per_position = if kind == PIXELS || kind == PATCHES { patch_dim } else { 1 };
        *count = count.saturating_add((n_values / per_position) as u32);
        record.n_media = record.n_media.saturating_add(u16::from(kind != TEXT));
        out.extend([kind, width, 0, 0]);
        out.extend((n_values as u32).to_le_bytes());
    }
    out.extend(key);
    for part in parts {
        match part {
            Content::Text(tokens) | Content::ImageCodes(tokens) | Content::Speech(tokens) => match width_of(tokens) {
                2 => tokens.iter().for_each(|&token| out.extend((token as u16).to_le_bytes())),
                _ => tokens.iter().for_each(|&token| out.extend(token.to_le_bytes())),
            },
            Content::Pixels(pixels) => out.extend(pixels),
            Content::Patches(values) => values.iter().for_each(|value| out.extend(value.to_le_bytes())),
        }
    }
    record.len_bytes = out.len() as u32;
    record.checksum = crc32c::crc32c(out);
    record
}

fn width_of(tokens: &[u32]) -> u8 {
    if tokens.iter().all(|&token| token <= u32::from(u16::MAX)) { 2 } else { 4 }
}

/// A part as it lies in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoredPart {
    pub kind: PartKind,
    /// Positions: tokens, or patches.
    pub n_positions: usize,
    width: u8,
    /// Bytes of one position.
    stride: usize,
    /// Of its first byte within the document.
    offset: u64,
}

/// What a stored part holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PartKind {
    Tokens(Modality),
    Pixels,
    Patches,
}

impl StoredPart {
    pub fn modality(&self) -> Modality {
        match self.kind {
            PartKind::Tokens(modality) => modality,
            PartKind::Pixels | PartKind::Patches => Modality::Image,
        }
    }

    pub fn is_continuous(&self) -> bool {
        !matches!(self.kind, PartKind::Tokens(_))
    }

    /// A part of `len` positions with its markers, if it has some, and no values.
    #[cfg(test)]
    pub fn test(len: usize, marked: bool, continuous: bool) -> Self {
        let (kind, n_positions) = match (marked, continuous) {
            (_, true) => (PartKind::Pixels, len - 2),
            (true, false) => (PartKind::Tokens(Modality::Image), len - 2),
            (false, false) => (PartKind::Tokens(Modality::Text), len),
        };
        Self { kind, n_positions, width: 2, stride: 2, offset: 0 }
    }
}

/// An opened unit.
#[derive(Debug, Clone)]
pub(crate) struct UnitFile {
    file: Arc<File>,
    path: Arc<Path>,
    foot: Arc<Foot>,
}

impl UnitFile {
    /// Opens a unit and reads its foot.
    ///
    /// # Errors
    /// [`DataError::Io`]; [`DataError::Tokens`] for a file that is no unit, or is cut.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |reason: &str| DataError::Tokens {
            path: path.to_path_buf(),
            reason: format!("{reason}; remove it and it is made again"),
        };
        let file = File::open(path).at("open", path)?;
        let len = file.metadata().at("read", path)?.len();
        let mut tail = [0u8; 16];
        let at = len.checked_sub(16).ok_or_else(|| failed("it is cut"))?;
        crate::files::read_exact_at(&file, &mut tail, at).at("read", path)?;
        let (foot_len, magic) = tail.split_at(8);
        if magic != MAGIC {
            return Err(failed("its end is missing, or it is no file of tokens of this version"));
        }
        let foot_len = u64::from_le_bytes(foot_len.try_into().unwrap_or_default());
        let foot_at = at.checked_sub(foot_len).filter(|_| foot_len < 1 << 20).ok_or_else(|| failed("it is damaged"))?;
        let mut bytes = vec![0; foot_len as usize];
        crate::files::read_exact_at(&file, &mut bytes, foot_at).at("read", path)?;
        let foot: Foot = serde_json::from_slice(&bytes).map_err(|_| failed("its foot is damaged"))?;
        let records_end = foot.sums.n_documents.checked_mul(RECORD_BYTES as u64);
        let fits = records_end.and_then(|len| len.checked_add(foot.records_offset)) == Some(foot_at);
        if foot.format_version != FORMAT_VERSION || !fits {
            return Err(failed("it is damaged, or of another version"));
        }
        Ok(Self { file: Arc::new(file), path: path.into(), foot: Arc::new(foot) })
    }

    /// The record at a rank in the order of hashes.
    pub fn record(&self, rank: u64) -> Result<Record> {
        let mut bytes = [0u8; RECORD_BYTES];
        let at = self.foot.records_offset + rank * RECORD_BYTES as u64;
        crate::files::read_exact_at(&self.file, &mut bytes, at).at("read", &self.path)?;
        Ok(bytemuck::pod_read_unaligned(&bytes))
    }

    /// Number of documents whose hash is below `bound`: they are the first ones.
    pub fn n_below(&self, bound: u64) -> Result<u64> {
        let (mut low, mut high) = (0, self.foot.sums.n_documents);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.record(middle)?.hash < bound { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }

    /// The parts of a document, and where its key lies.
    pub fn parts(&self, record: &Record) -> Result<Vec<StoredPart>> {
        let mut head = [0u8; HEAD_BYTES];
        self.read(record, 0, &mut head)?;
        let n_parts = usize::from(u16::from_le_bytes([head[2], head[3]]));
        let mut table = vec![0u8; n_parts * PART_BYTES];
        self.read(record, HEAD_BYTES as u64, &mut table)?;
        self.parse(record, &head, &table)
    }

    fn parse(&self, record: &Record, head: &[u8], table: &[u8]) -> Result<Vec<StoredPart>> {
        let key_len = u64::from(u16::from_le_bytes([head[0], head[1]]));
        let mut offset = (HEAD_BYTES + table.len()) as u64 + key_len;
        let mut parts = Vec::with_capacity(table.len() / PART_BYTES);
        for entry in table.as_chunks::<PART_BYTES>().0 {
            let (kind, width) = (entry[0], entry[1]);
            let n_values = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]) as usize;
            let kind = match (kind, width) {
                (TEXT, 2 | 4) => PartKind::Tokens(Modality::Text),
                (IMAGE_CODES, 2 | 4) => PartKind::Tokens(Modality::Image),
                (SPEECH, 2 | 4) => PartKind::Tokens(Modality::Speech),
                (PIXELS, 1) => PartKind::Pixels,
                (PATCHES, 4) => PartKind::Patches,
                _ => return Err(self.damaged(record)),
            };
            let values = if matches!(kind, PartKind::Tokens(_)) { 1 } else { self.foot.patch_dim };
            let stride = usize::from(width) * values;
            parts.push(StoredPart { kind, n_positions: n_values / values, width, stride, offset });
            offset += n_values as u64 * u64::from(width);
        }
        if offset == u64::from(record.len_bytes) { Ok(parts) } else { Err(self.damaged(record)) }
    }

    /// All bytes of a document, checked by its checksum.
    pub fn whole(&self, record: &Record) -> Result<Vec<u8>> {
        let mut bytes = vec![0; record.len_bytes as usize];
        self.read(record, 0, &mut bytes)?;
        if crc32c::crc32c(&bytes) == record.checksum { Ok(bytes) } else { Err(self.damaged(record)) }
    }

    /// The parts of a document whose bytes are at hand.
    pub fn parts_of(&self, record: &Record, bytes: &[u8]) -> Result<Vec<StoredPart>> {
        let head = bytes.get(..HEAD_BYTES).ok_or_else(|| self.damaged(record))?;
        let n_parts = usize::from(u16::from_le_bytes([head[2], head[3]]));
        let table = bytes.get(HEAD_BYTES..HEAD_BYTES + n_parts * PART_BYTES).ok_or_else(|| self.damaged(record))?;
        self.parse(record, head, table)
    }

    /// The key of a document.
    pub fn key(&self, record: &Record) -> Result<String> {
        let mut head = [0u8; HEAD_BYTES];
        self.read(record, 0, &mut head)?;
        let n_parts = u64::from(u16::from_le_bytes([head[2], head[3]]));
        let mut key = vec![0; usize::from(u16::from_le_bytes([head[0], head[1]]))];
        self.read(record, HEAD_BYTES as u64 + n_parts * PART_BYTES as u64, &mut key)?;
        Ok(String::from_utf8_lossy(&key).into_owned())
    }

    /// The whole document.
    pub fn document(&self, record: &Record) -> Result<Document> {
        let bytes = self.whole(record)?;
        let mut parts = Vec::new();
        for part in self.parts_of(record, &bytes)? {
            let values = self.values_of(record, &bytes, &part, 0, part.n_positions)?;
            parts.push(match part.kind {
                PartKind::Tokens(Modality::Text) => Content::Text(tokens(&part, values).collect()),
                PartKind::Tokens(Modality::Image) => Content::ImageCodes(tokens(&part, values).collect()),
                PartKind::Tokens(Modality::Speech) => Content::Speech(tokens(&part, values).collect()),
                PartKind::Pixels => Content::Pixels(values.to_vec()),
                PartKind::Patches => {
                    Content::Patches(values.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
                }
            });
        }
        let order = if record.fixed == 0 { PartOrder::Free } else { PartOrder::Fixed };
        Ok(Document { key: self.key(record)?, hash: record.hash, order, parts })
    }

    /// Bytes of positions `first..last` of a part.
    pub fn values(&self, record: &Record, part: &StoredPart, first: usize, last: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; (last - first) * part.stride];
        self.read(record, part.offset + (first * part.stride) as u64, &mut bytes)?;
        Ok(bytes)
    }

    /// As [`Self::values`], out of the bytes of the whole document.
    pub fn values_of<'a>(
        &self,
        record: &Record,
        bytes: &'a [u8],
        part: &StoredPart,
        first: usize,
        last: usize,
    ) -> Result<&'a [u8]> {
        let start = part.offset as usize + first * part.stride;
        bytes.get(start..start + (last - first) * part.stride).ok_or_else(|| self.damaged(record))
    }

    fn read(&self, record: &Record, at: u64, bytes: &mut [u8]) -> Result<()> {
        let inside = at + bytes.len() as u64 <= u64::from(record.len_bytes)
            && record.offset + u64::from(record.len_bytes) <= self.foot.records_offset;
        if !inside {
            return Err(self.damaged(record));
        }
        crate::files::read_exact_at(&self.file, bytes, record.offset + at).at("read", &self.path)
    }

    /// Reads everything and compares all checksums.
    #[cfg(test)]
    pub fn verify(&self) -> Result<()> {
        let mut records = vec![0; self.foot.sums.n_documents as usize * RECORD_BYTES];
        crate::files::read_exact_at(&self.file, &mut records, self.foot.records_offset).at("read", &self.path)?;
        if crc32c::crc32c(&records) != self.foot.records_checksum {
            return Err(self.failed("the checksum of its records is another one"));
        }
        for bytes in records.as_chunks::<RECORD_BYTES>().0 {
            self.whole(&bytemuck::pod_read_unaligned(bytes))?;
        }
        Ok(())
    }

    /// The error of a document that is not what its record says.
    pub fn damaged(&self, record: &Record) -> DataError {
        self.failed(&format!("the document at byte {} is damaged", record.offset))
    }

    fn failed(&self, reason: &str) -> DataError {
        DataError::Tokens { path: self.path.to_path_buf(), reason: format!("{reason}; remove it and it is made again") }
    }
}

/// Tokens of a part's bytes.
pub(crate) fn tokens<'a>(part: &StoredPart, bytes: &'a [u8]) -> Box<dyn Iterator<Item = u32> + 'a> {
    match part.width {
        2 => Box::new(bytes.as_chunks::<2>().0.iter().map(|bytes| u32::from(u16::from_le_bytes(*bytes)))),
        _ => Box::new(bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(key: &str, hash: u64, parts: Vec<Content>) -> Document {
        Document { key: key.to_owned(), hash, order: PartOrder::Free, parts }
    }

    #[test]
    fn documents_come_back_and_the_held_out_ones_are_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tokens");
        let mut writer = UnitWriter::create(&path, 12).unwrap();
        let long: Vec<u32> = (0..70_000).collect();
        writer.push(&document("b", 900, vec![Content::Text(long.clone())]), 5).unwrap();
        writer
            .push(&document("a", 100, vec![Content::Text(vec![7, 8]), Content::Pixels((0..48).collect())]), 2)
            .unwrap();
        writer.push(&document("c", 500, vec![Content::Speech(vec![3]), Content::ImageCodes(vec![4, 5])]), 0).unwrap();
        assert!(!path.exists(), "not under its name before it is whole");
        let sums = writer.finish().unwrap();
        assert_eq!((sums.n_documents, sums.text, sums.image, sums.speech, sums.n_media), (3, 70_002, 6, 1, 3));
        let unit = UnitFile::open(&path).unwrap();
        assert_eq!([0, 100, 101, 501, u64::MAX].map(|bound| unit.n_below(bound).unwrap()), [0, 0, 1, 2, 3]);
        let keys: Vec<String> = (0..3).map(|rank| unit.key(&unit.record(rank).unwrap()).unwrap()).collect();
        assert_eq!(keys, ["a", "c", "b"]);
        let record = unit.record(2).unwrap();
        assert_eq!(record.n_positions(), 70_001);
        let parts = unit.parts(&record).unwrap();
        let bytes = unit.values(&record, &parts[0], 65_000, 65_010).unwrap();
        assert_eq!(tokens(&parts[0], &bytes).collect::<Vec<_>>(), long[65_000..65_010]);
        let record = unit.record(0).unwrap();
        let whole = unit.whole(&record).unwrap();
        let parts = unit.parts_of(&record, &whole).unwrap();
        assert_eq!((parts.len(), parts[1].n_positions, parts[1].is_continuous()), (2, 4, true));
        assert_eq!(unit.values_of(&record, &whole, &parts[1], 1, 2).unwrap(), (12..24).collect::<Vec<u8>>());
        unit.verify().unwrap();
    }

    #[test]
    fn every_flipped_byte_and_every_cut_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tokens");
        let mut writer = UnitWriter::create(&path, 1).unwrap();
        for i in 0..4u32 {
            let parts = vec![Content::Text(vec![i; 3]), Content::ImageCodes(vec![70_000 + i; 2])];
            writer.push(&document(&format!("{i}"), u64::from(i), parts), 3).unwrap();
        }
        writer.finish().unwrap();
        let good = std::fs::read(&path).unwrap();
        let check = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            UnitFile::open(&path).and_then(|unit| unit.verify())
        };
        check(&good).unwrap();
        // The magic at the start is never read; all else is covered by a checksum or by the foot's own sense.
        let foot = good.windows(15).position(|window| window == b"format_version\"").unwrap() - 2;
        for at in 8..foot {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            assert!(check(&bytes).is_err(), "byte {at}");
        }
        for len in 0..good.len() {
            assert!(check(&good[..len]).is_err(), "cut at {len}");
        }
        for at in foot..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            // A changed digit of a sum is no matter of safety; nothing may panic.
            let _ = check(&bytes);
        }
    }
}
