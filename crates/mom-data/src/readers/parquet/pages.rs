//! The pages of a column of a row group, decompressed.
//!
//! What a page says of itself is held against what is there before anything is decoded or reserved by it, so that a page
//! costs memory in proportion to its bytes. A page that is refused ends the column, and its reason is kept beside: so the
//! rows before it are read to their end.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use parquet::basic::{Compression, Encoding, Type};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::ColumnChunkMetaData;

use super::codec;
use super::header::{self, DATA, DATA_V2, DICTIONARY, Header, INDEX};
use super::thrift::Fault;

/// Largest page that is decompressed. Pages hold a megabyte, or as many media as a writer takes at a time.
const MAX_PAGE: i32 = 1 << 30;

/// Most values of a dictionary; writers give one up at a megabyte.
const MAX_DICTIONARY: usize = 1 << 22;

/// Most values of a page whose lengths are decoded all at once.
const MAX_DELTAS: u64 = 1 << 24;

/// Most elements of lists, in a page and in a row: they are decoded a row at a time.
const MAX_ELEMENTS: usize = 1 << 22;

/// Longest page header: it holds the least and the largest value of its page.
const MAX_HEADER: u64 = 16 << 20;

/// What the pages tell the reader of their column.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Values of the current page.
    pub in_page: usize,
    /// Whether values must be decoded one at a time: each may be as long as the page.
    pub one_at_a_time: bool,
    /// Elements of the pages that were asked for since this was last set to zero.
    pub elements: usize,
    /// Why there is no further page, where that is a fault.
    pub fault: Option<String>,
}

/// Shared with the reader of the column, in the same thread.
pub(super) type SharedProgress = Arc<Mutex<Progress>>;

/// See [`Progress`].
pub(super) fn lock(progress: &SharedProgress) -> MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives the pages of a column chunk.
pub(super) struct Pages {
    file: Arc<File>,
    at: u64,
    end: u64,
    codec: Compression,
    physical: Type,
    max_rep: i16,
    max_def: i16,
    has_dictionary: bool,
    peeked: Option<(Header, usize)>,
    progress: SharedProgress,
}

impl Pages {
    /// The pages of a chunk that must lie before byte `limit` of its file.
    pub fn open(
        file: Arc<File>,
        chunk: &ColumnChunkMetaData,
        limit: u64,
        progress: SharedProgress,
    ) -> Result<Self, String> {
        if chunk.file_path().is_some() {
            return Err("its pages are in another file".to_owned());
        }
        // Some writers set 0 where there is no dictionary.
        let first = match chunk.dictionary_page_offset() {
            Some(offset) if offset > 0 && offset < chunk.data_page_offset() => offset,
            _ => chunk.data_page_offset(),
        };
        let place = || {
            let (at, len) = (u64::try_from(first).ok()?, u64::try_from(chunk.compressed_size()).ok()?);
            let end = at.checked_add(len)?;
            (at >= 4 && end <= limit).then_some((at, end))
        };
        let Some((at, end)) = place() else {
            return Err(format!("{} bytes at byte {first} are not in the file", chunk.compressed_size()));
        };
        let descr = chunk.column_descr();
        Ok(Self {
            file,
            at,
            end,
            codec: chunk.compression(),
            physical: descr.physical_type(),
            max_rep: descr.max_rep_level(),
            max_def: descr.max_def_level(),
            has_dictionary: false,
            peeked: None,
            progress,
        })
    }

