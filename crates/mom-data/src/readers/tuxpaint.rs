//! Tux Paint's stamps, as they are installed: a picture, its description in many languages, and recordings of it.
//!
//! - `X.png`: the picture. `X_mirror.png` and `X_flip.png` show it again; `X.svg` shows it again or alone, and is not read.
//! - `X.txt`: the English description, and below it a line `LANG.utf8=...` for each further language.
//! - `X_desc.ogg`, `X_desc_LANG.ogg` (or `.wav`): the description spoken, in English and in further languages.
//! - `X.ogg`, `X_LANG.ogg`: the sound that the stamp makes. `X.dat`: how it may be used. Neither is read.
//!
//! A sample is a stamp in a language, `X#LANG`. The picture and the descriptions serve all of a stamp's samples and are
//! items of the first that is used.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::{ControlFlow, Range};

use super::listing::{self, Entry, Listing};
use super::loose::folder::{self, Made};
use super::{Format, Outcome, Part, Place, ReadOptions, Reader, Skip, SkipReason, Unit};
use crate::Result;

/// Language of the first line of a description, and of a recording whose name has none.
const ENGLISH: &str = "en";

/// Reads stamps.
#[derive(Debug)]
pub(super) struct TuxPaint {
    by_language: bool,
    /// Files of stamps, by folder and stamp.
    entries: Vec<Entry>,
    units: Vec<Unit>,
    /// The files of each unit.
    ranges: Vec<Range<usize>>,
    ignored: Vec<Outcome>,
}

/// What a file is to its stamp.
enum Role<'a> {
    Picture,
    Texts,
    /// Of a language.
    Recording(&'a str),
}

/// The descriptions of a stamp.
#[derive(Default)]
struct Texts {
    by_language: BTreeMap<String, Result<String, Skip>>,
    /// Lines that are none: their key, and why.
    faults: Vec<(String, Skip)>,
}

impl TuxPaint {
    pub fn open(listing: Listing, options: &ReadOptions) -> Result<Self> {
        let mut ignored = listing.ignored;
        let (mut pictures, mut described) = (HashSet::new(), HashSet::new());
        for entry in &listing.entries {
            match role(entry) {
                Some((stamp, Role::Picture)) => pictures.insert(stamp),
                Some((stamp, _)) => described.insert(stamp),
                None => false,
            };
        }
        // The same picture again, turned: as a stamp of its own it could come to the other side of a split.
        let is_turned = |stamp: &str| {
            let shown = ["_mirror_flip", "_mirror", "_flip"].iter().find_map(|suffix| stamp.strip_suffix(suffix));
            let is_stamp = |shown| pictures.contains(shown) || described.contains(shown);
            shown.is_some_and(is_stamp) && !described.contains(stamp)
        };
        let is_part = |entry: &Entry| role(entry).is_some_and(|(stamp, _)| !is_turned(stamp));
        let parts: Vec<bool> = listing.entries.iter().map(is_part).collect();
        let mut entries = Vec::new();
        for (entry, is_part) in listing.entries.into_iter().zip(parts) {
            if is_part { entries.push(entry) } else { ignored.push(entry.ignored()) }
        }
        folder::sort(&mut entries, stamp_of);
        let (units, ranges) = folder::cut(&entries, stamp_of);
        let by_language = options.group_field.as_deref() == Some("language");
        Ok(Self { by_language, entries, units, ranges, ignored })
    }

    fn stamp(&self, files: &[Entry], sink: &mut dyn FnMut(Outcome) -> ControlFlow<()>) -> ControlFlow<()> {
        let path = stamp_of(&files[0]);
        let (mut picture, mut texts, mut recordings) = (None, None, BTreeMap::new());
        for entry in files {
            match role(entry) {
                Some((_, Role::Picture)) if picture.is_none() => picture = Some(entry),
                Some((_, Role::Texts)) if texts.is_none() => texts = Some(entry),
                Some((_, Role::Recording(language))) if !recordings.contains_key(language) => {
                    recordings.insert(language, entry);
                }
                // A second file for what there is already, in another format.
                _ => sink(entry.ignored())?,
            }
        }
        let shared: Vec<&Entry> = picture.into_iter().chain(texts).collect();
        let place = Place { file: shared.first().unwrap_or(&&files[0]).name.clone(), row: None };
        let endings = |files: &[&Entry]| files.iter().map(|entry| entry.ending()).collect::<Vec<_>>();
        let read_shared = || -> Result<(Option<Part>, Texts), Skip> {
            let picture = picture.map(folder::read_media).transpose()?;
            Ok((picture, texts.map(read_texts).transpose()?.unwrap_or_default()))
        };
        let (picture, texts) = match read_shared() {
            Ok(shared) => shared,
            Err(skip) => {
                let all: Vec<&Entry> = shared.iter().copied().chain(recordings.values().copied()).collect();
                return sink(folder::outcome(path.to_owned(), place, endings(&all), Err(skip)));
            }
        };

        let mut shared_items = endings(&shared);
        let mut languages: Vec<&str> = texts.by_language.keys().map(String::as_str).collect();
        languages.extend(recordings.keys());
        // English first, as in the descriptions.
        let languages: BTreeSet<(bool, &str)> = languages.into_iter().map(|l| (l != ENGLISH, l)).collect();
        let last = languages.last().copied();
        for &(_, language) in &languages {
            let recording = recordings.get(language).copied();
            let text = texts.by_language.get(language).cloned();
            let made = self.in_language(path, language, text, picture.clone(), recording);
            let mut items = Vec::new();
            // If none can be used, they are lost with the last.
            if made.is_ok() || last.is_some_and(|(_, last)| last == language) {
                items.append(&mut shared_items);
            }
            items.extend(recording.map(Entry::ending));
            sink(folder::outcome(format!("{path}#{language}"), place.clone(), items, made))?;
        }
        if languages.is_empty() {
            let made = match picture {
                Some(picture) => Ok(Made { group: Some(path.to_owned()), parts: vec![picture] }),
                None => Err(Skip::new(SkipReason::NoPart, "no description in any language")),
            };
            sink(folder::outcome(path.to_owned(), place.clone(), shared_items, made))?;
        }
        for (language, skip) in texts.faults {
            sink(folder::outcome(format!("{path}#{language}"), place.clone(), Vec::new(), Err(skip)))?;
        }
        ControlFlow::Continue(())
    }

