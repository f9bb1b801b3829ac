//! What a store holds: `units.json` once a source is complete, and a journal on the way there.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::UnitSums;
use super::unit::FORMAT_VERSION;
use crate::error::IoContext;
use crate::readers::{Tally, Unit};
use crate::{DataError, Result, files, rng};

const CATALOGUE: &str = "units.json";
const JOURNAL: &str = "journal.jsonl";

/// All units of a source, in reading order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Catalogue {
    pub format_version: u32,
    /// Changes when any file of the source does; as hexadecimal, since JSON readers may round a large number.
    pub stamp: String,
    pub units: Vec<CatalogueEntry>,
    /// What lies beside the units.
    pub beside: Tally,
}

/// A unit that was tokenised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CatalogueEntry {
    pub format_version: u32,
    pub unit: String,
    pub len_bytes: u64,
    pub stamp: String,
    /// Name of its file in the store.
    pub file: String,
    pub sums: UnitSums,
    /// Of all documents, as hexadecimal.
    pub checksum: String,
    /// Fraction of held-out samples at which `n_held_out` was counted.
    pub held_out: f64,
    pub n_held_out: u64,
    pub tally: Tally,
}

impl CatalogueEntry {
    /// Whether it was made from this unit as it is now, by this version.
    pub fn is_of(&self, unit: &Unit) -> bool {
        self.format_version == FORMAT_VERSION
            && self.unit == unit.name
            && self.len_bytes == unit.len_bytes
            && self.stamp == format!("{:016x}", unit.stamp)
    }

    /// Name of the file of a unit: its own for each state of the unit.
    pub fn file_of(unit: &Unit) -> String {
        let words = format!("{}\n{}\n{:016x}", unit.name, unit.len_bytes, unit.stamp);
        format!("{:016x}.tokens", rng::stable_hash(words.as_bytes()))
    }
}

impl Catalogue {
    pub fn new(stamp: u64, units: Vec<CatalogueEntry>, beside: Tally) -> Self {
        Self { format_version: FORMAT_VERSION, stamp: format!("{stamp:016x}"), units, beside }
    }

    /// The catalogue of a store, if it has one that can be used.
    pub fn read(store: &Path) -> Result<Option<Self>> {
        let path = store.join(CATALOGUE);
        if !path.is_file() {
            return Ok(None);
        }
        let catalogue: Self = files::read_json(&path)?;
        if catalogue.format_version != FORMAT_VERSION {
            let reason = format!("is of version {}, this program's is {FORMAT_VERSION}", catalogue.format_version);
            return Err(DataError::Tokens { path, reason });
        }
        Ok(Some(catalogue))
    }

    /// Writes the catalogue; the journal has done its work then.
    pub fn write(&self, store: &Path) -> Result<()> {
        files::write_json(&store.join(CATALOGUE), self)?;
        match std::fs::remove_file(store.join(JOURNAL)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).at("remove", &store.join(JOURNAL)),
            _ => Ok(()),
        }
    }
}

/// Remembers units as they are done, in whatever order.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: Mutex<File>,
}

impl Journal {
    /// Opens the journal of a store, and gives what it remembers. A last line that was cut is forgotten: its unit is made
    /// again.
    pub fn open(store: &Path) -> Result<(Self, Vec<CatalogueEntry>)> {
        let path = store.join(JOURNAL);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error).at("read", &path),
        };
        let lines = text.split(|&byte| byte == b'\n');
        let entries: Vec<CatalogueEntry> = lines.filter_map(|line| serde_json::from_slice(line).ok()).collect();
        let mut file = OpenOptions::new().create(true).append(true).open(&path).at("open", &path)?;
        // What was cut gets an end of its own, so that the next line stands alone.
        if text.last().is_some_and(|&byte| byte != b'\n') {
            file.write_all(b"\n").at("write", &path)?;
        }
        Ok((Self { path, file: Mutex::new(file) }, entries))
    }

    /// Adds units whose files are complete.
    pub fn add(&self, entries: &[CatalogueEntry]) -> Result<()> {
        let json = files::not_json(&self.path);
        let mut lines = Vec::new();
        for entry in entries {
            serde_json::to_writer(&mut lines, entry).map_err(&json)?;
            lines.push(b'\n');
        }
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&lines).and_then(|()| file.sync_data()).at("write", &self.path)
    }
}
