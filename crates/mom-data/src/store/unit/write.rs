//! Writes the file of a unit.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use bytemuck::Zeroable;

use super::layout::{
    FORMAT_VERSION, Foot, IMAGE_CODES, MAGIC, MAX_PARTS, PATCHES, PIXELS, Record, SPEECH, TEXT, UnitSums,
};
use crate::Result;
use crate::document::{Content, Document};
use crate::error::IoContext;
use crate::readers::PartOrder;

/// Writes a unit under a temporary name; [`Self::settle`] gives it its own.
pub(crate) struct UnitWriter {
    path: PathBuf,
    temporary: PathBuf,
    out: BufWriter<File>,
    offset: u64,
    records: Vec<Record>,
    sums: UnitSums,
    patch_dim: usize,
}

/// A document as it lies in a unit's file. It depends on nothing else in there, so that many are made at a time.
pub(crate) struct Encoded {
    /// Its place is not known yet.
    record: Record,
    bytes: Vec<u8>,
    text_bytes: u64,
}

impl Encoded {
    /// `text_bytes` is the length of the document's text before tokenisation; `patch_dim` as of [`UnitWriter::create`].
    pub fn new(document: &Document, text_bytes: u64, patch_dim: usize) -> Self {
        let mut bytes = Vec::new();
        let record = encode(document, patch_dim.max(1), &mut bytes);
        Self { record, bytes, text_bytes }
    }
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
        })
    }

    /// Appends a document.
    pub fn push(&mut self, encoded: &Encoded) -> Result<()> {
        let Encoded { record, bytes, text_bytes } = encoded;
        let (record, text_bytes) = (Record { offset: self.offset, ..*record }, *text_bytes);
        self.out.write_all(bytes).at("write", &self.path)?;
        self.offset += bytes.len() as u64;
        self.sums.append(&UnitSums {
            n_documents: 1,
            text: record.text.into(),
            text_of_bytes: if text_bytes > 0 { record.text.into() } else { 0 },
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

    /// Writes records and foot; [`Self::settle`] has the rest to do. Gives the sums, and a checksum of all that was written.
    pub fn finish(&mut self) -> Result<(UnitSums, u32)> {
        self.records.sort_by_key(|record| (record.hash, record.offset));
        let records: &[u8] = bytemuck::cast_slice(&self.records);
        let foot = Foot {
            format_version: FORMAT_VERSION,
            records_offset: self.offset,
            records_checksum: crc32c::crc32c(records),
            patch_dim: self.patch_dim,
            sums: self.sums,
        };
        let json = crate::files::not_json(&self.path);
        let foot = serde_json::to_vec(&foot).map_err(json)?;
        let (len, checksum) = ((foot.len() as u64).to_le_bytes(), crc32c::crc32c(&foot).to_le_bytes());
        for bytes in [records, &foot, &len, &checksum, MAGIC] {
            self.out.write_all(bytes).at("write", &self.path)?;
        }
        self.out.flush().at("write", &self.path)?;
        let checksum = crc32c::crc32c(records);
        self.records = Vec::new();
        Ok((self.sums, checksum))
    }

    /// Waits until a finished file is on the disk, and gives it its name.
    pub fn settle(self) -> Result<()> {
        self.out.get_ref().sync_all().at("write", &self.path)?;
        std::fs::rename(&self.temporary, &self.path).at("rename", &self.path)
    }
}

impl Drop for UnitWriter {
    /// Where it was not finished, nothing stays; a rename has made this a removal of nothing.
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.temporary);
    }
}

fn encode(document: &Document, patch_dim: usize, out: &mut Vec<u8>) -> Record {
    let mut record = Record::zeroed();
    record.hash = document.hash;
    record.fixed = u16::from(document.order == PartOrder::Fixed);
    let parts = &document.parts[..document.parts.len().min(MAX_PARTS)];
    // A key is for people: one that is longer than this is cut.
    let cut = (0..=document.key.len().min(1024)).rev().find(|&at| document.key.is_char_boundary(at)).unwrap_or(0);
    let key = &document.key.as_bytes()[..cut];
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
                2 => {
                    let (_, to) = grown(out, 2 * tokens.len());
                    to.chunks_exact_mut(2)
                        .zip(tokens)
                        .for_each(|(to, &t)| to.copy_from_slice(&(t as u16).to_le_bytes()));
                }
                _ => {
                    let (_, to) = grown(out, 4 * tokens.len());
                    to.chunks_exact_mut(4).zip(tokens).for_each(|(to, &t)| to.copy_from_slice(&t.to_le_bytes()));
                }
            },
            Content::Pixels(pixels) => out.extend(pixels),
            Content::Patches(values) => values.iter().for_each(|value| out.extend(value.to_le_bytes())),
        }
    }
    record.len_bytes = out.len() as u32;
    record.checksum = record.sum(out);
    record
}

/// What was there, and room for so many bytes behind it.
fn grown(bytes: &mut Vec<u8>, more: usize) -> (&mut [u8], &mut [u8]) {
    let had = bytes.len();
    bytes.resize(had + more, 0);
    bytes.split_at_mut(had)
}

fn width_of(tokens: &[u32]) -> u8 {
    // As a whole, several at a time.
    let most = tokens.iter().fold(0, |most, &token| most.max(token));
    if most <= u32::from(u16::MAX) { 2 } else { 4 }
}
