//! Tokenises what is missing of one source.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::encoder::Encoder;
use super::external;
use super::pace::Pace;
use crate::error::IoContext;
use crate::readers::{Chunk, Outcome, Reader, Skip, Tally, Unit, read_units};
use crate::source::{OnDamaged, SourceConfig};
use crate::split::hash_bound;
use crate::store::{Catalogue, CatalogueEntry, Encoded, FORMAT_VERSION, Journal, UnitWriter};
use crate::tokenizers::Tokenizers;
use crate::{DataError, Progress, Result, files, rng};

/// The folder of a source's tokens: by tokenizers, then by name and by what is read of it.
pub(super) fn store_of(source: &SourceConfig, tokenizers: &Tokenizers, folder: &Path) -> Result<PathBuf> {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let name: String = source.name().chars().map(plain).take(60).collect();
    let reading = rng::stable_hash(format!("{} {}", source.name(), source.reading()).as_bytes());
    let by = format!("{:016x}", tokenizers.fingerprint()?);
    Ok(folder.join(by).join(format!("{name}-{:08x}", reading as u32)))
}

/// The catalogue of a source, whose units are all tokenised then.
pub(super) fn source(
    source: &SourceConfig,
    tokenizers: &Tokenizers,
    store: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(PathBuf, Catalogue)> {
    let before = Catalogue::read(store)?;
    let stamp = source.stamp()?;
    // Complete, and of the files as they are now; or the files are gone and the tokens are what is left.
    if let Some(catalogue) = &before
        && stamp.is_none_or(|stamp| catalogue.stamp == format!("{stamp:016x}"))
    {
        match catalogue.units.iter().map(|entry| store.join(&entry.file)).find(|path| !path.is_file()) {
            None => return Ok((store.to_path_buf(), catalogue.clone())),
            Some(path) if stamp.is_none() => {
                let reason = format!("is missing, and so is its source {}", source.name());
                return Err(DataError::Tokens { path, reason });
            }
            // It is made again below.
            Some(_) => {}
        }
    }
    let reader = source.open()?;
    files::create_folder(store)?;
    remove_temporaries(store)?;
    let (journal, remembered) = Journal::open(store)?;
    let known = before.into_iter().flat_map(|catalogue| catalogue.units).chain(remembered);
    let mut known: HashMap<String, CatalogueEntry> = known.map(|entry| (entry.unit.clone(), entry)).collect();
    known.retain(|_, entry| store.join(&entry.file).is_file());
    let units = reader.units();
    let missing: Vec<usize> = (0..units.len())
        .filter(|&at| !known.get(&units[at].name).is_some_and(|entry| entry.is_of(&units[at])))
        .collect();
    let mut work = Work { source, tokenizers, store, reader: &*reader, journal: &journal, progress };
    for entry in work.tokenise(&missing)? {
        known.insert(entry.unit.clone(), entry);
    }
    let mut beside = Tally::default();
    reader.ignored().iter().for_each(|outcome| beside.count(outcome));
    let entries = units.iter().filter_map(|unit| known.get(&unit.name).filter(|entry| entry.is_of(unit)).cloned());
    let catalogue = Catalogue::new(stamp.unwrap_or(0), entries.collect(), beside);
    catalogue.write(store)?;
    Ok((store.to_path_buf(), catalogue))
}

/// Removes what a process that was ended left half-written.
fn remove_temporaries(store: &Path) -> Result<()> {
    for entry in std::fs::read_dir(store).at("read", store)? {
        let path = entry.at("read", store)?.path();
        if files::is_temporary(&path) {
            std::fs::remove_file(&path).at("remove", &path)?;
        }
    }
    Ok(())
}

struct Work<'a> {
    source: &'a SourceConfig,
    tokenizers: &'a Tokenizers,
    store: &'a Path,
    reader: &'a dyn Reader,
    journal: &'a Journal,
    progress: &'a mut dyn FnMut(Progress<'_>),
}

