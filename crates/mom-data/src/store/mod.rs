//! Tokenised samples on disk.
//!
//! A *store* is a folder for one source and one set of tokenizers. Each unit of the source has a file of its own
//! ([`unit`]), so that a source that grows keeps what was made before; `units.json` lists them in reading order once the
//! source is complete, and until then a journal remembers what is done. Nothing is mapped into memory: a document is read
//! when its turn comes, by its place in an index that lies in the same file.

mod catalogue;
mod files;
mod unit;

pub(crate) use catalogue::{Catalogue, CatalogueEntry, Journal};
pub(crate) use files::UnitFiles;
pub(crate) use unit::FORMAT_VERSION;
pub(crate) use unit::{Encoded, MAX_PARTS, PartKind, Record, StoredPart, UnitFile, UnitSums, UnitWriter, tokens};
