//! Reads the file of a unit, a document or a piece of one at a time.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::layout::{
    FORMAT_VERSION, Foot, HEAD_BYTES, IMAGE_CODES, MAGIC, PART_BYTES, PATCHES, PIXELS, RECORD_BYTES, Record, SPEECH,
    TAIL_BYTES, TEXT,
};
use crate::document::{Content, Document};
use crate::error::IoContext;
use crate::readers::PartOrder;
use crate::{DataError, Modality, Result};

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
        let mut tail = [0u8; TAIL_BYTES];
        let at = len.checked_sub(TAIL_BYTES as u64).ok_or_else(|| failed("it is cut"))?;
        crate::files::read_exact_at(&file, &mut tail, at).at("read", path)?;
        let (foot_len, rest) = tail.split_at(8);
        let (checksum, magic) = rest.split_at(4);
        if magic != MAGIC {
            return Err(failed("its end is missing, or it is no file of tokens of this version"));
        }
        let foot_len = u64::from_le_bytes(foot_len.try_into().unwrap_or_default());
        let foot_at = at.checked_sub(foot_len).filter(|_| foot_len < 1 << 20).ok_or_else(|| failed("it is damaged"))?;
        let mut bytes = vec![0; foot_len as usize];
        crate::files::read_exact_at(&file, &mut bytes, foot_at).at("read", path)?;
        if crc32c::crc32c(&bytes).to_le_bytes() != checksum {
            return Err(failed("its foot is damaged"));
        }
        let foot: Foot = serde_json::from_slice(&bytes).map_err(|_| failed("its foot is damaged"))?;
        let records_end = foot.sums.n_documents.checked_mul(RECORD_BYTES as u64);
        let fits = records_end.and_then(|len| len.checked_add(foot.records_offset)) == Some(foot_at);
        if foot.format_version != FORMAT_VERSION || !fits || foot.patch_dim == 0 {
            return Err(failed("it is damaged, or of another version"));
        }
        Ok(Self { file: Arc::new(file), path: path.into(), foot: Arc::new(foot) })
    }

    /// Opens a unit whose foot was read before.
    pub(in crate::store) fn again(path: &Path, foot: Arc<Foot>) -> Result<Self> {
        Ok(Self { file: Arc::new(File::open(path).at("open", path)?), path: path.into(), foot })
    }

    /// What stands at the end of the file.
    pub(in crate::store) fn foot(&self) -> Arc<Foot> {
        self.foot.clone()
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
        if record.sum(&bytes) == record.checksum { Ok(bytes) } else { Err(self.damaged(record)) }
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
            && record.offset.saturating_add(u64::from(record.len_bytes)) <= self.foot.records_offset;
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
