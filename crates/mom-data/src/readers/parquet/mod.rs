//! Tables in Parquet: media as bytes, text, or interleaved lists.
//!
//! A row is a sample. Its columns are told by the schema ([`plan`]): structs of `bytes` and `path` and columns of bytes are
//! media, the usual fields are text and key, parallel lists `images` and `texts` are an interleaved document. Only the
//! columns that are needed are read, page by page and row by row: the memory of a read is a page of each column, whatever
//! the size of a row group. The `parquet` crate parses footers and decodes pages; what a file says of its sizes is held
//! against the file before that ([`footer`], [`pages`]).
//!
//! Limits, beyond which a file counts as damaged: a footer of 256 MiB, a schema 64 deep, a compressed page of 1 GiB, a
//! dictionary of 2^22 values, a list of 2^22 elements.

mod codec;
mod column;
mod footer;
mod header;
mod pages;
mod plan;
mod row;
mod thrift;

use std::fs::File;
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;
use std::sync::Arc;

use parquet::file::metadata::ParquetMetaData;
use rayon::prelude::*;

use self::column::Column;
use self::footer::Footer;
use self::plan::Plan;
use super::listing::{Entry, Listing};
use super::{Format, Outcome, ReadOptions, Reader, Unit, printable};
use crate::error::IoContext;
use crate::{DataError, Result};

/// Bytes of row groups from which on a unit is long enough.
const ENOUGH: u64 = 128 << 20;

/// Most bytes of a unit of several row groups; a file of as many is not cut.
const MOST: u64 = 256 << 20;

/// Reads tables.
#[derive(Debug)]
pub(super) struct Parquet {
    options: ReadOptions,
    ignored: Vec<Outcome>,
    units: Vec<Unit>,
    pieces: Vec<Piece>,
}

/// Where a unit lies.
#[derive(Debug, Clone)]
struct Piece {
    path: PathBuf,
    /// Name of the file.
    name: String,
    /// Its row groups; all without.
    groups: Option<Range<usize>>,
}

impl Parquet {
    /// Lists the tables, and cuts the large ones at their row groups.
    pub fn open(listing: Listing, options: &ReadOptions) -> Result<Self> {
        let Listing { root, entries, mut ignored } = listing;
        // A file that is named is read whatever its ending.
        let (tables, others): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| entry.ending() == "parquet" || entry.path == root);
        ignored.extend(others.iter().map(Entry::ignored));
        let cut: Vec<_> = tables.par_iter().map(|table| cut(table, ENOUGH, MOST)).collect();
        let (units, pieces) = cut.into_iter().flatten().unzip();
        Ok(Self { options: options.clone(), ignored, units, pieces })
    }
}

impl Reader for Parquet {
    fn format(&self) -> Format {
        Format::Parquet
    }

    fn units(&self) -> &[Unit] {
        &self.units
    }

    fn ignored(&self) -> &[Outcome] {
        &self.ignored
    }

    fn read(&self, unit: usize, sink: &mut dyn FnMut(Outcome) -> ControlFlow<()>) -> Result<()> {
        let piece = &self.pieces[unit];
        let mut file = File::open(&piece.path).at("open", &piece.path)?;
        let Footer { meta, starts_at } =
            footer::read(&mut file).map_err(|reason| piece.damaged("in its footer", &reason))?;
        let plan = Plan::of(meta.file_metadata(), &self.options).map_err(|it| piece.damaged("in its schema", &it))?;
        let rows = rows(&meta).map_err(|reason| piece.damaged("in its footer", &reason))?;
        let groups = piece.groups.clone().unwrap_or(0..meta.num_row_groups());
        if groups.end > meta.num_row_groups() {
            return Err(piece.damaged("in its footer", "row groups are gone since it was listed"));
        }
        let file = Arc::new(file);
        let mut row: u64 = rows[..groups.start].iter().sum();
        for group in groups {
            let table = Group { piece, plan: &plan, file: &file, meta: &meta, limit: starts_at, group };
            if table.read(row, rows[group], sink)?.is_break() {
                return Ok(());
            }
            row += rows[group];
        }
        Ok(())
    }
}

impl Piece {
    fn damaged(&self, place: impl Into<String>, reason: &str) -> DataError {
        DataError::Damaged { path: self.path.clone(), place: place.into(), reason: printable(reason, 300) }
    }
}

/// A row group to be read.
struct Group<'a> {
    piece: &'a Piece,
    plan: &'a Plan,
    file: &'a Arc<File>,
    meta: &'a ParquetMetaData,
    limit: u64,
    group: usize,
}

