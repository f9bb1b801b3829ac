//! Dictionaries of dictd (`.dict`, and `.dict.dz`, which is gzip): each entry is one document.
//!
//! An entry begins with a line that is not indented, behind a blank line or at the start of the file, and reaches to the next
//! one. The `.index` beside it is not needed: it lists an entry once for each of its headwords, and a rest that is not listed
//! would be lost. An entry is its text as it stands, without blank lines at its end. Entries of one headword (the first line up
//! to a comma, bracket or backslash, in lower case) stay on one side of the split.
//!
//! Entries that tell of the dictionary itself ([`preamble`]) are ignored and counted.
//!
//! An entry that is not UTF-8, or longer than 1 MiB, is skipped and counted. A file that ends inside of its compression is an
//! error that names it and the entry.

use std::ops::ControlFlow;

use super::json_lines::Lines;
use super::pieces::broken_stream;
use super::preamble;
use crate::Result;
use crate::readers::listing::{Entry, Listing};
use crate::readers::{
    Format, Outcome, Part, PartOrder, Place, ReadOptions, Reader, Sample, Skip, SkipReason, Unit, compressed,
};

/// Endings of dictionaries.
const ENDINGS: [&str; 2] = ["dict", "dz"];
/// Bytes of the longest entry.
const MAX_ENTRY_BYTES: usize = 1 << 20;

/// Dictionaries, a document for each entry.
#[derive(Debug)]
pub(in crate::readers) struct Dictionary {
    files: Vec<Entry>,
    units: Vec<Unit>,
    ignored: Vec<Outcome>,
}

impl Dictionary {
    /// All dictionaries of a source, or the one file that it is, whatever its ending.
    pub fn open(listing: Listing, _options: &ReadOptions) -> Result<Self> {
        let named = listing.root.is_file();
        let is_dictionary = |entry: &Entry| named || ENDINGS.contains(&entry.ending().as_str());
        let (files, others): (Vec<Entry>, Vec<Entry>) = listing.entries.into_iter().partition(is_dictionary);
        let mut ignored = listing.ignored;
        ignored.extend(others.iter().map(Entry::ignored));
        Ok(Self { units: files.iter().map(Entry::unit).collect(), files, ignored })
    }
}

impl Reader for Dictionary {
    fn format(&self) -> Format {
        Format::Dictd
    }

    fn units(&self) -> &[Unit] {
        &self.units
    }

    fn ignored(&self) -> &[Outcome] {
        &self.ignored
    }

    fn read(&self, unit: usize, sink: &mut dyn FnMut(Outcome) -> ControlFlow<()>) -> Result<()> {
        let file = &self.files[unit];
        let mut lines = Lines::new(compressed::open(&file.path)?, 0, u64::MAX);
        let mut preamble = preamble::of_index(&file.path).into_iter().peekable();
        let mut inside: Option<(String, u64)> = None;
        let (mut entry, mut row, mut after_blank) = (Open::default(), 0, true);
        loop {
            let at = lines.at;
            let Some(length) = lines.advance() else { break };
            let line = lines.buffer.as_slice();
            let is_blank = line.trim_ascii().is_empty();
            // An index of another file points to what does not begin so.
            while preamble.next_if(|(_, range)| range.start < at).is_some() {}
            inside = match inside {
                Some((_, end)) if at < end => inside,
                _ => preamble
                    .next_if(|(_, range)| range.start == at && preamble::is_of_preamble(&String::from_utf8_lossy(line)))
                    .map(|(headword, range)| (headword, range.end)),
            };
            let headword = inside.as_ref().map(|(headword, _)| headword);
            // The first word follows the preamble without a blank line.
            let begins = match (headword, &entry.of_preamble) {
                (None, None) => after_blank && !is_blank && !line[0].is_ascii_whitespace(),
                (now, before) => now != before.as_ref(),
            };
            if begins && entry.length > 0 {
                if sink(std::mem::take(&mut entry).close(file, row)).is_break() {
                    return Ok(());
                }
                row += 1;
            }
            // Blank lines before the first entry belong to none.
            if entry.length > 0 || !is_blank {
                entry.of_preamble = headword.cloned();
                entry.add(line, length);
            }
            after_blank = is_blank;
        }
        if let Some(error) = lines.error {
            return Err(broken_stream(&file.path, format!("entry {row}"), error));
        }
        if entry.length > 0 {
            let _ = sink(entry.close(file, row));
        }
        Ok(())
    }
}

