//! Images and recordings that records name by their paths.
//!
//! Only files of the source are ever read: a path is looked up among them, and one that leads out of the source's folder
//! finds nothing. Where the source is a single file, the files beside it may be named as well.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use crate::readers::listing::{Entry, is_audio, is_image};
use crate::readers::{Part, Picture, Skip, SkipReason, Sound};

/// Bytes of all files of one sample.
pub(in crate::readers) const MAX_MEDIA_BYTES: u64 = 1 << 30;

/// The images and recordings of a source.
#[derive(Debug)]
pub(in crate::readers) enum MediaFiles {
    /// Those of a folder.
    Listed {
        /// Sorted by name.
        entries: Vec<Entry>,
        /// Numbers of `entries`, sorted by the name without folders.
        by_base: Vec<usize>,
    },
    /// Those in the folder of the only file.
    Beside(PathBuf),
}

/// A file that a record names.
#[derive(Debug, Clone)]
pub(in crate::readers) struct Found {
    /// Number among the source's files, where it is one of them.
    pub index: Option<usize>,
    entry: Entry,
}

impl MediaFiles {
    /// Files of a folder, sorted by name.
    pub fn listed(entries: Vec<Entry>) -> Self {
        let mut by_base: Vec<usize> = (0..entries.len()).collect();
        by_base.sort_by(|&a, &b| entries[a].base().cmp(entries[b].base()));
        Self::Listed { entries, by_base }
    }

    /// The files that are listed.
    pub fn entries(&self) -> &[Entry] {
        match self {
            Self::Listed { entries, .. } => entries,
            Self::Beside(_) => &[],
        }
    }

    /// The file at `path` from `folder`.
    ///
    /// # Errors
    /// [`SkipReason::MissingFile`], with the path.
    pub fn find(&self, folder: &str, path: &str) -> Result<Found, Skip> {
        let name = within(folder, path).ok_or_else(|| missing(path, "leads out of the source's folder"))?;
        let found = match self {
            Self::Listed { entries, .. } => entries
                .binary_search_by(|entry| entry.name.as_str().cmp(&name))
                .ok()
                .map(|index| Found { index: Some(index), entry: entries[index].clone() }),
            Self::Beside(folder) => beside(folder, &name).map(|entry| Found { index: None, entry }),
        };
        found.ok_or_else(|| missing(path, "is no image or recording of the source"))
    }

    /// The only file whose name without folders is that of `path`.
    ///
    /// # Errors
    /// [`SkipReason::MissingFile`], with the path.
    pub fn find_base(&self, path: &str) -> Result<Found, Skip> {
        let base = path.rsplit('/').next().unwrap_or(path);
        let Self::Listed { entries, by_base } = self else {
            return Err(missing(path, "is not beside the file"));
        };
        let from = by_base.partition_point(|&index| entries[index].base() < base);
        let same: Vec<usize> =
            by_base[from..].iter().copied().take_while(|&index| entries[index].base() == base).take(2).collect();
        match same[..] {
            [index] => Ok(Found { index: Some(index), entry: entries[index].clone() }),
            [] => Err(missing(path, "is no image of the source")),
            _ => Err(missing(path, "lies in several folders, none of them beside the file")),
        }
    }
}

impl Found {
    /// See [`Entry::ending`].
    pub fn ending(&self) -> String {
        self.entry.ending()
    }

    /// Its path from the source.
    pub fn name(&self) -> &str {
        &self.entry.name
    }

    /// Reads the file, as a part with the name that the record has. `room` is what is left of [`MAX_MEDIA_BYTES`].
    ///
    /// # Errors
    /// [`SkipReason::MissingFile`] if it cannot be read, [`SkipReason::TooLargeImage`] and [`SkipReason::BrokenAudio`] if it
    /// is larger than `room`.
    pub fn read(&self, name: &str, room: &mut u64) -> Result<Part, Skip> {
        let ending = self.ending();
        let mut bytes = Vec::new();
        let read = File::open(&self.entry.path).and_then(|file| file.take(*room + 1).read_to_end(&mut bytes));
        read.map_err(|error| missing(name, &format!("cannot be read: {error}")))?;
        let is_image = is_image(&ending);
        let Some(left) = room.checked_sub(bytes.len() as u64) else {
            let reason = if is_image { SkipReason::TooLargeImage } else { SkipReason::BrokenAudio };
            return Err(Skip::new(reason, format!("with {name} the sample has more than 1 GiB")));
        };
        *room = left;
        let (name, bytes) = (name.to_owned(), bytes.into());
        Ok(if is_image { Part::Image(Picture::File { name, bytes }) } else { Part::Audio(Sound::File { name, bytes }) })
    }
}

/// Whether this is the ending of a file that can be a part.
pub(in crate::readers) fn is_media(ending: &str) -> bool {
    is_image(ending) || is_audio(ending)
}

/// A path from a folder of the source, from the source itself; `None` where it leads out of it.
fn within(folder: &str, path: &str) -> Option<String> {
    if path.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// A file in a folder that was not listed.
fn beside(folder: &Path, name: &str) -> Option<Entry> {
    let relative = Path::new(name);
    if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
        return None;
    }
    let path = folder.join(relative);
    let meta = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
    let entry = Entry { path, name: name.to_owned(), len_bytes: meta.len(), stamp: 0 };
    is_media(&entry.ending()).then_some(entry)
}

fn missing(path: &str, why: &str) -> Skip {
    Skip::new(SkipReason::MissingFile, format!("{path} {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leads_out_of_the_source() {
        assert_eq!(within("a/b", "../c/./d.jpg").as_deref(), Some("a/c/d.jpg"));
        assert_eq!(within("", "d.jpg").as_deref(), Some("d.jpg"));
        for path in ["../d.jpg", "/d.jpg", "a/../../d.jpg"] {
            assert_eq!(within("", path), None);
        }
        assert_eq!(within("a", "../../a/d.jpg"), None);
    }
}
