//! Files named by a `metadata.jsonl` or `metadata.csv`: Hugging Face's imagefolder and audiofolder.
//!
//! Each row names a file by `file_name` (several by `*_file_name`), relative to the folder of the table, and holds its text.
//! A table may lie anywhere in the source. Which files a unit needs is in the rows, so that all tables are read once when
//! the source is opened; the media are not.
//!
//! Items are rows (by the table's ending) and files. A file that several rows name is an item of the first of them only.

mod table;

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::Path;

use serde_json::{Map, Value};

use self::table::{RowPlace, Table};
use super::listing::{self, Entry, Listing};
use super::loose::folder::{self, Made, Measure};
use super::{Format, Outcome, Part, Place, ReadOptions, Reader, Skip, SkipReason, Unit, json};
use crate::Result;

/// Rows of a unit; a table with more of them is cut.
const MAX_UNIT_ROWS: u64 = 4096;

/// Reads folders with tables of metadata.
#[derive(Debug)]
pub(super) struct Metadata {
    options: ReadOptions,
    /// All files of the source, sorted by name.
    entries: Vec<Entry>,
    /// The row that each of the files is an item of.
    owners: Vec<Option<Owner>>,
    tables: Vec<Table>,
    units: Vec<Unit>,
    pieces: Vec<Piece>,
    ignored: Vec<Outcome>,
}

/// A row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owner {
    table: u32,
    number: u64,
}

/// The rows of a unit.
#[derive(Debug)]
struct Piece {
    table: usize,
    from: RowPlace,
    n_rows: u64,
}

/// What a name in a row leads to.
enum Named {
    File(usize),
    Nothing,
    /// A path that is absolute, or climbs out of the source.
    Outside,
}

impl Metadata {
    pub fn open(listing: Listing, options: &ReadOptions) -> Result<Self> {
        // A table given by its path: its files lie beside it, and what else lies there is no part of the source.
        let (entries, mut found, mut ignored) = if listing.root.is_dir() {
            let tables = listing.entries.iter().filter(|entry| is_table(entry)).cloned().collect();
            (listing.entries, tables, Some(listing.ignored))
        } else {
            let folder = listing.root.parent().filter(|folder| !folder.as_os_str().is_empty());
            (Listing::of(folder.unwrap_or(Path::new(".")))?.entries, listing.entries, None)
        };
        // Of two tables in one folder, one is a copy of the other.
        let with_lines = found.iter().filter(|entry| entry.ending() == "jsonl");
        let with_lines: HashSet<String> = with_lines.map(|entry| entry.folder().to_owned()).collect();
        found.retain(|entry| {
            let copy = entry.ending() == "csv" && with_lines.contains(entry.folder());
            if let (true, Some(ignored)) = (copy, &mut ignored) {
                let name = format!("{} (metadata.jsonl beside it is read)", entry.name);
                ignored.push(Outcome::Ignored { ending: entry.ending(), name });
            }
            !copy
        });

        let mut reader = Self {
            options: options.clone(),
            owners: vec![None; entries.len()],
            entries,
            tables: found.into_iter().map(Table::open).collect(),
            units: Vec::new(),
            pieces: Vec::new(),
            ignored: Vec::new(),
        };
        for table in 0..reader.tables.len() {
            reader.scan(table);
        }
        if let Some(ignored) = ignored {
            reader.ignored = ignored;
            let unnamed = reader.entries.iter().zip(&reader.owners);
            let unnamed = unnamed.filter(|(entry, owner)| owner.is_none() && !is_table(entry));
            reader.ignored.extend(unnamed.map(|(entry, _)| entry.ignored()));
        }
        Ok(reader)
    }

    /// Cuts a table into units, and finds the files of each.
    fn scan(&mut self, index: usize) {
        let table = &self.tables[index];
        let mut owners = std::mem::take(&mut self.owners);
        let mut found: Vec<(Piece, Measure)> = Vec::new();
        let scanned = table.rows(table.start(), u64::MAX, &mut |row| {
            let full = found.last().is_none_or(|(piece, _)| piece.n_rows == MAX_UNIT_ROWS);
            if full {
                found.push((Piece { table: index, from: row.place, n_rows: 0 }, Measure::default()));
            }
            if let Some((piece, measure)) = found.last_mut() {
                piece.n_rows += 1;
                measure.add_bytes(row.raw);
                let names = row.record.as_ref().map_err(Skip::clone).and_then(file_names).unwrap_or_default();
                for name in names {
                    let Named::File(file) = self.resolve(table, &name) else { continue };
                    let entry = &self.entries[file];
                    if folder::is_media(entry) && owners[file].is_none() {
                        owners[file] = Some(Owner { table: index as u32, number: row.place.number });
                        measure.add(entry);
                    } else {
                        measure.mark(entry);
                    }
                }
            }
            ControlFlow::Continue(())
        });
        if found.is_empty() {
            let mut measure = Measure::default();
            measure.add(&table.entry);
            found.push((Piece { table: index, from: table.start(), n_rows: 0 }, measure));
        }
        // The fault is met again, and told, where the unit is read.
        if let (Err(_), Some((piece, _))) = (scanned, found.last_mut()) {
            piece.n_rows = u64::MAX;
        }
        let n_pieces = found.len();
        for (at, (piece, measure)) in found.into_iter().enumerate() {
            self.units.push(measure.unit(folder::piece_name(&table.entry.name, at, n_pieces)));
            self.pieces.push(piece);
        }
        self.owners = owners;
    }

