//! WebDataset: tar archives of members `KEY.ENDING`; those of one key are a sample.
//!
//! Each archive is a unit. Its headers are read first, its members when their sample is formed: they may stand anywhere.
//! What cannot be read of an archive that is damaged comes as an error behind all that could.

mod arrays;
mod assemble;
mod contents;
mod extended;
mod group;
mod links;
mod not_tar;
mod npy;
mod parts;
mod sidecar;
mod source;

use std::ops::ControlFlow;
use std::path::PathBuf;

use super::listing::{Entry, Listing};
use super::{Format, Outcome, ReadOptions, Reader, Unit};
use crate::Result;

/// Headers and data of a tar archive stand in blocks of this size.
const BLOCK_BYTES: u64 = 512;

/// Reads WebDataset shards.
#[derive(Debug)]
pub(super) struct WebDataset {
    paths: Vec<PathBuf>,
    units: Vec<Unit>,
    ignored: Vec<Outcome>,
    options: ReadOptions,
}

impl WebDataset {
    /// Takes every archive of a listing as a unit. A file that is the source itself is one, whatever its name.
    pub fn open(listing: Listing, options: &ReadOptions) -> Result<Self> {
        let mut reader =
            Self { paths: Vec::new(), units: Vec::new(), ignored: listing.ignored, options: options.clone() };
        for entry in listing.entries {
            if entry.path == listing.root || is_shard(&entry) {
                reader.units.push(entry.unit());
                reader.paths.push(entry.path);
            } else {
                reader.ignored.push(entry.ignored());
            }
        }
        Ok(reader)
    }
}

fn is_shard(entry: &Entry) -> bool {
    matches!(entry.ending().as_str(), "tar" | "tar.gz" | "tgz" | "tar.zst")
}

impl Reader for WebDataset {
    fn format(&self) -> Format {
        Format::Webdataset
    }

    fn units(&self) -> &[Unit] {
        &self.units
    }

    fn ignored(&self) -> &[Outcome] {
        &self.ignored
    }

    fn read(&self, unit: usize, sink: &mut dyn FnMut(Outcome) -> ControlFlow<()>) -> Result<()> {
        let mut source = source::Source::open(&self.paths[unit])?;
        let contents = contents::contents(&mut source);
        let members = &contents.members;
        let mut assembler = assemble::Assembler::new(source, members, &self.units[unit].name, &self.options);
        for found in group::group(members) {
            for outcome in assembler.outcomes(&found)? {
                if sink(outcome).is_break() {
                    return Ok(());
                }
            }
        }
        contents.end
    }
}
