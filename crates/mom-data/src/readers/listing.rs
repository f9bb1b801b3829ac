//! All files of a source's path, in one order.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::{Outcome, Unit, escaped};
use crate::error::IoContext;
use crate::{Result, rng};

/// A file of a source.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Path to open it by.
    pub path: PathBuf,
    /// Relative to the source, with `/` between its parts; escaped where it is not UTF-8.
    pub name: String,
    pub len_bytes: u64,
    /// Changes when the file is exchanged: its size and time of change.
    pub stamp: u64,
}

/// The files of a source, sorted by name in byte order. Hidden files and links that lead nowhere are in `ignored`.
#[derive(Debug)]
pub(super) struct Listing {
    pub root: PathBuf,
    pub entries: Vec<Entry>,
    pub ignored: Vec<Outcome>,
}

impl Entry {
    /// The ending behind the last dot of the file's name, in lower case; of `.gz` and `.zst` the one before it too
    /// (`jsonl.gz`); `(none)` without a dot.
    pub fn ending(&self) -> String {
        ending(&self.name)
    }

    /// The name without folders.
    pub fn base(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or(&self.name)
    }

    /// The folder, without a `/` at its end; empty for the source itself.
    pub fn folder(&self) -> &str {
        self.name.rsplit_once('/').map_or("", |(folder, _)| folder)
    }

    /// This file as a unit of its own.
    pub fn unit(&self) -> Unit {
        Unit { name: self.name.clone(), len_bytes: self.len_bytes, stamp: self.stamp }
    }

    /// This file as an item that belongs to no sample.
    pub fn ignored(&self) -> Outcome {
        Outcome::Ignored { ending: self.ending(), name: self.name.clone() }
    }
}

/// See [`Entry::ending`].
pub(super) fn ending(name: &str) -> String {
    let base = name.rsplit('/').next().unwrap_or(name);
    let Some((stem, last)) = base.rsplit_once('.') else { return "(none)".to_owned() };
    let last = last.to_lowercase();
    match stem.rsplit_once('.') {
        Some((_, inner)) if matches!(last.as_str(), "gz" | "zst") => format!("{}.{last}", inner.to_lowercase()),
        _ => last,
    }
}

impl Listing {
    /// Lists a file, or a folder with all folders in it. Links are followed; a folder is entered once on each path to it.
    pub fn of(root: &Path) -> Result<Self> {
        let mut listing = Self { root: root.to_path_buf(), entries: Vec::new(), ignored: Vec::new() };
        let meta = fs::metadata(root).at("read", root)?;
        if meta.is_dir() {
            let mut above = HashSet::new();
            listing.enter(root, "", &mut above)?;
            listing.entries.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
        } else {
            let name = escaped(root.file_name().unwrap_or_default().as_encoded_bytes());
            listing.entries.push(entry(root.to_path_buf(), name, &meta));
        }
        Ok(listing)
    }

    fn enter(&mut self, folder: &Path, prefix: &str, above: &mut HashSet<PathBuf>) -> Result<()> {
        let real = fs::canonicalize(folder).at("read folder", folder)?;
        if !above.insert(real.clone()) {
            let name = format!("{} (a link to a folder around it)", prefix.trim_end_matches('/'));
            self.ignored.push(Outcome::Ignored { ending: "(link)".to_owned(), name });
            return Ok(());
        }
        for file in fs::read_dir(folder).at("read folder", folder)? {
            let file = file.at("read folder", folder)?;
            let path = file.path();
            let base = file.file_name();
            let name = format!("{prefix}{}", escaped(base.as_encoded_bytes()));
            // Follows links.
            match fs::metadata(&path) {
                Err(_) => {
                    let name = format!("{name} (a link that leads nowhere)");
                    self.ignored.push(Outcome::Ignored { ending: "(link)".to_owned(), name });
                }
                Ok(meta) if meta.is_dir() && base.as_encoded_bytes().starts_with(b".") => {
                    self.ignored.push(Outcome::Ignored { ending: "(hidden)".to_owned(), name });
                }
                Ok(meta) if meta.is_dir() => self.enter(&path, &format!("{name}/"), above)?,
                Ok(meta) if !meta.is_file() => {
                    let name = format!("{name} (no regular file)");
                    self.ignored.push(Outcome::Ignored { ending: ending(&name), name });
                }
                Ok(_) if base.as_encoded_bytes().starts_with(b".") => {
                    self.ignored.push(Outcome::Ignored { ending: "(hidden)".to_owned(), name });
                }
                Ok(meta) => self.entries.push(entry(path, name, &meta)),
            }
        }
        above.remove(&real);
        Ok(())
    }
}

/// Endings of images that are read.
pub(super) fn is_image(ending: &str) -> bool {
    matches!(ending, "jpg" | "jpeg" | "jpe" | "jfif" | "png" | "apng" | "webp" | "gif" | "bmp" | "tif" | "tiff")
}

/// Endings of recordings that are read.
pub(super) fn is_audio(ending: &str) -> bool {
    matches!(
        ending,
        "wav" | "wave" | "flac" | "mp3" | "ogg" | "oga" | "opus" | "m4a" | "mp4" | "aac" | "aif" | "aiff" | "rf64"
    )
}

fn entry(path: PathBuf, name: String, meta: &fs::Metadata) -> Entry {
    let changed = meta.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let nanos = changed.map_or(0, |time| time.as_nanos() as u64);
    let words = [meta.len().to_le_bytes(), nanos.to_le_bytes()].concat();
    Entry { path, name, len_bytes: meta.len(), stamp: rng::stable_hash(&words) }
}
