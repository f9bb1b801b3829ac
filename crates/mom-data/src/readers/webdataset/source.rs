//! The bytes of one archive, at any place: a plain file, or a decompressed copy that disappears with its reader.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::IoContext;
use crate::readers::{compressed, printable};
use crate::{DataError, Result};

/// Decompressed bytes that are kept in memory; larger archives go to a temporary file.
const SPOOL_BYTES: usize = 32 << 20;

/// A compressed archive may grow to this much ...
const BASE_BYTES: u64 = 16 << 20;

/// ... and to so many times its size beyond that. What grows further is no archive of media but an attack on the disk.
const MAX_EXPANSION: u64 = 200;

/// What headers are read through: larger pieces pass it by.
const BUFFER_BYTES: usize = 8 << 10;

trait ReadSeek: Read + Seek {}

impl<T: Read + Seek> ReadSeek for T {}

/// Where bytes of a member lie in the (decompressed) archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub offset: u64,
    pub len: u64,
}

/// An open archive.
pub(super) struct Source {
    reader: BufReader<Box<dyn ReadSeek>>,
    /// Of `reader`, in bytes.
    position: u64,
    /// Bytes that are there.
    pub len: u64,
    path: PathBuf,
    decompressed: bool,
    /// Why the decompressed copy ends before its time.
    damage: Option<String>,
}

impl Source {
    /// Opens an archive; one that is compressed, by its first bytes and not by its name, is decompressed to its end first.
    ///
    /// # Errors
    /// [`DataError::Io`]; [`DataError::Damaged`] if it grows by more than `MAX_EXPANSION`.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).at("open", path)?;
        let len = file.metadata().at("read", path)?.len();
        let mut head = Vec::new();
        (&file).take(4).read_to_end(&mut head).at("read", path)?;
        if matches!(head[..], [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd]) {
            return Self::decompress(path, len);
        }
        file.seek(SeekFrom::Start(0)).at("read", path)?;
        Ok(Self::new(path, Box::new(file), len, false, None))
    }

    fn new(path: &Path, inner: Box<dyn ReadSeek>, len: u64, decompressed: bool, damage: Option<String>) -> Self {
        let reader = BufReader::with_capacity(BUFFER_BYTES, inner);
        Self { reader, position: 0, len, path: path.to_path_buf(), decompressed, damage }
    }

    /// What a stream that breaks off gave before it is kept: it holds whole samples.
    fn decompress(path: &Path, compressed_bytes: u64) -> Result<Self> {
        let limit = compressed_bytes.saturating_mul(MAX_EXPANSION).saturating_add(BASE_BYTES);
        let mut stream = compressed::open(path)?;
        let mut copy = tempfile::spooled_tempfile(SPOOL_BYTES);
        let mut buffer = vec![0; 1 << 16];
        let mut len = 0;
        let damage = loop {
            let n = match stream.read(&mut buffer) {
                Ok(0) => break None,
                Ok(n) => n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => break Some(printable(&format!("it does not decompress further: {error}"), 200)),
            };
            len += n as u64;
            if len > limit {
                let reason = format!(
                    "{compressed_bytes} bytes grow to more than {limit}, over {MAX_EXPANSION} times as much: it is not read"
                );
                return Err(DataError::Damaged {
                    path: path.to_path_buf(),
                    place: format!("at decompressed byte {limit}"),
                    reason,
                });
            }
            copy.write_all(&buffer[..n]).at("decompress to a temporary file", path)?;
        };
        copy.seek(SeekFrom::Start(0)).at("read the decompressed copy of", path)?;
        Ok(Self::new(path, Box::new(copy), len, true, damage))
    }

    /// Fills `out` with the bytes from `offset` on.
    pub fn read_at(&mut self, offset: u64, out: &mut [u8]) -> Result<()> {
        // Relative, so that what is buffered stays where members follow each other.
        let step = i128::from(offset) - i128::from(self.position);
        let moved = match i64::try_from(step) {
            Ok(step) => self.reader.seek_relative(step),
            Err(_) => self.reader.seek(SeekFrom::Start(offset)).map(|_| ()),
        };
        moved.and_then(|()| self.reader.read_exact(out)).at("read", &self.path)?;
        self.position = offset + out.len() as u64;
        Ok(())
    }

    /// The bytes of a span that was checked to lie within [`Self::len`].
    pub fn bytes(&mut self, span: Span) -> Result<Vec<u8>> {
        let mut bytes = vec![0; span.len as usize];
        self.read_at(span.offset, &mut bytes)?;
        Ok(bytes)
    }

    /// An error for a place of this archive. Where the decompressed copy broke off, that is the reason for all that follows.
    pub fn damaged(&mut self, offset: u64, reason: impl Into<String>) -> DataError {
        if let Some(damage) = self.damage() {
            return damage;
        }
        let what = if self.decompressed { "decompressed byte" } else { "byte" };
        DataError::Damaged { path: self.path.clone(), place: format!("at {what} {offset}"), reason: reason.into() }
    }

    /// Why the decompressed copy is not whole.
    pub fn damage(&mut self) -> Option<DataError> {
        let reason = self.damage.take()?;
        Some(DataError::Damaged {
            path: self.path.clone(),
            place: format!("at decompressed byte {}", self.len),
            reason,
        })
    }
}
