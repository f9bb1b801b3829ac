//! LibriSpeech: `SPEAKER/CHAPTER/SPEAKER-CHAPTER-NNNN.flac`, with `SPEAKER-CHAPTER.trans.txt` beside.
//!
//! A transcript has a line for each clip: its name, a blank, its text. Items are clips and lines (`trans.txt`).

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};

use super::listing::{self, Entry, Listing};
use super::loose::folder::{self, Made};
use super::{Format, Outcome, Part, Place, ReadOptions, Reader, Skip, SkipReason, Unit, escaped};
use crate::Result;

/// Ending under which lines of transcripts are counted.
const LINE: &str = "trans.txt";

/// Reads chapters.
#[derive(Debug)]
pub(super) struct LibriSpeech {
    group: Group,
    /// Clips and transcripts, by folder.
    entries: Vec<Entry>,
    units: Vec<Unit>,
    /// The files of each unit.
    ranges: Vec<Range<usize>>,
    ignored: Vec<Outcome>,
}

/// What stays on one side of a split.
#[derive(Debug, Clone, Copy)]
enum Group {
    Clip,
    Chapter,
    Speaker,
}

/// A line of a transcript.
struct Line<'a> {
    text: Result<String, Skip>,
    transcript: &'a Entry,
    row: u64,
}

impl LibriSpeech {
    pub fn open(listing: Listing, options: &ReadOptions) -> Result<Self> {
        let mut ignored = listing.ignored;
        let of_chapter = |entry: &Entry| is_transcript(entry) || listing::is_audio(&entry.ending());
        let (mut entries, others): (Vec<_>, Vec<_>) = listing.entries.into_iter().partition(of_chapter);
        ignored.extend(others.iter().map(Entry::ignored));
        // A chapter is never cut: its transcript belongs to all of it.
        folder::sort(&mut entries, folder::stem);
        let (units, ranges) = folder::cut(&entries, Entry::folder);
        let group = match options.group_field.as_deref() {
            Some("speaker") => Group::Speaker,
            Some("chapter") => Group::Chapter,
            _ => Group::Clip,
        };
        Ok(Self { group, entries, units, ranges, ignored })
    }

    /// The group of a clip: by its name, or by its folders where the name is of another form.
    fn group(&self, key: &str, folder: &str) -> Option<String> {
        let of_name: Vec<&str> = key.split('-').collect();
        let mut folders = folder.rsplit('/').filter(|part| !part.is_empty());
        let (speaker, chapter) = match of_name[..] {
            [speaker, chapter, _] => (Some(speaker), Some(chapter)),
            _ => {
                let chapter = folders.next();
                (folders.next(), chapter)
            }
        };
        match self.group {
            Group::Clip => None,
            Group::Chapter => chapter.map(str::to_owned),
            Group::Speaker => speaker.map(str::to_owned),
        }
    }

    fn chapter(&self, files: &[Entry], sink: &mut dyn FnMut(Outcome) -> ControlFlow<()>) -> ControlFlow<()> {
        let mut lines = BTreeMap::new();
        for transcript in files.iter().filter(|entry| is_transcript(entry)) {
            read_lines(transcript, &mut lines, sink)?;
        }
        let clips: Vec<&Entry> = files.iter().filter(|entry| !is_transcript(entry)).collect();
        for clips in clips.chunk_by(|a, b| folder::stem(a) == folder::stem(b)) {
            let key = folder::stem(clips[0]).rsplit('/').next().unwrap_or_default();
            let line = lines.remove(key);
            let mut items: Vec<String> = clips.iter().map(|clip| clip.ending()).collect();
            items.extend(line.is_some().then(|| LINE.to_owned()));
            let place = Place { file: clips[0].name.clone(), row: None };
            let made = self.clip(key, clips, line);
            sink(folder::outcome(key.to_owned(), place, items, made))?;
        }
        for (key, line) in lines {
            let skip = Skip::new(SkipReason::MissingFile, format!("no clip beside {}", line.transcript.name));
            sink(line.skipped(key, skip))?;
        }
        ControlFlow::Continue(())
    }

    fn clip(&self, key: &str, clips: &[&Entry], line: Option<Line<'_>>) -> Result<Made, Skip> {
        if let [first, second, ..] = clips {
            return Err(folder::duplicates(first, second));
        }
        let text = line.map(|line| line.text).transpose()?;
        let mut parts: Vec<Part> = text.map(Part::Text).into_iter().collect();
        parts.push(folder::read_media(clips[0])?);
        Ok(Made { group: self.group(key, clips[0].folder()), parts })
    }
}

impl Line<'_> {
    fn skipped(&self, key: String, skip: Skip) -> Outcome {
        let place = Place { file: self.transcript.name.clone(), row: Some(self.row) };
        Outcome::Skipped { key, place, items: vec![LINE.to_owned()], skip }
    }
}

fn is_transcript(entry: &Entry) -> bool {
    entry.base().to_lowercase().ends_with(".trans.txt")
}

/// Adds the lines of a transcript by the name of their clip; what cannot be added goes to the sink.
fn read_lines<'a>(
    transcript: &'a Entry,
    lines: &mut BTreeMap<String, Line<'a>>,
    sink: &mut dyn FnMut(Outcome) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let bytes = match folder::read(transcript) {
        Ok(bytes) => bytes,
        Err(skip) => {
            let place = Place { file: transcript.name.clone(), row: None };
            let items = vec![LINE.to_owned()];
            return sink(Outcome::Skipped { key: transcript.name.clone(), place, items, skip });
        }
    };
    let bytes = bytes.strip_prefix(folder::BYTE_ORDER_MARK).unwrap_or(&bytes);
    let mut n_lines = 0;
    for (row, line) in (0..).zip(bytes.split(|&byte| byte == b'\n')) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.trim_ascii().is_empty() {
            continue;
        }
        n_lines += 1;
        let end = line.iter().position(|byte| matches!(byte, b' ' | b'\t')).unwrap_or(line.len());
        let key = escaped(&line[..end]);
        let text = line.get(end + 1..).unwrap_or_default();
        let text = folder::utf8(text, &transcript.name).map(str::to_owned);
        let line = Line { text, transcript, row };
        if key.is_empty() {
            let skip = Skip::new(SkipReason::BrokenRecord, "a line that begins with a blank");
            sink(line.skipped(format!("{}#{row}", transcript.name), skip))?;
        } else if let Some(first) = lines.get(&key) {
            let detail = format!("also in line {} of {}", first.row + 1, first.transcript.name);
            sink(line.skipped(key, Skip::new(SkipReason::DuplicatePart, detail)))?;
        } else {
            lines.insert(key, line);
        }
    }
    if n_lines == 0 { sink(transcript.ignored()) } else { ControlFlow::Continue(()) }
}

impl Reader for LibriSpeech {
    fn format(&self) -> Format {
        Format::Librispeech
    }

    fn units(&self) -> &[Unit] {
        &self.units
    }

    fn ignored(&self) -> &[Outcome] {
        &self.ignored
    }

    fn read(&self, unit: usize, sink: &mut dyn FnMut(Outcome) -> ControlFlow<()>) -> Result<()> {
        let _broken_off = self.chapter(&self.entries[self.ranges[unit].clone()], sink);
        Ok(())
    }
}