    /// Only files that the listing found are ever opened, so that no name leads out of the source.
    fn resolve(&self, table: &Table, name: &str) -> Named {
        if name.starts_with('/') {
            return Named::Outside;
        }
        let mut path: Vec<&str> = table.entry.folder().split('/').filter(|part| !part.is_empty()).collect();
        for part in name.split('/') {
            match part {
                "" | "." => {}
                ".." if path.pop().is_none() => return Named::Outside,
                ".." => {}
                part => path.push(part),
            }
        }
        let path = path.join("/");
        let found = self.entries.binary_search_by(|entry| entry.name.as_bytes().cmp(path.as_bytes()));
        found.map_or(Named::Nothing, Named::File)
    }

    fn row(&self, index: usize, place: RowPlace, record: Result<Map<String, Value>, Skip>) -> Outcome {
        let table = &self.tables[index];
        let owner = Some(Owner { table: index as u32, number: place.number });
        let mut key = format!("{}#{}", table.entry.name, place.number);
        let mut items = vec![table.entry.ending()];
        let made = record.and_then(|record| {
            let names = file_names(&record)?;
            if let Some(first) = names.first() {
                key.clone_from(first);
            }
            let mut files = Vec::new();
            let mut missing = None;
            for name in &names {
                match self.resolve(table, name) {
                    // A row may name a file twice.
                    Named::File(file) if files.contains(&file) => {}
                    Named::File(file) => {
                        if self.owners[file] == owner {
                            items.push(self.entries[file].ending());
                        }
                        files.push(file);
                    }
                    Named::Nothing => missing = Some(format!("{name} is not there")),
                    Named::Outside => missing = Some(format!("{name} leads out of the source's folder; not opened")),
                }
            }
            if let Some(detail) = missing {
                return Err(Skip::new(SkipReason::MissingFile, detail));
            }
            self.make(&record, &files)
        });
        folder::outcome(key, Place { file: table.entry.name.clone(), row: Some(place.number) }, items, made)
    }

    fn make(&self, record: &Map<String, Value>, files: &[usize]) -> Result<Made, Skip> {
        // Files of other kinds are counted as ignored; the sample is made of the rest.
        let media = || files.iter().map(|&file| &self.entries[file]);
        let mut parts: Vec<Part> = json::text(record, &self.options).map(Part::Text).into_iter().collect();
        for is_kind in [listing::is_image, listing::is_audio] {
            let mut of_kind = media().filter(|entry| is_kind(&entry.ending()));
            match (of_kind.next(), of_kind.next()) {
                (Some(first), Some(second)) => return Err(folder::duplicates(first, second)),
                (Some(only), None) => parts.push(folder::read_media(only)?),
                (None, _) => {}
            }
        }
        if parts.is_empty() {
            return Err(Skip::new(SkipReason::NoPart, "no text, and no file that is an image or a recording"));
        }
        Ok(Made { group: json::group(record, &self.options), parts })
    }
}

fn is_table(entry: &Entry) -> bool {
    matches!(entry.base(), "metadata.jsonl" | "metadata.csv")
}

/// The files that a row names, as written: `file_name`, then those of other columns in the order of their names.
fn file_names(record: &Map<String, Value>) -> Result<Vec<String>, Skip> {
    let broken = |detail: String| Skip::new(SkipReason::BrokenRecord, detail);
    let is_name = |column: &str| ["file_name", "file_names"].contains(&column);
    let is_other = |column: &str| column.ends_with("_file_name") || column.ends_with("_file_names");
    let columns = record.iter().filter(|(column, _)| is_name(column));
    let columns: Vec<_> = columns.chain(record.iter().filter(|(column, _)| is_other(column))).collect();
    if columns.is_empty() {
        return Err(broken("no file_name".to_owned()));
    }
    let mut names = Vec::new();
    for (column, value) in columns {
        match value {
            Value::Null => {}
            Value::String(name) => names.push(name.clone()),
            Value::Array(list) => {
                for name in list {
                    let name = name.as_str().ok_or_else(|| broken(format!("{column} is no list of names")))?;
                    names.push(name.to_owned());
                }
            }
            _ => return Err(broken(format!("{column} is no name"))),
        }
    }
    Ok(names)
}

impl Reader for Metadata {
    fn format(&self) -> Format {
        Format::Metadata
    }

    fn units(&self) -> &[Unit] {
        &self.units
    }

    fn ignored(&self) -> &[Outcome] {
        &self.ignored
    }

    fn read(&self, unit: usize, sink: &mut dyn FnMut(Outcome) -> ControlFlow<()>) -> Result<()> {
        let piece = &self.pieces[unit];
        let table = &self.tables[piece.table];
        if piece.n_rows == 0 {
            let _nothing_follows = sink(table.entry.ignored());
            return Ok(());
        }
        table.rows(piece.from, piece.n_rows, &mut |row| sink(self.row(piece.table, row.place, row.record)))
    }
}
