//! What the readers of folders share: folders as units, and files whose faults are told instead of ending a unit.

use std::fs::File;
use std::io::Read;
use std::ops::Range;

use bytes::Bytes;

use crate::readers::listing::{self, Entry};
use crate::readers::{Outcome, Part, PartOrder, Picture, Place, Sample, Skip, SkipReason, Sound, Unit};
use crate::rng;

/// Files of a unit, about: a folder with more of them is cut.
const MAX_UNIT_FILES: usize = 4096;

/// No picture, recording or caption is as large as this; what is, is not brought into memory.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// The mark that some programs put before UTF-8.
pub(in crate::readers) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A sample without what every outcome has.
pub(in crate::readers) struct Made {
    pub group: Option<String>,
    pub parts: Vec<Part>,
}

/// Size and stamp of a unit, summed up file by file.
#[derive(Debug, Default)]
pub(in crate::readers) struct Measure {
    len_bytes: u64,
    hash: u64,
}

impl Measure {
    /// Counts a file's size and takes up its name, size and time of change.
    pub fn add(&mut self, entry: &Entry) {
        self.len_bytes += entry.len_bytes;
        self.mark(entry);
    }

    /// Takes up a file whose size is counted elsewhere.
    pub fn mark(&mut self, entry: &Entry) {
        self.mix(&[&entry.len_bytes.to_le_bytes(), &entry.stamp.to_le_bytes(), entry.name.as_bytes()].concat());
    }

    /// Counts and takes up a piece of a file by its contents.
    pub fn add_bytes(&mut self, bytes: &[u8]) {
        self.len_bytes += bytes.len() as u64;
        self.mix(bytes);
    }

    fn mix(&mut self, bytes: &[u8]) {
        self.hash = rng::stable_hash(&[&self.hash.to_le_bytes(), bytes].concat());
    }

    /// The unit.
    pub fn unit(self, name: String) -> Unit {
        Unit { name, len_bytes: self.len_bytes, stamp: self.hash }
    }
}

/// Name of a piece of a file or folder that is cut into `n_pieces`. Names that hold the mark of a piece themselves get one
/// even if they are not cut: so names stay unique.
pub(in crate::readers) fn piece_name(name: &str, piece: usize, n_pieces: usize) -> String {
    let name = if name.is_empty() { "." } else { name };
    if n_pieces == 1 && !name.contains('#') { name.to_owned() } else { format!("{name}#{piece}") }
}

/// Sorts files by folder, then by `group`, then by name.
pub(in crate::readers) fn sort<K: Ord + ?Sized>(entries: &mut [Entry], group: impl Fn(&Entry) -> &K) {
    entries.sort_by(|a, b| {
        let by_folder = a.folder().cmp(b.folder());
        by_folder.then_with(|| group(a).cmp(group(b))).then_with(|| a.name.cmp(&b.name))
    });
}

/// Cuts sorted files ([`sort`]) into units, with the range of each: a folder, or some thousand files of it, never within a
/// group.
pub(in crate::readers) fn cut<K: PartialEq + ?Sized>(
    entries: &[Entry],
    group: impl Fn(&Entry) -> &K,
) -> (Vec<Unit>, Vec<Range<usize>>) {
    let (mut units, mut ranges) = (Vec::new(), Vec::new());
    let mut end = 0;
    for folder in entries.chunk_by(|a, b| a.folder() == b.folder()) {
        let mut pieces: Vec<Range<usize>> = Vec::new();
        for files in folder.chunk_by(|a, b| group(a) == group(b)) {
            let start = end;
            end += files.len();
            match pieces.last_mut() {
                Some(piece) if end - piece.start <= MAX_UNIT_FILES => piece.end = end,
                _ => pieces.push(start..end),
            }
        }
        let n_pieces = pieces.len();
        for (index, piece) in pieces.into_iter().enumerate() {
            let mut measure = Measure::default();
            entries[piece.clone()].iter().for_each(|entry| measure.add(entry));
            units.push(measure.unit(piece_name(folder[0].folder(), index, n_pieces)));
            ranges.push(piece);
        }
    }
    (units, ranges)
}

/// A file's name without its last ending, with its folders.
pub(in crate::readers) fn stem(entry: &Entry) -> &str {
    match entry.base().rsplit_once('.') {
        Some((_, ending)) => &entry.name[..entry.name.len() - ending.len() - 1],
        None => &entry.name,
    }
}