    fn read(&self, at: u64, len: u64) -> Result<Vec<u8>, String> {
        // The chunk lies in the file, so that `len` is not larger than what is there.
        let mut bytes = vec![0; len as usize];
        let mut file = &*self.file;
        file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut bytes)).map_err(|error| error.to_string())?;
        Ok(bytes)
    }

    /// The next page's header, `None` at the end of the chunk.
    fn header(&mut self) -> Result<Option<(Header, usize)>, String> {
        if self.peeked.is_none() && self.at < self.end {
            let there = (self.end - self.at).min(MAX_HEADER);
            let mut window = there.min(1 << 10);
            self.peeked = loop {
                match Header::parse(&self.read(self.at, window)?) {
                    Ok(header) => break Some(header),
                    Err(Fault::Short) if window < there => window = there.min(window * 8),
                    Err(_) => return Err(format!("no page header at byte {}", self.at)),
                }
            };
        }
        Ok(self.peeked.clone())
    }

    fn next_page(&mut self) -> Result<Option<Page>, String> {
        loop {
            let Some((header, header_len)) = self.header()? else { return Ok(None) };
            self.peeked = None;
            let start = self.at;
            let data_at = start + header_len as u64;
            self.at = data_at + header.compressed as u64;
            if self.at > self.end {
                return Err(format!("the page at byte {start} is cut: {} bytes are said to be", header.compressed));
            }
            if header.kind == INDEX {
                continue;
            }
            let page = self.page(&header, data_at).map_err(|fault| format!("the page at byte {start}: {fault}"))?;
            if page.is_some() {
                return Ok(page);
            }
        }
    }

    /// A page after its header; `None` where it holds nothing.
    fn page(&mut self, header: &Header, data_at: u64) -> Result<Option<Page>, String> {
        let is_compressed = self.codec != Compression::UNCOMPRESSED && !header.is_plain;
        if is_compressed && header.uncompressed > MAX_PAGE {
            return Err(format!("{} bytes, more than {MAX_PAGE} that are read", header.uncompressed));
        }
        let raw = self.read(data_at, header.compressed as u64)?;
        if header.crc.is_some_and(|said| said != crc(&raw)) {
            return Err("its bytes do not fit its checksum".to_owned());
        }
        let bytes = if is_compressed { self.decompress(header, &raw)? } else { raw };
        match header.kind {
            DICTIONARY => self.dictionary(header, bytes).map(Some),
            DATA | DATA_V2 if header.values == 0 => Ok(None),
            _ => self.data(header, bytes).map(Some),
        }
    }

    fn decompress(&self, header: &Header, raw: &[u8]) -> Result<Vec<u8>, String> {
        // The levels of the second version are never compressed.
        let levels = header.rep_len as usize + header.def_len as usize;
        let mut bytes = Vec::new();
        let Some((levels, values)) = raw.split_at_checked(levels) else {
            return Err("its levels are longer than the page".to_owned());
        };
        bytes.extend_from_slice(levels);
        let Some(len) = (header.uncompressed as usize).checked_sub(levels.len()) else {
            return Err("its levels are longer than the page".to_owned());
        };
        // Nothing may stand for nothing, whatever the codec.
        if len > 0 {
            codec::decompress(self.codec, values, len, &mut bytes)?;
        }
        Ok(bytes)
    }

    fn dictionary(&mut self, header: &Header, bytes: Vec<u8>) -> Result<Page, String> {
        let values = header.values as usize;
        let width = match self.physical {
            Type::INT64 | Type::DOUBLE => 8,
            Type::INT96 => 12,
            _ => 4,
        };
        if self.has_dictionary {
            return Err("a second dictionary".to_owned());
        }
        if values > MAX_DICTIONARY || values > bytes.len() / width || !matches!(header.encoding, 0 | 2) {
            return Err(format!("{values} values do not fit the dictionary"));
        }
        self.has_dictionary = true;
        let encoding = Encoding::PLAIN;
        Ok(Page::DictionaryPage { buf: bytes.into(), num_values: values as u32, encoding, is_sorted: false })
    }

    fn data(&mut self, header: &Header, bytes: Vec<u8>) -> Result<Page, String> {
        let values = header.values as usize;
        let Some(levels) = header.levels_len(&bytes, self.max_rep, self.max_def) else {
            return Err("its levels are longer than the page".to_owned());
        };
        let Some(mut encoding) = header::encoding(header.encoding) else {
            return Err(format!("encoding {} is not known", header.encoding));
        };
        let section = &bytes[levels..];
        match encoding {
            // Where all is null, some writers leave out what the decoder looks for.
            _ if section.is_empty() => encoding = Encoding::PLAIN,
            Encoding::PLAIN_DICTIONARY | Encoding::RLE_DICTIONARY if !self.has_dictionary => {
                return Err("it needs a dictionary that is not there".to_owned());
            }
            Encoding::DELTA_LENGTH_BYTE_ARRAY => check_deltas(section, values).map(|_| ())?,
            Encoding::DELTA_BYTE_ARRAY => {
                let prefixes = check_deltas(section, values)?;
                check_deltas(&section[prefixes..], values)?;
            }
            _ => {}
        }
        let mut progress = lock(&self.progress);
        if self.max_rep > 0 {
            progress.elements = progress.elements.saturating_add(values);
            // A row may end in this page that began in the one before.
            if values > MAX_ELEMENTS || progress.elements > 2 * MAX_ELEMENTS {
                return Err(format!("lists of more than {MAX_ELEMENTS} elements"));
            }
        }
        progress.in_page = values;
        progress.one_at_a_time = encoding == Encoding::DELTA_BYTE_ARRAY;
        drop(progress);
        let level = |number| header::encoding(number).unwrap_or(Encoding::RLE);
        Ok(if header.kind == DATA {
            Page::DataPage {
                buf: bytes.into(),
                num_values: values as u32,
                encoding,
                def_level_encoding: level(header.def_encoding),
                rep_level_encoding: level(header.rep_encoding),
                statistics: None,
            }
        } else {
            Page::DataPageV2 {
                buf: Bytes::from(bytes),
                num_values: values as u32,
                encoding,
                num_nulls: header.nulls as u32,
                num_rows: header.rows as u32,
                def_levels_byte_len: header.def_len as u32,
                rep_levels_byte_len: header.rep_len as u32,
                is_compressed: false,
                statistics: None,
            }
        })
    }
}

/// Length of a run of delta-encoded lengths.
fn check_deltas(section: &[u8], values: usize) -> Result<usize, String> {
    match header::deltas(section) {
        Some((count, len)) if count <= MAX_DELTAS.min(values as u64) => Ok(len),
        _ => Err(format!("{values} values do not fit their lengths")),
    }
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

impl Iterator for Pages {
    type Item = ParquetResult<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> ParquetResult<Option<Page>> {
        if lock(&self.progress).fault.is_some() {
            return Ok(None);
        }
        self.next_page().or_else(|fault| {
            lock(&self.progress).fault = Some(fault);
            Ok(None)
        })
    }

    fn peek_next_page(&mut self) -> ParquetResult<Option<PageMetadata>> {
        let Ok(Some((header, _))) = self.header() else { return Ok(None) };
        let is_data = matches!(header.kind, DATA | DATA_V2);
        Ok(Some(PageMetadata {
            num_rows: (header.kind == DATA_V2).then_some(header.rows as usize),
            num_levels: is_data.then_some(header.values as usize),
            is_dict: header.kind == DICTIONARY,
        }))
    }

    fn skip_next_page(&mut self) -> ParquetResult<()> {
        Err(ParquetError::NYI("pages are not skipped".to_owned()))
    }

    /// Pages of the second version begin with a row. Before a page that is refused nothing ends: its row is not whole.
    fn at_record_boundary(&mut self) -> ParquetResult<bool> {
        Ok(match self.header() {
            Ok(header) => header.is_none_or(|(header, _)| header.kind == DATA_V2),
            Err(_) => false,
        })
    }
}
