//! The index of a token file.
//!
//! Layout, little-endian (Megatron-LM's `indexed_dataset.py`): magic `MMIDIDX\0\0`, u64 version 1, u8 type of the tokens,
//! u64 sequences, u64 entries of the document list (one more than there are documents), then per sequence i32 length, per
//! sequence i64 first byte, i64 document list (the first sequence of each document, and the number of sequences), and, if
//! the file goes on, per sequence i8 mode.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::PathBuf;

use super::damaged;
use crate::Result;
use crate::error::IoContext;
use crate::readers::listing::Entry;
use crate::readers::text::pieces::head;

/// Bytes before the lengths.
const HEADER_BYTES: usize = 34;

/// Type of the tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    U8,
    I8,
    I16,
    I32,
    I64,
    U16,
}

/// An index whose counts fit its length.
#[derive(Debug)]
pub(super) struct Index {
    path: PathBuf,
    pub kind: Kind,
    pub n_sequences: u64,
    n_entries: u64,
    pub has_modes: bool,
}

/// An array of the index, read in stretches.
#[derive(Debug)]
pub(super) struct Column<const WIDTH: usize> {
    path: PathBuf,
    file: BufReader<File>,
    /// Byte of its first value.
    start: u64,
    /// Values before the one that is read next.
    at: u64,
}

impl Kind {
    /// Bytes of a token.
    pub const fn width(self) -> u64 {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::I16 | Self::U16 => 2,
            Self::I32 => 4,
            Self::I64 => 8,
        }
    }

    /// The value in `width` bytes.
    pub fn value(self, bytes: &[u8]) -> i64 {
        match (self, bytes) {
            (Self::U8, &[a]) => i64::from(a),
            (Self::I8, &[a]) => i64::from(a as i8),
            (Self::I16, &[a, b]) => i64::from(i16::from_le_bytes([a, b])),
            (Self::U16, &[a, b]) => i64::from(u16::from_le_bytes([a, b])),
            (Self::I32, &[a, b, c, d]) => i64::from(i32::from_le_bytes([a, b, c, d])),
            (Self::I64, &[a, b, c, d, e, f, g, h]) => i64::from_le_bytes([a, b, c, d, e, f, g, h]),
            _ => -1,
        }
    }
}

impl Index {
    /// Reads the header and checks its counts against the file's length.
    pub fn open(entry: &Entry) -> Result<Self> {
        let bytes = head::<HEADER_BYTES>(&entry.path)?;
        if bytes.starts_with(b"TNTIDX\0\0") {
            return Err(damaged(
                &entry.path,
                "at byte 0",
                "an index of fairseq's old layout (TNTIDX), which is not read",
            ));
        }
        if !bytes.starts_with(b"MMIDIDX\0\0") {
            return Err(damaged(&entry.path, "at byte 0", "no index of Megatron: it does not begin with MMIDIDX"));
        }
        let cut_off = || damaged(&entry.path, format!("at byte {}", bytes.len()), "the header is cut off");
        let number = |at: usize| {
            let field = bytes.get(at..at + 8).and_then(|field| field.try_into().ok());
            field.map(u64::from_le_bytes).ok_or_else(cut_off)
        };
        let version = number(9)?;
        if version != 1 {
            return Err(damaged(&entry.path, "at byte 9", format!("version {version}, only 1 is known")));
        }
        let kind = match bytes.get(17).copied().ok_or_else(cut_off)? {
            1 => Kind::U8,
            2 => Kind::I8,
            3 => Kind::I16,
            4 => Kind::I32,
            5 => Kind::I64,
            8 => Kind::U16,
            code => {
                let reason = match code {
                    6 | 7 => "holds numbers with fractions, not tokens".to_owned(),
                    code => format!("type {code} of tokens is not known"),
                };
                return Err(damaged(&entry.path, "at byte 17", reason));
            }
        };
        let (n_sequences, n_entries) = (number(18)?, number(26)?);
        // In 128 bits, so that no product overflows.
        let arrays = u128::from(n_sequences) * 12 + u128::from(n_entries) * 8 + HEADER_BYTES as u128;
        let len = u128::from(entry.len_bytes);
        let has_modes = n_sequences > 0 && len == arrays + u128::from(n_sequences);
        let has_documents = n_entries > 1 || (n_entries == 1 && n_sequences == 0);
        if !has_documents || (len != arrays && !has_modes) {
            let reason = format!("{n_sequences} sequences and {n_entries} document marks do not fit {len} bytes");
            return Err(damaged(&entry.path, "at byte 18", reason));
        }
        Ok(Self { path: entry.path.clone(), kind, n_sequences, n_entries, has_modes })
    }