impl Work<'_> {
    /// Tokenises these units, one after the other. They are waited for and remembered several at a time, since a disk takes
    /// hardly longer for many small files than for one.
    fn tokenise(&mut self, missing: &[usize]) -> Result<Vec<CatalogueEntry>> {
        let units = self.reader.units();
        // A generator has no bytes: its units count alike.
        let weight = |at: usize| units[at].len_bytes.max(1);
        let total: u64 = missing.iter().map(|&at| weight(at)).sum();
        let mut pace = Pace::new(self.source.name());
        let (mut done, mut entries) = (0, Vec::new());
        let mut unsettled = Unsettled::default();
        let (source, tokenizers) = (self.source, self.tokenizers);
        read_units(self.reader, missing, usize::MAX, |loads| {
            let mut at = missing.iter();
            let mut open: Option<(UnitWriter, Tally, &Unit)> = None;
            let mut loads = loads.into_iter();
            let mut load = Vec::new().into_iter();
            loop {
                let Some((chunk, encoded)) = load.next() else {
                    let Some(next) = loads.next() else { break };
                    let mut tell = |encoded| {
                        pace.add(&encoded);
                        (self.progress)(Progress { what: &pace.what, done, total });
                    };
                    load = encode(next, source, tokenizers, &mut tell)?.into_iter();
                    continue;
                };
                let (writer, tally, _) = match &mut open {
                    Some(open) => open,
                    None => {
                        let Some(&index) = at.next() else { break };
                        let unit = &units[index];
                        let path = self.store.join(CatalogueEntry::file_of(unit));
                        let patch_dim = self.tokenizers.config().image.patch_dim();
                        open.insert((UnitWriter::create(&path, patch_dim)?, Tally::default(), unit))
                    }
                };
                match chunk {
                    Chunk::Outcomes(outcomes) => {
                        write(&outcomes, encoded, writer, (tally, source.group.is_some()))?;
                        (self.progress)(Progress { what: &pace.what, done, total });
                    }
                    Chunk::End(index, ended) => {
                        match (ended, self.source.damaged) {
                            (Ok(()), _) => {}
                            (Err(error @ DataError::Damaged { .. }), OnDamaged::Skip) => {
                                tally.ignored("(damaged file)", &error.to_string());
                            }
                            (Err(error), _) => return Err(error),
                        }
                        if let Some((writer, tally, unit)) = open.take() {
                            unsettled.units.push(self.finish(writer, tally, unit)?);
                        }
                        if unsettled.is_due() {
                            entries.extend(unsettled.settle(self.journal)?);
                        }
                        done += weight(index);
                        (self.progress)(Progress { what: &pace.what, done, total });
                    }
                }
            }
            Ok(())
        })?;
        entries.extend(unsettled.settle(self.journal)?);
        Ok(entries)
    }

    fn finish(&self, mut writer: UnitWriter, tally: Tally, unit: &Unit) -> Result<(UnitWriter, CatalogueEntry)> {
        let held_out = self.tokenizers.config().held_out;
        let n_held_out = writer.n_below(hash_bound(held_out));
        let (sums, checksum) = writer.finish()?;
        let entry = CatalogueEntry {
            format_version: FORMAT_VERSION,
            unit: unit.name.clone(),
            len_bytes: unit.len_bytes,
            stamp: format!("{:016x}", unit.stamp),
            file: CatalogueEntry::file_of(unit),
            sums,
            checksum: format!("{checksum:08x}"),
            held_out,
            n_held_out,
            tally,
        };
        Ok((writer, entry))
    }
}

/// What a sample became; `None` for what is no sample.
type Encoding = Option<Result<Encoded, Skip>>;

/// Encodes what was read, on all threads; every chunk with what its outcomes became.
fn encode(
    load: Vec<Chunk>,
    source: &SourceConfig,
    tokenizers: &Tokenizers,
    tell: &mut dyn FnMut(external::Done),
) -> Result<Vec<(Chunk, Vec<Encoding>)>> {
    let encoder = Encoder { source, tokenizers };
    let patch_dim = tokenizers.config().image.patch_dim();
    let ready = external::encode(&load, source, tokenizers, tell)?;
    let encode = |chunk: usize, at: usize, outcome: &Outcome| match outcome {
        Outcome::Sample(sample) => {
            let encoded = encoder.encode(sample, |part| ready.get(&(chunk, at, part)));
            Some(encoded.map(|(document, text_bytes)| Encoded::new(&document, text_bytes, patch_dim)))
        }
        Outcome::Skipped { .. } | Outcome::Ignored { .. } => None,
    };
    let of_chunk = |(i, chunk): (usize, &Chunk)| match chunk {
        Chunk::Outcomes(outcomes) => {
            outcomes.par_iter().enumerate().map(|(at, outcome)| encode(i, at, outcome)).collect()
        }
        Chunk::End(..) => Vec::new(),
    };
    let encoded: Vec<_> = load.par_iter().enumerate().map(of_chunk).collect();
    Ok(load.into_iter().zip(encoded).collect())
}

fn write(
    outcomes: &[Outcome],
    encoded: Vec<Encoding>,
    writer: &mut UnitWriter,
    (tally, is_grouped): (&mut Tally, bool),
) -> Result<()> {
    for (outcome, encoded) in outcomes.iter().zip(encoded) {
        match (outcome, encoded) {
            (Outcome::Sample(sample), Some(Err(skip))) => {
                tally.skipped(&sample.place.file, &sample.key, &sample.items, &skip);
            }
            (outcome, encoded) => {
                if let Some(Ok(encoded)) = encoded {
                    writer.push(&encoded)?;
                }
                tally.count_grouped(outcome, is_grouped);
            }
        }
    }
    Ok(())
}

/// Units that are written, and not waited for yet.
struct Unsettled {
    units: Vec<(UnitWriter, CatalogueEntry)>,
    since: Instant,
}

impl Default for Unsettled {
    fn default() -> Self {
        Self { units: Vec::new(), since: Instant::now() }
    }
}

impl Unsettled {
    /// Units that a killed process makes again, at most; each keeps a file open.
    const UNITS: usize = 64;
    /// Work that it does again, about.
    const TIME: Duration = Duration::from_secs(2);

    fn is_due(&self) -> bool {
        self.units.len() >= Self::UNITS || self.since.elapsed() > Self::TIME
    }

    /// Waits for all of them, then remembers them.
    fn settle(&mut self, journal: &Journal) -> Result<Vec<CatalogueEntry>> {
        let (writers, entries): (Vec<_>, Vec<_>) = std::mem::take(&mut self.units).into_iter().unzip();
        writers.into_par_iter().try_for_each(UnitWriter::settle)?;
        journal.add(&entries)?;
        self.since = Instant::now();
        Ok(entries)
    }
}
