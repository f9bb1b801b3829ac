//! Tokenised samples on disk: parts that are made once, checked, and mapped into memory instead of read.
//!
//! A part is a safetensors file of some thousand samples in the corpus' order, both splits apart: for each split and each
//! of `keys`, `text`, `image_codes`, `speech` its values end to end and where each sample's end. `images` holds pixels.
//! Its metadata says what it was made from and the checksum of everything.

use std::collections::HashMap;
use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use bytemuck::Pod;
use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::error::IoContext;
use crate::shards::SkipReport;
use crate::{DataError, Result, files};

/// Values that are in memory or in a mapped file.
#[derive(Debug, Clone)]
pub(crate) enum Column<T> {
    Owned(Vec<T>),
    /// Bytes of the file, aligned for T.
    Mapped(Arc<Mmap>, Range<usize>),
}

impl<T: Pod> Deref for Column<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::Owned(values) => values,
            // Length and alignment were seen when the file was opened.
            Self::Mapped(file, bytes) => bytemuck::try_cast_slice(&file[bytes.clone()]).unwrap_or(&[]),
        }
    }
}

/// Rows of different lengths, end to end.
#[derive(Debug, Clone)]
pub(crate) struct Ragged<T> {
    values: Column<T>,
    ends: Column<u64>,
}

impl<T: Pod> Ragged<T> {
    pub fn row(&self, index: usize) -> &[T] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.values[start as usize..self.ends[index] as usize]
    }

    fn push(&mut self, row: &[T]) {
        let (Column::Owned(values), Column::Owned(ends)) = (&mut self.values, &mut self.ends) else { return };
        values.extend_from_slice(row);
        ends.push(values.len() as u64);
    }
}

impl<T> Default for Ragged<T> {
    fn default() -> Self {
        Self { values: Column::Owned(Vec::new()), ends: Column::Owned(Vec::new()) }
    }
}

/// Samples of one split.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub keys: Ragged<u8>,
    pub text: Ragged<u32>,
    pub image_codes: Ragged<u32>,
    pub speech: Ragged<u32>,
    /// All of one size.
    pub images: Column<u8>,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            keys: Ragged::default(),
            text: Ragged::default(),
            image_codes: Ragged::default(),
            speech: Ragged::default(),
            images: Column::Owned(Vec::new()),
        }
    }
}

/// One sample after tokenisation.
pub(crate) struct Tokenised {
    pub key: String,
    pub text: Vec<u32>,
    pub image_codes: Vec<u32>,
    pub pixels: Vec<u8>,
    pub speech: Vec<u32>,
}

impl Table {
    pub fn len(&self) -> usize {
        self.keys.ends.len()
    }

    /// Appends a sample to a table in memory.
    pub fn push(&mut self, sample: Tokenised) {
        self.keys.push(sample.key.as_bytes());
        self.text.push(&sample.text);
        self.image_codes.push(&sample.image_codes);
        self.speech.push(&sample.speech);
        if let Column::Owned(images) = &mut self.images {
            images.extend_from_slice(&sample.pixels);
        }
    }

    fn tensors(&self) -> [(&'static str, Dtype, &[u8]); 9] {
        fn bytes<T: Pod>(column: &Column<T>) -> &[u8] {
            bytemuck::cast_slice(column)
        }
        [
            ("keys", Dtype::U8, bytes(&self.keys.values)),
            ("keys.ends", Dtype::U64, bytes(&self.keys.ends)),
            ("text", Dtype::U32, bytes(&self.text.values)),
            ("text.ends", Dtype::U64, bytes(&self.text.ends)),
            ("image_codes", Dtype::U32, bytes(&self.image_codes.values)),
            ("image_codes.ends", Dtype::U64, bytes(&self.image_codes.ends)),
            ("speech", Dtype::U32, bytes(&self.speech.values)),
            ("speech.ends", Dtype::U64, bytes(&self.speech.ends)),
            ("images", Dtype::U8, bytes(&self.images)),
        ]
    }
}

/// Tokenised samples, both splits, and what was skipped among them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Part {
    /// Of all values, once a file was read; see [`Self::checksum`].
    known_checksum: Option<u32>,
    pub train: Table,
    pub held_out: Table,
    pub skipped: SkipReport,
}

const SPLITS: [&str; 2] = ["train", "held_out"];
const IDENTITY: &str = "identity";
const CHECKSUM: &str = "checksum";
const SKIPPED: &str = "skipped";

impl Part {
    fn tables(&self) -> [&Table; 2] {
        [&self.train, &self.held_out]
    }

    /// CRC-32C of all values. A part of a file has it from its opening; one in memory is read for it.
    pub fn checksum(&self) -> u32 {
        self.known_checksum.unwrap_or_else(|| {
            let values = self.tables().into_iter().flat_map(Table::tensors);
            values.fold(0, |checksum, (_, _, bytes)| crc32c::crc32c_append(checksum, bytes))
        })
    }