    /// Documents.
    pub fn n_documents(&self) -> u64 {
        self.n_entries - 1
    }

    /// Checks that the tokens end where the index says.
    pub fn check_tokens(&self, tokens: &Entry) -> Result<()> {
        let mut end = Some(0);
        if let Some(last) = self.n_sequences.checked_sub(1) {
            let len = i32::from_le_bytes(self.lengths()?.get(last)?);
            let start = i64::from_le_bytes(self.pointers()?.get(last)?);
            end =
                u64::try_from(len).ok().and_then(|len| u64::try_from(start).ok()?.checked_add(len * self.kind.width()));
        }
        if end == Some(tokens.len_bytes) {
            return Ok(());
        }
        let end = end.map_or_else(|| "at a place that cannot be".to_owned(), |end| format!("at byte {end}"));
        let reason = format!("it has {} bytes, by its index it ends {end}", tokens.len_bytes);
        Err(damaged(&tokens.path, format!("at byte {}", tokens.len_bytes), reason))
    }

    /// Lengths of the sequences, in tokens: i32.
    pub fn lengths(&self) -> Result<Column<4>> {
        Column::open(&self.path, HEADER_BYTES as u64)
    }

    /// First bytes of the sequences: i64.
    pub fn pointers(&self) -> Result<Column<8>> {
        Column::open(&self.path, HEADER_BYTES as u64 + 4 * self.n_sequences)
    }

    /// First sequences of the documents: i64.
    pub fn documents(&self) -> Result<Column<8>> {
        Column::open(&self.path, HEADER_BYTES as u64 + 12 * self.n_sequences)
    }

    /// Modes of the sequences: i8.
    pub fn modes(&self) -> Result<Column<1>> {
        Column::open(&self.path, HEADER_BYTES as u64 + 12 * self.n_sequences + 8 * self.n_entries)
    }
}

impl<const WIDTH: usize> Column<WIDTH> {
    fn open(path: &std::path::Path, start: u64) -> Result<Self> {
        let mut file = File::open(path).at("open", path)?;
        file.seek(SeekFrom::Start(start)).at("read", path)?;
        Ok(Self { path: path.to_path_buf(), file: BufReader::with_capacity(1 << 14, file), start, at: 0 })
    }

    /// Bytes of the value at `index`.
    pub fn get(&mut self, index: u64) -> Result<[u8; WIDTH]> {
        let mut bytes = [0; WIDTH];
        self.try_get(index, &mut bytes).at("read", &self.path)?;
        Ok(bytes)
    }

    fn try_get(&mut self, index: u64, bytes: &mut [u8; WIDTH]) -> io::Result<()> {
        if index != self.at {
            // Relative, so that a step within what is buffered costs nothing.
            let (from, to) = (self.at as i128 * WIDTH as i128, index as i128 * WIDTH as i128);
            match i64::try_from(to - from) {
                Ok(step) => self.file.seek_relative(step)?,
                Err(_) => drop(self.file.seek(SeekFrom::Start(self.start.saturating_add(index * WIDTH as u64)))?),
            }
        }
        self.at = index;
        self.file.read_exact(bytes)?;
        self.at = index + 1;
        Ok(())
    }
}