/// An entry that is being read.
#[derive(Default)]
struct Open {
    /// Not more than [`MAX_ENTRY_BYTES`] of it.
    bytes: Vec<u8>,
    /// All of it.
    length: u64,
    /// Its headword in the index, where that says that it tells of the dictionary.
    of_preamble: Option<String>,
}

impl Open {
    fn add(&mut self, line: &[u8], length: u64) {
        self.length = self.length.saturating_add(length);
        let room = MAX_ENTRY_BYTES - self.bytes.len();
        self.bytes.extend_from_slice(&line[..line.len().min(room)]);
    }

    fn close(mut self, file: &Entry, row: u64) -> Outcome {
        let (key, place) = (format!("{}:{row}", file.name), Place { file: file.name.clone(), row: Some(row) });
        let ignored = |headword: &str| {
            let name = format!("{key}: {headword} tells of the dictionary");
            Outcome::Ignored { ending: "(preamble)".to_owned(), name }
        };
        if let Some(headword) = &self.of_preamble {
            return ignored(headword);
        }
        let items = vec!["entry".to_owned()];
        let skip = |detail| Skip::new(SkipReason::BrokenText, detail);
        if self.length > MAX_ENTRY_BYTES as u64 {
            let skip = skip(format!("it has {} bytes, more than 1 MiB", self.length));
            return Outcome::Skipped { key, place, items, skip };
        }
        self.bytes.truncate(self.bytes.trim_ascii_end().len());
        match String::from_utf8(self.bytes) {
            Ok(text) => {
                let group = headword(&text);
                if let Some(headword) = group.as_deref().filter(|headword| preamble::is_of_preamble(headword)) {
                    return ignored(headword);
                }
                let parts = vec![Part::Text(text)];
                Outcome::Sample(Sample { key, place, group, order: PartOrder::Free, parts, items })
            }
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let skip = skip(format!("byte {at} of {}", error.as_bytes().len()));
                Outcome::Skipped { key, place, items, skip }
            }
        }
    }
}