    fn in_language(
        &self,
        path: &str,
        language: &str,
        text: Option<Result<String, Skip>>,
        picture: Option<Part>,
        recording: Option<&Entry>,
    ) -> Result<Made, Skip> {
        let mut parts: Vec<Part> = text.transpose()?.map(Part::Text).into_iter().collect();
        parts.extend(picture);
        parts.extend(recording.map(folder::read_media).transpose()?);
        let group = if self.by_language { language } else { path };
        Ok(Made { group: Some(group.to_owned()), parts })
    }
}

/// The stamp that a file belongs to, and what it is to it. `None` for what is no part of any.
fn role(entry: &Entry) -> Option<(&str, Role<'_>)> {
    let (ending, stem) = (entry.ending(), folder::stem(entry));
    match ending.as_str() {
        "txt" => Some((stem, Role::Texts)),
        ending if listing::is_image(ending) => Some((stem, Role::Picture)),
        ending if listing::is_audio(ending) => {
            let (stamp, rest) = stem.rsplit_once("_desc")?;
            let language = if rest.is_empty() { ENGLISH } else { rest.strip_prefix('_')? };
            let named = !stamp.is_empty() && !stamp.ends_with('/');
            (named && is_language(language)).then_some((stamp, Role::Recording(language)))
        }
        _ => None,
    }
}

fn stamp_of(entry: &Entry) -> &str {
    role(entry).map_or(&entry.name, |(stamp, _)| stamp)
}

/// `fr`, `pt_BR`, `ca@valencia`.
fn is_language(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'@' | b'-'))
}

fn read_texts(entry: &Entry) -> Result<Texts, Skip> {
    let bytes = folder::read(entry)?;
    let bytes = bytes.strip_prefix(folder::BYTE_ORDER_MARK).unwrap_or(&bytes);
    let mut texts = Texts::default();
    for (at, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.trim_ascii().is_empty() {
            continue;
        }
        let (language, text) = match translation(line) {
            Some(translation) => translation,
            None if at == 0 => (ENGLISH, line),
            None => {
                let skip = Skip::new(SkipReason::BrokenRecord, format!("{}: no LANG.utf8= before it", entry.name));
                texts.faults.push((format!("line {}", at + 1), skip));
                continue;
            }
        };
        if text.trim_ascii().is_empty() {
            continue;
        }
        if texts.by_language.contains_key(language) {
            let skip = Skip::new(SkipReason::DuplicatePart, format!("{}, line {}", entry.name, at + 1));
            texts.faults.push((language.to_owned(), skip));
            continue;
        }
        let text = folder::utf8(text, &format!("{}, line {}", entry.name, at + 1)).map(str::to_owned);
        texts.by_language.insert(language.to_owned(), text);
    }
    Ok(texts)
}

/// Language and text of a line `LANG.utf8=TEXT`.
fn translation(line: &[u8]) -> Option<(&str, &[u8])> {
    let end = line.iter().position(|&byte| byte == b'.')?;
    let text = line[end..].strip_prefix(b".utf8=")?;
    let language = std::str::from_utf8(&line[..end]).ok().filter(|language| is_language(language))?;
    Some((language, text))
}

impl Reader for TuxPaint {
    fn format(&self) -> Format {
        Format::Tuxpaint
    }

    fn units(&self) -> &[Unit] {
        &self.units
    }

    fn ignored(&self) -> &[Outcome] {
        &self.ignored
    }

    fn read(&self, unit: usize, sink: &mut dyn FnMut(Outcome) -> ControlFlow<()>) -> Result<()> {
        for files in self.entries[self.ranges[unit].clone()].chunk_by(|a, b| stamp_of(a) == stamp_of(b)) {
            if self.stamp(files, sink).is_break() {
                break;
            }
        }
        Ok(())
    }
}