    /// Writes the part as a whole file. `identity` says what it was made from.
    pub fn save(&self, path: &Path, identity: &str) -> Result<()> {
        let failed = |reason: String| DataError::Tokens { path: path.to_path_buf(), reason };
        let mut views = Vec::new();
        for (split, table) in SPLITS.into_iter().zip(self.tables()) {
            for (name, dtype, bytes) in table.tensors() {
                let shape = vec![bytes.len() / dtype.bitsize().div_ceil(8)];
                let view = TensorView::new(dtype, shape, bytes).map_err(|error| failed(error.to_string()))?;
                views.push((format!("{split}.{name}"), view));
            }
        }
        let skipped = serde_json::to_string(&self.skipped);
        let metadata = HashMap::from([
            (IDENTITY.to_owned(), identity.to_owned()),
            (CHECKSUM.to_owned(), format!("{:08x}", self.checksum())),
            (SKIPPED.to_owned(), skipped.map_err(|error| failed(error.to_string()))?),
        ]);
        let bytes = safetensors::serialize(views, Some(metadata)).map_err(|error| failed(error.to_string()))?;
        files::write_bytes(path, &bytes)
    }

    /// Maps a part that [`Self::save`] wrote, and checks all of it.
    ///
    /// # Errors
    /// [`DataError::Io`]; [`DataError::Tokens`] for a part of other samples or tokenizers, or a damaged one.
    pub fn open(path: &Path, identity: &str) -> Result<Self> {
        let failed = |reason: String| DataError::Tokens { path: path.to_path_buf(), reason };
        let file = File::open(path).at("read", path)?;
        // SAFETY: parts are written under another name and renamed; nobody changes one in place. (A user who cuts a mapped
        // file short ends the process, as with any mapped file.)
        let file = Arc::new(unsafe { Mmap::map(&file) }.at("map", path)?);
        let (_, metadata) = SafeTensors::read_metadata(&file).map_err(|error| failed(error.to_string()))?;
        let about = metadata.metadata().as_ref();
        let word = |key: &str| about.and_then(|about| about.get(key)).map(String::as_str).unwrap_or_default();
        if word(IDENTITY) != identity {
            return Err(failed(format!("was made from {}, not from {identity}", word(IDENTITY))));
        }
        let tensors = SafeTensors::deserialize(&file).map_err(|error| failed(error.to_string()))?;
        let start = file.as_ptr() as usize;
        let find = |split: &str, name: &str, dtype: Dtype| {
            let view = tensors.tensor(&format!("{split}.{name}")).map_err(|error| failed(error.to_string()))?;
            let at = view.data().as_ptr() as usize - start;
            let size = dtype.bitsize().div_ceil(8);
            if view.dtype() != dtype || !view.data().as_ptr().addr().is_multiple_of(size) {
                return Err(failed(format!("{split}.{name} is no aligned {dtype:?}")));
            }
            Ok(at..at + view.data().len())
        };
        let table = |split: &str| {
            fn ragged<T: Pod>(file: &Arc<Mmap>, values: Range<usize>, ends: Range<usize>) -> Option<Ragged<T>> {
                let ragged = Ragged::<T> {
                    values: Column::Mapped(file.clone(), values),
                    ends: Column::Mapped(file.clone(), ends),
                };
                let total = ragged.values.len() as u64;
                let ascends = ragged.ends.is_sorted() && ragged.ends.last().copied().unwrap_or(0) == total;
                ascends.then_some(ragged)
            }
            let rows_u32 = |name: &str| {
                let (values, ends) =
                    (find(split, name, Dtype::U32)?, find(split, &format!("{name}.ends"), Dtype::U64)?);
                ragged::<u32>(&file, values, ends).ok_or_else(|| failed(format!("{split}.{name}: ends do not fit")))
            };
            let keys = ragged::<u8>(&file, find(split, "keys", Dtype::U8)?, find(split, "keys.ends", Dtype::U64)?);
            let table = Table {
                keys: keys.ok_or_else(|| failed(format!("{split}.keys: ends do not fit")))?,
                text: rows_u32("text")?,
                image_codes: rows_u32("image_codes")?,
                speech: rows_u32("speech")?,
                images: Column::Mapped(file.clone(), find(split, "images", Dtype::U8)?),
            };
            for (name, rows) in [("text", &table.text), ("image_codes", &table.image_codes), ("speech", &table.speech)]
            {
                if rows.ends.len() != table.len() {
                    return Err(failed(format!("{split}.{name}: {} rows of {}", rows.ends.len(), table.len())));
                }
            }
            Ok::<_, DataError>(table)
        };
        let skipped = serde_json::from_str(word(SKIPPED)).map_err(|error| failed(format!("skipped: {error}")))?;
        let part = Self { known_checksum: None, train: table(SPLITS[0])?, held_out: table(SPLITS[1])?, skipped };
        let checksum = part.checksum();
        let got = format!("{checksum:08x}");
        if got == word(CHECKSUM) {
            return Ok(Self { known_checksum: Some(checksum), ..part });
        }
        Err(failed(format!(
            "its checksum is {got}, expected {}: it is damaged; remove it and it is made again",
            word(CHECKSUM)
        )))
    }
}
