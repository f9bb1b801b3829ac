//! `metadata.jsonl` and `metadata.csv`: their rows, one after the other, from any place at which a row begins.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::ops::ControlFlow;

use serde_json::{Map, Value};

use crate::error::IoContext;
use crate::readers::listing::Entry;
use crate::readers::loose::folder::{self, BYTE_ORDER_MARK};
use crate::readers::{Skip, SkipReason, printable};
use crate::{DataError, Result};

/// A longer row is none: a file without line ends, or a quote that is never closed.
const MAX_ROW_BYTES: usize = 1 << 24;

/// A file of rows.
#[derive(Debug)]
pub(super) struct Table {
    pub entry: Entry,
    /// `None` where it cannot be read; the reason is told when its rows are asked for.
    head: Option<Head>,
}

/// What stands before the first row.
#[derive(Debug)]
struct Head {
    layout: Layout,
    /// Byte at which the first row begins.
    start: u64,
}

#[derive(Debug)]
enum Layout {
    /// A JSON object a line.
    Lines,
    /// Comma-separated values below their names.
    Columns(Vec<String>),
}

/// A place in a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowPlace {
    /// Byte of the file.
    pub byte: u64,
    /// Line of a `.jsonl`, row below the header of a `.csv`; from 0.
    pub number: u64,
}

/// A row.
pub(super) struct Row<'a> {
    pub place: RowPlace,
    /// Its contents, to tell whether it has changed; empty where it is too long.
    pub raw: &'a [u8],
    pub record: Result<Map<String, Value>, Skip>,
}

impl Table {
    /// Reads what stands before the first row.
    pub fn open(entry: Entry) -> Self {
        let mut table = Self { entry, head: None };
        table.head = table.read_head().ok();
        table
    }

    fn read_head(&self) -> Result<Head> {
        let mut mark = Vec::new();
        let file = self.file(0)?;
        file.take(BYTE_ORDER_MARK.len() as u64).read_to_end(&mut mark).at("read", &self.entry.path)?;
        let start = if mark == BYTE_ORDER_MARK { mark.len() as u64 } else { 0 };
        if self.entry.ending() != "csv" {
            return Ok(Head { layout: Layout::Lines, start });
        }
        let mut reader = self.csv_reader(start)?;
        let mut names = csv::ByteRecord::new();
        reader.read_byte_record(&mut names).map_err(|error| self.fault(error, start))?;
        let columns = names.iter().map(|name| String::from_utf8_lossy(name).into_owned());
        Ok(Head { layout: Layout::Columns(columns.collect()), start: start + reader.position().byte() })
    }

    /// Where the first row begins.
    pub fn start(&self) -> RowPlace {
        RowPlace { byte: self.head.as_ref().map_or(0, |head| head.start), number: 0 }
    }

