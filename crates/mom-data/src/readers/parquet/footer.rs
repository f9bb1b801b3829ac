//! The footer of a file: schema, row groups, columns.
//!
//! It is walked before the `parquet` crate parses it, as that crate reserves memory by numbers in it and follows a schema
//! as deep as it says.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};

use parquet::file::metadata::{
    ParquetMetaData, ParquetMetaDataOptions, ParquetMetaDataReader, ParquetStatisticsPolicy,
};

use super::thrift::{Compact, Fault, I32, LIST, STRUCT};

/// Longest footer that is read. A row group's column takes some 100 bytes of it.
const MAX_FOOTER: u64 = 256 << 20;

/// Deepest schema that is read.
const MAX_NESTING: usize = 64;

/// Row group as it lies in a footer, at least.
const MIN_ROW_GROUP: u64 = 8;

/// A footer, and where the columns before it end.
pub(super) struct Footer {
    pub meta: ParquetMetaData,
    pub starts_at: u64,
}

/// Reads a file's footer. The error is what is wrong with it.
pub(super) fn read(file: &mut File) -> Result<Footer, String> {
    let io = |error: std::io::Error| error.to_string();
    let len = file.seek(SeekFrom::End(0)).map_err(io)?;
    let mut head = [0; 4];
    let mut tail = [0; 8];
    if len < 12 {
        return Err(format!("{len} bytes are too few for a table"));
    }
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    file.read_exact(&mut head).map_err(io)?;
    file.seek(SeekFrom::Start(len - 8)).map_err(io)?;
    file.read_exact(&mut tail).map_err(io)?;
    let [a, b, c, d, magic @ ..] = tail;
    match (&head, &magic) {
        (b"PAR1", b"PAR1") => {}
        (_, b"PARE") => return Err("the table is encrypted".to_owned()),
        (b"PAR1", _) => return Err("it does not end with PAR1: it is cut, or damaged".to_owned()),
        _ => return Err("it does not begin with PAR1: no parquet file".to_owned()),
    }
    let footer_len = u64::from(u32::from_le_bytes([a, b, c, d]));
    if footer_len > len - 12 || footer_len > MAX_FOOTER {
        return Err(format!("a footer of {footer_len} bytes is said to be in a file of {len}"));
    }
    let starts_at = len - 8 - footer_len;
    file.seek(SeekFrom::Start(starts_at)).map_err(io)?;
    let mut bytes = vec![0; footer_len as usize];
    file.read_exact(&mut bytes).map_err(io)?;

    check(&bytes).map_err(|fault| match fault {
        Fault::Short => "it ends within a value".to_owned(),
        Fault::Bad => "it does not parse".to_owned(),
    })?;
    let mut options = ParquetMetaDataOptions::new();
    options.set_encoding_stats_policy(ParquetStatisticsPolicy::SkipAll);
    options.set_column_stats_policy(ParquetStatisticsPolicy::SkipAll);
    options.set_size_stats_policy(ParquetStatisticsPolicy::SkipAll);
    // The crate asserts some of what a footer must hold. Nothing of what it touches outlives a panic.
    let parsed = catch_unwind(AssertUnwindSafe(|| {
        ParquetMetaDataReader::decode_metadata_with_options(&bytes, Some(&options)).map_err(|error| error.to_string())
    }));
    let meta = parsed.unwrap_or_else(|_| Err("it does not parse".to_owned()))?;
    Ok(Footer { meta, starts_at })
}

/// Walks a footer to its end: lists hold as much as they say, the schema is a tree, and not too deep.
fn check(bytes: &[u8]) -> Result<(), Fault> {
    let mut at = Compact::new(bytes);
    let mut last = 0;
    while let Some((id, kind)) = at.field(&mut last)? {
        match (id, kind) {
            (2, LIST) => check_schema(&mut at)?,
            (4, LIST) => {
                // Rows of a list take more memory than bytes here: not more are let in than can be real.
                let mut list = at;
                if list.list()?.1 > list.left() as u64 / MIN_ROW_GROUP {
                    return Err(Fault::Short);
                }
                at.skip(kind)?;
            }
            _ => at.skip(kind)?,
        }
    }
    Ok(())
}

/// Elements in depth-first order, each with the count of its children.
fn check_schema(at: &mut Compact<'_>) -> Result<(), Fault> {
    let (kind, count) = at.list()?;
    if kind != STRUCT {
        return Err(Fault::Bad);
    }
    // Children that are still to come, of each element around the next one.
    let mut open: Vec<u64> = Vec::new();
    for index in 0..count {
        let mut children = 0;
        let mut last = 0;
        while let Some((id, kind)) = at.field(&mut last)? {
            if (id, kind) == (5, I32) {
                children = u64::try_from(at.int()?).map_err(|_| Fault::Bad)?;
            } else {
                at.skip(kind)?;
            }
        }
        match open.last_mut() {
            Some(left) => *left -= 1,
            None if index == 0 => {}
            None => return Err(Fault::Bad),
        }
        if children > count || open.len() > MAX_NESTING {
            return Err(Fault::Bad);
        }
        open.push(children);
        while open.last() == Some(&0) {
            open.pop();
        }
    }
    if open.is_empty() { Ok(()) } else { Err(Fault::Bad) }
}