/// Whether a file is read as an image or a recording.
pub(in crate::readers) fn is_media(entry: &Entry) -> bool {
    let ending = entry.ending();
    listing::is_image(&ending) || listing::is_audio(&ending)
}

/// Contents of a file that a sample is made of.
pub(in crate::readers) fn read(entry: &Entry) -> Result<Bytes, Skip> {
    let refused = |why: String| Skip::new(SkipReason::MissingFile, format!("{}: {why}", entry.name));
    let file = File::open(&entry.path).map_err(|error| refused(error.to_string()))?;
    let mut bytes = Vec::with_capacity(entry.len_bytes.min(MAX_FILE_BYTES) as usize + 1);
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| refused(error.to_string()))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(refused(format!("larger than {MAX_FILE_BYTES} bytes")));
    }
    Ok(bytes.into())
}

/// An image or a recording, by the file's ending.
pub(in crate::readers) fn read_media(entry: &Entry) -> Result<Part, Skip> {
    let (name, bytes) = (entry.name.clone(), read(entry)?);
    Ok(if listing::is_image(&entry.ending()) {
        Part::Image(Picture::File { name, bytes })
    } else {
        Part::Audio(Sound::File { name, bytes })
    })
}

/// A text file's text: without byte order mark and without line ends at its end.
pub(in crate::readers) fn read_text(entry: &Entry) -> Result<String, Skip> {
    let bytes = read(entry)?;
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes);
    utf8(bytes, &entry.name).map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Text, if it is UTF-8; `of` is what to name if not.
pub(in crate::readers) fn utf8<'a>(bytes: &'a [u8], of: &str) -> Result<&'a str, Skip> {
    std::str::from_utf8(bytes)
        .map_err(|error| Skip::new(SkipReason::BrokenText, format!("{of}, at byte {}", error.valid_up_to())))
}

/// What nothing says how to tell apart.
pub(in crate::readers) fn duplicates(first: &Entry, second: &Entry) -> Skip {
    Skip::new(SkipReason::DuplicatePart, format!("{} and {}", first.name, second.base()))
}

/// A sample, or why it is none.
pub(in crate::readers) fn outcome(key: String, place: Place, items: Vec<String>, made: Result<Made, Skip>) -> Outcome {
    match made {
        Ok(Made { group, parts }) => {
            Outcome::Sample(Sample { key, place, group, order: PartOrder::Free, parts, items })
        }
        Err(skip) => Outcome::Skipped { key, place, items, skip },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(names: impl IntoIterator<Item = String>) -> Vec<Entry> {
        let entry = |name: String| Entry { path: name.clone().into(), name, len_bytes: 1, stamp: 7 };
        let mut entries: Vec<Entry> = names.into_iter().map(entry).collect();
        sort(&mut entries, stem);
        entries
    }

    #[test]
    fn long_folders_are_cut_between_stems_and_names_stay_unique() {
        let pairs = (0..3000).flat_map(|n| ["jpg", "txt", "wav"].map(|ending| format!("a/{n:05}.{ending}")));
        let entries = entries(pairs.chain(["a#1/x.jpg", "x.jpg", "b/x.jpg"].map(str::to_owned)));
        let (units, ranges) = cut(&entries, stem);
        let names: Vec<&str> = units.iter().map(|unit| unit.name.as_str()).collect();
        assert_eq!(names, [".", "a#0", "a#1", "a#2", "a#1#0", "b"]);
        assert_eq!(ranges.iter().map(Range::len).sum::<usize>(), entries.len());
        for range in &ranges {
            assert!(range.len() <= MAX_UNIT_FILES && (range.len() == 1 || range.len() % 3 == 0), "{range:?}");
        }
        assert_eq!(units.iter().map(|unit| unit.len_bytes).sum::<u64>(), 9003);
    }

    #[test]
    fn a_stamp_follows_names_sizes_and_times() {
        let before = cut(&entries(["a.jpg".to_owned()]), stem).0;
        let changes: [fn(&mut Entry); 3] =
            [|entry| entry.stamp += 1, |entry| entry.len_bytes += 1, |entry| entry.name.insert(0, 'b')];
        for change in changes {
            let mut changed = entries(["a.jpg".to_owned()]);
            change(&mut changed[0]);
            assert_ne!(cut(&changed, stem).0[0].stamp, before[0].stamp);
        }
    }
}