/// What entries of one word agree in; `None` where the first line names none.
fn headword(text: &str) -> Option<String> {
    let line = text.lines().next()?;
    let word = line.split(['\\', ',', ';', '(', '[']).next()?.trim().to_lowercase();
    (!word.is_empty()).then_some(word)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;
    use crate::DataError;

    const TEXT: &str = "\n\nabbey \\Ab\"bey\\, n.\n   A house of monks.\n\n   2. Its church.\n\nAbbey, adj.\n   Of one.\n\n\nzebra\n   An animal.\n";

    fn read(name: &str, bytes: &[u8]) -> (Result<()>, Vec<Outcome>) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(name), bytes).unwrap();
        let reader = crate::readers::open(folder.path(), None, &ReadOptions::default()).unwrap();
        assert_eq!(reader.format(), Format::Dictd);
        let mut seen = Vec::new();
        let result = reader.read(0, &mut |outcome| {
            seen.push(outcome);
            ControlFlow::Continue(())
        });
        (result, seen)
    }

    fn gzip(text: &str) -> Vec<u8> {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packed.write_all(text.as_bytes()).unwrap();
        packed.finish().unwrap()
    }

    fn texts(outcomes: &[Outcome]) -> Vec<(&str, Option<&str>)> {
        let text = |outcome: &'_ Outcome| match outcome {
            Outcome::Sample(Sample { parts, .. }) => matches!(parts.as_slice(), [Part::Text(_)]),
            _ => false,
        };
        assert!(outcomes.iter().all(text));
        outcomes
            .iter()
            .filter_map(|outcome| match outcome {
                Outcome::Sample(Sample { parts, group, .. }) => match &parts[0] {
                    Part::Text(text) => Some((text.as_str(), group.as_deref())),
                    _ => None,
                },
                _ => None,
            })
            .collect()
    }

    #[test]
    fn entries_are_documents_and_homonyms_stay_together() {
        let expected = [
            ("abbey \\Ab\"bey\\, n.\n   A house of monks.\n\n   2. Its church.", Some("abbey")),
            ("Abbey, adj.\n   Of one.", Some("abbey")),
            ("zebra\n   An animal.", Some("zebra")),
        ];
        for (name, bytes) in [("small.dict", TEXT.as_bytes().to_vec()), ("small.dict.dz", gzip(TEXT))] {
            let (result, seen) = read(name, &bytes);
            result.unwrap();
            assert_eq!(texts(&seen), expected);
        }
    }

    const PREAMBLE: &str = "00-database-short\n   A dictionary.\n\n00-database-info\n   Made today.\n\nThe original was free.\n\n      Motto.\n";

    /// Words of the samples, and what is ignored.
    fn told(outcomes: &[Outcome]) -> (Vec<&str>, Vec<(&str, &str)>) {
        let mut told = (Vec::new(), Vec::new());
        for outcome in outcomes {
            match outcome {
                Outcome::Sample(sample) => told.0.extend(sample.group.as_deref()),
                Outcome::Ignored { ending, name } => told.1.push((ending.as_str(), name.as_str())),
                Outcome::Skipped { .. } => panic!("{outcome:?}"),
            }
        }
        told
    }

    #[test]
    fn what_a_dictionary_tells_of_itself_is_no_entry() {
        let text = format!("{PREAMBLE}abbey\n   A house.\n\nzebra\n   An animal.\n");
        let short = "(preamble)";
        // By headwords alone: what the info has in paragraphs of its own is not known to be one.
        let (result, seen) = read("plain.dict", text.as_bytes());
        result.unwrap();
        let (words, ignored) = told(&seen);
        assert_eq!(words, ["the original was free.", "zebra"]);
        assert_eq!(
            ignored,
            [
                (short, "plain.dict:0: 00-database-short tells of the dictionary"),
                (short, "plain.dict:1: 00-database-info tells of the dictionary"),
            ]
        );

        // With the index, which also knows where the first word begins. Two headwords may stand for one entry.
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("known.dict.dz"), gzip(&text)).unwrap();
        let (info, end) = (text.find("00-database-info").unwrap(), PREAMBLE.len());
        assert!(info < 64 && (64..128).contains(&(end - info)), "two digits");
        let digit = |value: usize| b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[value] as char;
        let length = format!("B{}", digit(end - info - 64));
        let index = format!(
            "00-database-info\t{0}\t{length}\n00-database-short\tA\t{0}\n00databaseinfo\t{0}\t{length}\nzebra\tBx\tC\n",
            digit(info)
        );
        fs::write(folder.path().join("known.index"), index).unwrap();
        let counts = || {
            let source = crate::SourceConfig::at(folder.path().join("known.dict.dz"));
            let report = crate::inspect::inspect(&source, 8, |_| {}).unwrap();
            let tally = report.tally();
            let [entries, preamble] = ["entry", short].map(|ending| tally.items[ending]);
            assert_eq!((entries.found, preamble.found), (entries.used, preamble.ignored), "{tally}");
            (tally.used, preamble.ignored)
        };
        assert_eq!(counts(), (2, 2));
        // One of another file is as good as none.
        fs::write(folder.path().join("known.index"), "00-database-info\tC\tBB\n").unwrap();
        assert_eq!(counts(), (2, 2));
        assert!(preamble::of_index(&folder.path().join("known.dict.dz")).len() == 1);
    }

    #[test]
    fn what_is_cut_is_an_error_and_what_is_no_text_is_skipped() {
        let long: String = (0..4000).map(|word| format!("word{word}\n   Meaning {}.\n\n", word * word)).collect();
        let packed = gzip(&long);
        let (result, seen) = read("cut.dict.dz", &packed[..packed.len() / 2]);
        assert!(
            matches!(result, Err(DataError::Damaged { ref place, .. }) if place.starts_with("entry ")),
            "{result:?}"
        );
        assert!(!seen.is_empty() && seen.len() < 4000, "{}", seen.len());

        let (result, seen) = read("latin.dict", b"one\n   1.\n\ncaf\xe9\n   2.\n\nthree\n   3.\n");
        result.unwrap();
        assert_eq!(seen.len(), 3);
        assert!(matches!(&seen[1], Outcome::Skipped { key, .. } if key == "latin.dict:1"), "{:?}", seen[1]);

        let huge = format!("one\n   {}\n\ntwo\n   2.\n", "x".repeat(MAX_ENTRY_BYTES));
        let (result, seen) = read("huge.dict", huge.as_bytes());
        result.unwrap();
        assert!(matches!(&seen[0], Outcome::Skipped { skip, .. } if skip.to_string().contains("more than 1 MiB")));
        assert_eq!(texts(&seen[1..]), [("two\n   2.", Some("two"))]);
    }
}
