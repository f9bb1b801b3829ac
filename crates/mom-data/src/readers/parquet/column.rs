//! The values of a column, a row at a time.

use std::collections::VecDeque;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parquet::basic::{ConvertedType, LogicalType, Type};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::data_type::{ByteArray, DataType};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::schema::types::ColumnDescriptor;

use super::pages::{Pages, SharedProgress, lock};

/// Rows that are decoded at a time, where a page holds as many.
const BATCH: usize = 64;

/// A row of a column.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    Null,
    Bytes(ByteArray),
    /// A number or truth value in words.
    Scalar(String),
    /// Elements of a list; none where there is no list.
    List(Vec<Cell>),
}

/// Reads a column of a row group.
pub(super) struct Column {
    reader: ColumnReader,
    shape: Shape,
    progress: SharedProgress,
    rows: VecDeque<Cell>,
    /// What comes behind `rows`, once it is known: the end, or a fault.
    end: Option<Result<(), String>>,
}

/// How levels tell nulls and lists.
#[derive(Debug, Clone, Copy)]
struct Shape {
    max_def: i16,
    is_list: bool,
    /// From this definition level on there is an element, be it null.
    element_def: i16,
    is_unsigned: bool,
}

/// Whether columns of this kind are read at all: not those nested in lists of lists, nor those of fixed width.
pub(super) fn is_read(descr: &ColumnDescriptor) -> bool {
    descr.max_rep_level() <= 1
        && !matches!(descr.physical_type(), Type::INT96 | Type::FIXED_LEN_BYTE_ARRAY)
        && descr.converted_type() != ConvertedType::DECIMAL
        && !matches!(descr.logical_type_ref(), Some(LogicalType::Decimal { .. }))
}

impl Column {
    /// Opens a column whose pages lie before byte `limit`.
    pub fn open(file: &Arc<File>, chunk: &ColumnChunkMetaData, limit: u64) -> Result<Self, String> {
        let progress = SharedProgress::default();
        let pages = Pages::open(Arc::clone(file), chunk, limit, Arc::clone(&progress))?;
        let descr = chunk.column_descr_ptr();
        let is_unsigned = matches!(
            descr.converted_type(),
            ConvertedType::UINT_8 | ConvertedType::UINT_16 | ConvertedType::UINT_32 | ConvertedType::UINT_64
        );
        let shape = Shape {
            max_def: descr.max_def_level(),
            is_list: descr.max_rep_level() > 0,
            element_def: descr.repeated_ancestor_def_level(),
            is_unsigned,
        };
        let reader = get_column_reader(descr, Box::new(pages));
        Ok(Self { reader, shape, progress, rows: VecDeque::new(), end: None })
    }

    /// The next row; `None` behind the last one. Rows before a fault are given before it.
    pub fn next(&mut self) -> Result<Option<Cell>, String> {
        if self.rows.is_empty() && self.end.is_none() {
            self.fill();
        }
        match (self.rows.pop_front(), &self.end) {
            (None, Some(Err(fault))) => Err(fault.clone()),
            (row, _) => Ok(row),
        }
    }

    fn fill(&mut self) {
        let ask = {
            let mut progress = lock(&self.progress);
            progress.elements = 0;
            // Not across pages: a page of large values holds few of them.
            let one = self.shape.is_list || progress.one_at_a_time;
            if one { 1 } else { progress.in_page.clamp(1, BATCH) }
        };
        // The decoders assert some of what they meet. After a panic this column is not read again, and it shares nothing
        // but `progress`, whose fields are right one by one.
        let read = catch_unwind(AssertUnwindSafe(|| self.decode(ask)));
        let mut progress = lock(&self.progress);
        match read.unwrap_or_else(|_| Err("its values do not decode".to_owned())) {
            Ok(0) => self.end = Some(progress.fault.take().map_or(Ok(()), Err)),
            Ok(n) => progress.in_page = progress.in_page.saturating_sub(n),
            Err(fault) => self.end = Some(Err(fault)),
        }
    }

    fn decode(&mut self, ask: usize) -> Result<usize, String> {
        let (shape, rows) = (self.shape, &mut self.rows);
        let scalar = |value: String| Ok(Cell::Scalar(value));
        match &mut self.reader {
            ColumnReader::ByteArrayColumnReader(reader) => records(reader, shape, ask, rows, |value| {
                // The decoder leaves out what a short dictionary does not hold.
                if value == ByteArray::new() { Err("a value is missing".to_owned()) } else { Ok(Cell::Bytes(value)) }
            }),
            ColumnReader::BoolColumnReader(reader) => records(reader, shape, ask, rows, |v| scalar(v.to_string())),
            ColumnReader::Int32ColumnReader(reader) if shape.is_unsigned => {
                records(reader, shape, ask, rows, |v| scalar((v as u32).to_string()))
            }
            ColumnReader::Int64ColumnReader(reader) if shape.is_unsigned => {
                records(reader, shape, ask, rows, |v| scalar((v as u64).to_string()))
            }
            ColumnReader::Int32ColumnReader(reader) => records(reader, shape, ask, rows, |v| scalar(v.to_string())),
            ColumnReader::Int64ColumnReader(reader) => records(reader, shape, ask, rows, |v| scalar(v.to_string())),
            ColumnReader::FloatColumnReader(reader) => records(reader, shape, ask, rows, |v| scalar(v.to_string())),
            ColumnReader::DoubleColumnReader(reader) => records(reader, shape, ask, rows, |v| scalar(v.to_string())),
            ColumnReader::Int96ColumnReader(_) | ColumnReader::FixedLenByteArrayColumnReader(_) => {
                Err("values of this kind are not read".to_owned())
            }
        }
    }
}

/// Appends up to `ask` rows, of lists at most one, and tells how many.
fn records<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    shape: Shape,
    ask: usize,
    rows: &mut VecDeque<Cell>,
    cell: impl Fn(T::T) -> Result<Cell, String>,
) -> Result<usize, String> {
    let (mut defs, mut reps, mut values) = (Vec::new(), Vec::new(), Vec::new());
    let (n, ..) =
        reader.read_records(ask, Some(&mut defs), Some(&mut reps), &mut values).map_err(|error| error.to_string())?;
    let mut values = values.into_iter();
    let mut value = |def: i16| match def.cmp(&shape.max_def) {
        std::cmp::Ordering::Less => Ok(Cell::Null),
        std::cmp::Ordering::Equal => values.next().map_or_else(|| Err("a value is missing".to_owned()), &cell),
        std::cmp::Ordering::Greater => Err(format!("definition level {def} of {}", shape.max_def)),
    };
    if !shape.is_list {
        for row in 0..n {
            let def = defs.get(row).copied().unwrap_or(shape.max_def);
            rows.push_back(value(def)?);
        }
        return Ok(n);
    }
    if n == 0 {
        return Ok(0);
    }
    let is_one = reps.first() == Some(&0) && reps[1..].iter().all(|&rep| rep == 1);
    if n != 1 || !is_one || reps.len() != defs.len() {
        return Err("its levels do not fit its rows".to_owned());
    }
    let list = match defs[..] {
        [def] if def < shape.element_def => Vec::new(),
        _ if defs.iter().any(|&def| def < shape.element_def) => {
            return Err("its levels do not fit its rows".to_owned());
        }
        _ => defs.iter().map(|&def| value(def)).collect::<Result<_, _>>()?,
    };
    rows.push_back(Cell::List(list));
    Ok(1)
}