impl Group<'_> {
    /// Gives the rows, the first of which is row `first` of its file.
    fn read(
        &self,
        first: u64,
        n_rows: u64,
        sink: &mut dyn FnMut(Outcome) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let chunks = self.meta.row_group(self.group).columns();
        let mut columns = Vec::with_capacity(self.plan.leaves.len());
        for &leaf in &self.plan.leaves {
            let column = Column::open(self.file, &chunks[leaf], self.limit);
            columns.push(column.map_err(|reason| self.damaged(first, leaf, &reason))?);
        }
        let mut cells = Vec::with_capacity(columns.len());
        for row in first..first + n_rows {
            cells.clear();
            for (column, &leaf) in columns.iter_mut().zip(&self.plan.leaves) {
                let cell = column.next().map_err(|reason| self.damaged(row, leaf, &reason))?;
                let short = || self.damaged(row, leaf, &format!("it ends before the group's {n_rows} rows"));
                cells.push(cell.ok_or_else(short)?);
            }
            if sink(self.plan.outcome(&self.piece.name, row, &cells)).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        for (column, &leaf) in columns.iter_mut().zip(&self.plan.leaves) {
            let more = column.next().map_err(|reason| self.damaged(first + n_rows, leaf, &reason))?;
            if more.is_some() {
                return Err(self.damaged(first + n_rows, leaf, &format!("it has more than the group's {n_rows} rows")));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn damaged(&self, row: u64, leaf: usize, reason: &str) -> DataError {
        let column = self.meta.file_metadata().schema_descr().column(leaf).path().string();
        let place = format!("in row group {}, row {row}, column {}", self.group, printable(&column, 80));
        self.piece.damaged(place, reason)
    }
}

/// Rows of each row group, all of them as many as the footer counts.
fn rows(meta: &ParquetMetaData) -> Result<Vec<u64>, String> {
    let rows: Result<Vec<u64>, _> = meta.row_groups().iter().map(|group| u64::try_from(group.num_rows())).collect();
    let rows = rows.map_err(|_| "a row group of less than no rows".to_owned())?;
    let sum = rows.iter().try_fold(0u64, |sum, &n| sum.checked_add(n));
    let said = meta.file_metadata().num_rows();
    match sum {
        Some(sum) if u64::try_from(said) == Ok(sum) => Ok(rows),
        _ => Err(format!("{said} rows are counted, its row groups have others")),
    }
}

/// The units of a file. One that cannot be read is one unit: its reading tells why.
fn cut(entry: &Entry, enough: u64, most: u64) -> Vec<(Unit, Piece)> {
    let piece = |groups| Piece { path: entry.path.clone(), name: entry.name.clone(), groups };
    let whole = || vec![(entry.unit(), piece(None))];
    if entry.len_bytes <= most {
        return whole();
    }
    let sizes = || {
        let footer = footer::read(&mut File::open(&entry.path).ok()?).ok()?;
        let groups = footer.meta.row_groups().iter();
        groups.map(|group| u64::try_from(group.compressed_size()).ok().filter(|&len| len <= entry.len_bytes)).collect()
    };
    let Some(sizes): Option<Vec<u64>> = sizes() else { return whole() };
    let stretches = stretches(&sizes, enough, most);
    if stretches.len() < 2 {
        return whole();
    }
    let unit = |groups: Range<usize>| {
        let name = format!("{}#rowgroups {}-{}", entry.name, groups.start, groups.end - 1);
        let len_bytes = sizes[groups.clone()].iter().sum();
        (Unit { name, len_bytes, stamp: entry.stamp }, piece(Some(groups)))
    };
    stretches.into_iter().map(unit).collect()
}

/// Cuts row groups into stretches of `enough` bytes each, and not more than `most` where several are together.
fn stretches(sizes: &[u64], enough: u64, most: u64) -> Vec<Range<usize>> {
    let mut stretches: Vec<Range<usize>> = Vec::new();
    let mut len = 0u64;
    for (index, &size) in sizes.iter().enumerate() {
        match stretches.last_mut() {
            Some(last) if len < enough && len.saturating_add(size) <= most => {
                last.end += 1;
                len += size;
            }
            _ => {
                stretches.push(index..index + 1);
                len = size;
            }
        }
    }
    stretches
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn stretches_hold_every_row_group_once() {
        assert_eq!(stretches(&[1, 1, 1, 5, 2, 2, 9, 1], 3, 6), [0..3, 3..4, 4..6, 6..7, 7..8]);
        assert_eq!(stretches(&[100], 3, 6), vec![0..1; 1]);
        assert_eq!(stretches(&[0, 0, 0], 3, 6), vec![0..3; 1]);
        assert!(stretches(&[], 3, 6).is_empty());
    }

    /// The rows of a file that is cut are those of the whole file, counted within the file.
    #[test]
    fn a_cut_file_gives_the_same_rows() {
        let formats = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats");
        let path = formats.join("hf-parquet/datasets/data/train-00001-of-00003.parquet");
        let rows = |reader: &Parquet| {
            let mut rows = Vec::new();
            for unit in 0..reader.units().len() {
                let mut sink = |outcome| {
                    rows.push(outcome);
                    ControlFlow::Continue(())
                };
                reader.read(unit, &mut sink).unwrap();
            }
            rows
        };
        let listing = || Listing::of(&path).unwrap();
        let whole = Parquet::open(listing(), &ReadOptions::default()).unwrap();
        let (units, pieces) = cut(&listing().entries[0], 1, 2).into_iter().unzip();
        let pieces = Parquet { options: ReadOptions::default(), ignored: Vec::new(), units, pieces };
        let names: Vec<_> = pieces.units().iter().map(|unit| unit.name.as_str()).collect();
        let name = "train-00001-of-00003.parquet#rowgroups";
        assert_eq!(names, [format!("{name} 0-0"), format!("{name} 1-1"), format!("{name} 2-2")]);
        assert_eq!(whole.units().len(), 1);
        assert_eq!(rows(&pieces), rows(&whole));
    }
}
