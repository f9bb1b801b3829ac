//! Long files are read in stretches of bytes, each a unit.
//!
//! A line (or a document of tokens) belongs to the stretch in which it begins, so each stretch can be read alone. What
//! has a number within its file needs to know how many there are before its stretch: these are counted when they are
//! asked for, once, and kept.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::error::IoContext;
use crate::readers::listing::Entry;
use crate::readers::{Unit, printable};
use crate::{DataError, Result};

/// A stretch of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::readers) struct Piece {
    /// Number of the file among those of its reader.
    pub file: usize,
    /// First byte.
    pub start: u64,
    /// One past the last byte; [`u64::MAX`]: to the end of the file, however long it is once decompressed.
    pub end: u64,
}

/// Cuts a file into stretches of `bytes`; a compressed one is left whole.
pub(in crate::readers) fn cut(file: usize, entry: &Entry, bytes: u64) -> Vec<(Piece, Unit)> {
    let ending = entry.ending();
    let compressed = ending == "gz" || ending == "zst" || ending.ends_with(".gz") || ending.ends_with(".zst");
    if compressed || entry.len_bytes <= bytes {
        return vec![(Piece { file, start: 0, end: u64::MAX }, entry.unit())];
    }
    let starts = (0..entry.len_bytes.div_ceil(bytes)).map(|index| index * bytes);
    let pieces = starts.map(|start| {
        let end = (start + bytes).min(entry.len_bytes);
        let name = format!("{}#bytes {start}-{end}", entry.name);
        (Piece { file, start, end }, Unit { name, len_bytes: end - start, stamp: entry.stamp })
    });
    pieces.collect()
}

/// How many numbered things begin in each piece, as far as that is known.
#[derive(Debug)]
pub(in crate::readers) struct Counts(Mutex<Vec<Option<u64>>>);

impl Counts {
    /// Nothing is known of `n_pieces` pieces.
    pub fn new(n_pieces: usize) -> Self {
        Self(Mutex::new(vec![None; n_pieces]))
    }

    /// Keeps what was counted.
    pub fn set(&self, piece: usize, count: u64) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = counts.get_mut(piece) {
            *known = Some(count);
        }
    }

    /// Sum over the pieces before `piece` that are of the same file; `count` counts those that are not known.
    pub fn before(&self, piece: usize, pieces: &[Piece], count: impl Fn(&Piece) -> Result<u64>) -> Result<u64> {
        let mut sum = 0;
        for earlier in (0..piece).rev().take_while(|&earlier| pieces[earlier].file == pieces[piece].file) {
            let known = self.0.lock().unwrap_or_else(PoisonError::into_inner)[earlier];
            sum += match known {
                Some(known) => known,
                None => {
                    let counted = count(&pieces[earlier])?;
                    self.set(earlier, counted);
                    counted
                }
            };
        }
        Ok(sum)
    }
}

/// The first bytes of a file, fewer where it is shorter.
pub(in crate::readers) fn head<const N: usize>(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(N);
    File::open(path).at("open", path)?.take(N as u64).read_to_end(&mut bytes).at("read", path)?;
    Ok(bytes)
}

/// An error while a file is read: the system's, or that what is there does not decompress.
pub(in crate::readers) fn broken_stream(path: &Path, place: String, error: io::Error) -> DataError {
    if error.raw_os_error().is_some() {
        return DataError::Io { op: "read", path: path.to_path_buf(), source: error };
    }
    DataError::Damaged { path: path.to_path_buf(), place, reason: printable(&error.to_string(), 200) }
}