    /// Gives `n_rows` rows from `from` on, or as many as there are, until the sink breaks. Blank lines are no rows.
    ///
    /// # Errors
    /// [`DataError::Io`]; [`DataError::Damaged`] where a quote is not closed for so long that no row can be told any more.
    pub fn rows(&self, from: RowPlace, n_rows: u64, sink: &mut dyn FnMut(Row<'_>) -> ControlFlow<()>) -> Result<()> {
        match self.head.as_ref().map(|head| &head.layout) {
            Some(Layout::Lines) => self.lines(from, n_rows, sink),
            Some(Layout::Columns(names)) => self.columns(names, from, n_rows, sink),
            None => {
                self.read_head()?;
                let reason = "it could not be read when the source was opened".to_owned();
                Err(DataError::Damaged { path: self.entry.path.clone(), place: "at its start".to_owned(), reason })
            }
        }
    }

    fn file(&self, byte: u64) -> Result<File> {
        let mut file = File::open(&self.entry.path).at("open", &self.entry.path)?;
        file.seek(SeekFrom::Start(byte)).at("read", &self.entry.path)?;
        Ok(file)
    }

    fn lines(&self, from: RowPlace, n_rows: u64, sink: &mut dyn FnMut(Row<'_>) -> ControlFlow<()>) -> Result<()> {
        let mut file = BufReader::with_capacity(1 << 16, self.file(from.byte)?);
        let (mut place, mut line, mut n_given) = (from, Vec::new(), 0);
        while n_given < n_rows {
            let len = read_line(&mut file, &mut line).at("read", &self.entry.path)?;
            if len == 0 {
                break;
            }
            let too_long = len > line.len() as u64;
            let raw = line.trim_ascii();
            if too_long || !raw.is_empty() {
                let record = if too_long { Err(broken(format!("a line of {len} bytes"))) } else { parse(raw) };
                n_given += 1;
                if sink(Row { place, raw: if too_long { &[] } else { raw }, record }).is_break() {
                    break;
                }
            }
            place = RowPlace { byte: place.byte + len, number: place.number + 1 };
        }
        Ok(())
    }

    fn csv_reader(&self, byte: u64) -> Result<csv::Reader<Limited>> {
        let file = Limited { file: self.file(byte)?, left: MAX_ROW_BYTES };
        // Rows of another length are told one by one, not by the end of the file.
        Ok(csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(file))
    }

    fn columns(
        &self,
        names: &[String],
        from: RowPlace,
        n_rows: u64,
        sink: &mut dyn FnMut(Row<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut reader = self.csv_reader(from.byte)?;
        let (mut fields, mut raw) = (csv::ByteRecord::new(), Vec::new());
        for n_given in 0..n_rows {
            reader.get_mut().left = MAX_ROW_BYTES;
            let byte = from.byte + reader.position().byte();
            if !reader.read_byte_record(&mut fields).map_err(|error| self.fault(error, byte))? {
                break;
            }
            raw.clear();
            for field in &fields {
                raw.extend_from_slice(field);
                raw.push(b'\n');
            }
            let place = RowPlace { byte, number: from.number + n_given };
            if sink(Row { place, raw: &raw, record: self.record(names, &fields) }).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn record(&self, names: &[String], fields: &csv::ByteRecord) -> Result<Map<String, Value>, Skip> {
        if fields.len() != names.len() {
            return Err(broken(format!("{} fields below {} names", fields.len(), names.len())));
        }
        let field = |(name, field): (&String, _)| {
            folder::utf8(field, &format!("column {name}")).map(|text| (name.clone(), Value::String(text.to_owned())))
        };
        names.iter().zip(fields).map(field).collect()
    }

    fn fault(&self, error: csv::Error, byte: u64) -> DataError {
        let path = self.entry.path.clone();
        match error.into_kind() {
            csv::ErrorKind::Io(source) if source.kind() != io::ErrorKind::InvalidData => {
                DataError::Io { op: "read", path, source }
            }
            csv::ErrorKind::Io(source) => {
                DataError::Damaged { path, place: format!("at byte {byte}"), reason: source.to_string() }
            }
            other => DataError::Damaged {
                path,
                place: format!("at byte {byte}"),
                reason: printable(&format!("{other:?}"), 200),
            },
        }
    }
}

/// A file of which at most `left` bytes are read, so that no row fills the memory.
struct Limited {
    file: File,
    left: usize,
}

impl Read for Limited {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let reason = format!("a row of more than {MAX_ROW_BYTES} bytes, perhaps a quote that is not closed");
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        let n = out.len().min(self.left);
        let n = self.file.read(&mut out[..n])?;
        self.left -= n;
        Ok(n)
    }
}

fn broken(detail: String) -> Skip {
    Skip::new(SkipReason::BrokenRecord, detail)
}

fn parse(line: &[u8]) -> Result<Map<String, Value>, Skip> {
    match serde_json::from_slice(line) {
        Ok(Value::Object(record)) => Ok(record),
        Ok(_) => Err(broken("not a JSON object".to_owned())),
        Err(error) => Err(broken(error.to_string())),
    }
}

/// Reads a line with its end; gives its length, 0 at the end of the file. What is longer than a row is read over, not kept.
fn read_line(file: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<u64> {
    line.clear();
    let mut len = 0;
    loop {
        let there = match file.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            there => there?,
        };
        let end = there.iter().position(|&byte| byte == b'\n').map(|at| at + 1);
        let taken = &there[..end.unwrap_or(there.len())];
        line.extend_from_slice(&taken[..taken.len().min(MAX_ROW_BYTES - line.len())]);
        let n = taken.len();
        len += n as u64;
        file.consume(n);
        if end.is_some() || n == 0 {
            return Ok(len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_without_end_does_not_fill_the_memory() -> io::Result<()> {
        let text = [vec![b'a'; MAX_ROW_BYTES + 5], b"\nnext\n".to_vec()].concat();
        let (mut file, mut line) = (BufReader::new(&text[..]), Vec::new());
        assert_eq!(read_line(&mut file, &mut line)?, MAX_ROW_BYTES as u64 + 6);
        assert_eq!(line.len(), MAX_ROW_BYTES);
        assert_eq!(read_line(&mut file, &mut line)?, 5);
        assert_eq!(line, b"next\n");
        assert_eq!(read_line(&mut file, &mut line)?, 0);
        Ok(())
    }
}
