//! What became of everything that a reader found: nothing is lost unseen.
//!
//! Two counts are kept. *Samples* are found, and then used or skipped for a reason. *Items* are what samples are made of:
//! files of a folder, members of an archive, rows of a table, lines, documents of a token file. Each has an ending (`jpg`),
//! and is used, skipped (with its sample) or ignored (it belongs to no sample).

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Examples that are kept.
const MAX_EXAMPLES: usize = 8;

/// Endings that are counted apart; further ones are counted together, as `(other endings)`.
const MAX_ENDINGS: usize = 64;

/// Why a sample is skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SkipReason {
    /// It has none of the parts that are asked for, or all of them are empty.
    NoPart,
    /// Its text is not UTF-8.
    BrokenText,
    /// Its text cannot be tokenised by the given tokenizer.
    UnknownText,
    /// An image does not decode, or not to its end.
    BrokenImage,
    /// An image is larger than is read.
    TooLargeImage,
    /// A recording does not decode.
    BrokenAudio,
    /// A recording holds NaN or infinity, or values no recording has.
    NonFiniteAudio,
    /// A recording has no sample.
    EmptyAudio,
    /// Several parts of one kind, and nothing says how they belong together.
    DuplicatePart,
    /// A row, line or sidecar does not parse, or lacks a field.
    BrokenRecord,
    /// A file that the sample names is not there, or cannot be read.
    MissingFile,
    /// An array of codes or latents does not parse, or has another type or shape than it must.
    BrokenArray,
    /// A token outside of its vocabulary.
    UnknownToken,
    /// A member that is a sparse file, or a link to something that is not in the archive.
    UnreadableMember,
}

impl SkipReason {
    /// The reason in words.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::NoPart => "no part that is asked for",
            Self::BrokenText => "text is not UTF-8",
            Self::UnknownText => "text that the tokenizer refuses",
            Self::BrokenImage => "image does not decode",
            Self::TooLargeImage => "image too large",
            Self::BrokenAudio => "recording does not decode",
            Self::NonFiniteAudio => "recording holds NaN, infinity or values out of range",
            Self::EmptyAudio => "recording of length zero",
            Self::DuplicatePart => "several parts of one kind",
            Self::BrokenRecord => "record does not parse",
            Self::MissingFile => "file is missing",
            Self::BrokenArray => "array of codes or latents does not parse",
            Self::UnknownToken => "token outside of its vocabulary",
            Self::UnreadableMember => "member that cannot be read",
        }
    }
}

/// Why one sample is skipped: the reason, and what a person wants to know beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skip {
    /// The reason that is counted.
    pub reason: SkipReason,
    /// Names, sizes, the decoder's words; may be empty. No raw bytes of the source: [`printable`] is applied on display.
    pub detail: String,
}

impl Skip {
    /// A reason with its detail.
    pub fn new(reason: SkipReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason.describe())?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, " ({})", printable(&self.detail, 200)) }
    }
}

/// A text for a terminal: control characters escaped, at most `max` characters.
pub fn printable(text: &str, max: usize) -> String {
    let mut out = String::new();
    for (at, c) in text.chars().enumerate() {
        if at == max {
            out.push_str("...");
            break;
        }
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// Bytes as a text in which different bytes stay different: what is not UTF-8 is written as `\xNN`. A backslash is written as
/// two wherever it could be taken for the start of such an escape.
pub fn escaped(bytes: &[u8]) -> String {
    let doubles =
        !bytes.is_ascii() && std::str::from_utf8(bytes).is_err() || bytes.windows(2).any(|pair| pair == b"\\x");
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        match doubles {
            true => out.push_str(&chunk.valid().replace('\\', "\\\\")),
            false => out.push_str(chunk.valid()),
        }
        chunk.invalid().iter().for_each(|byte| out.push_str(&format!("\\x{byte:02x}")));
    }
    out
}

/// What became of the items of one ending.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ItemCounts {
    /// All.
    pub found: u64,
    /// Those of samples that are used.
    pub used: u64,
    /// Those of samples that are skipped.
    pub skipped: u64,
    /// Those that belong to no sample.
    pub ignored: u64,
}

/// Counts of everything that was found, with the first few of what was lost as examples.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tally {
    /// Samples that are used.
    pub used: u64,
    /// Samples that are skipped, by reason.
    pub skipped: BTreeMap<SkipReason, u64>,
    /// Items by ending.
    pub items: BTreeMap<String, ItemCounts>,
    /// The first few skipped samples and ignored items, as `place: key: reason`.
    pub examples: Vec<String>,
    /// Of the samples that are used those without the field that the source's `group` names: they are split by their own key.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ungrouped: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Tally {
    /// Counts a sample that is used.
    pub fn used(&mut self, items: &[String]) {
        self.used += 1;
        for ending in items {
            let counts = self.of(ending);
            counts.found += 1;
            counts.used += 1;
        }
    }

    /// Counts a sample that is skipped.
    pub fn skipped(&mut self, place: &str, key: &str, items: &[String], skip: &Skip) {
        *self.skipped.entry(skip.reason).or_default() += 1;
        for ending in items {
            let counts = self.of(ending);
            counts.found += 1;
            counts.skipped += 1;
        }
        self.example(|| format!("{}: {}: {skip}", printable(place, 120), printable(key, 120)));
    }

    /// Counts an item that belongs to no sample.
    pub fn ignored(&mut self, ending: &str, name: &str) {
        let counts = self.of(ending);
        counts.found += 1;
        counts.ignored += 1;
        self.example(|| format!("{}: ignored", printable(name, 160)));
    }

    /// Adds what was found later.
    pub fn append(&mut self, later: &Self) {
        self.used += later.used;
        self.ungrouped += later.ungrouped;
        for (&reason, count) in &later.skipped {
            *self.skipped.entry(reason).or_default() += count;
        }
        for (ending, counts) in &later.items {
            let sum = self.of(ending);
            sum.found += counts.found;
            sum.used += counts.used;
            sum.skipped += counts.skipped;
            sum.ignored += counts.ignored;
        }
        let room = MAX_EXAMPLES - self.examples.len();
        self.examples.extend(later.examples.iter().take(room).cloned());
    }

    /// Samples, used or skipped.
    pub fn found(&self) -> u64 {
        self.used + self.n_skipped()
    }

    /// Samples that are skipped.
    pub fn n_skipped(&self) -> u64 {
        self.skipped.values().sum()
    }

    /// Items that belong to no sample.
    pub fn n_ignored(&self) -> u64 {
        self.items.values().map(|counts| counts.ignored).sum()
    }

    fn example(&mut self, text: impl FnOnce() -> String) {
        if self.examples.len() < MAX_EXAMPLES {
            self.examples.push(text());
        }
    }

    fn of(&mut self, ending: &str) -> &mut ItemCounts {
        let known = self.items.contains_key(ending) || self.items.len() < MAX_ENDINGS;
        self.items.entry(if known { printable(ending, 40) } else { "(other endings)".to_owned() }).or_default()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} samples used, {} skipped", self.used, self.n_skipped())?;
        for (index, (reason, count)) in self.skipped.iter().enumerate() {
            write!(f, "{} {count} with {}", if index == 0 { ":" } else { "," }, reason.describe())?;
        }
        let ignored: Vec<_> = self.items.iter().filter(|(_, counts)| counts.ignored > 0).collect();
        if !ignored.is_empty() {
            write!(f, "; ignored:")?;
            for (index, (ending, counts)) in ignored.into_iter().enumerate() {
                write!(f, "{} {} .{ending}", if index == 0 { "" } else { "," }, counts.ignored)?;
            }
        }
        if self.ungrouped > 0 {
            let of = if self.ungrouped == self.used { "none has" } else { "not all have" };
            write!(f, "; {of} the field that group names: {} are split by their own key", self.ungrouped)?;
        }
        if !self.examples.is_empty() {
            write!(f, "; for example {}", self.examples.join("; "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_bytes_stay_different() {
        let names: [&[u8]; 6] = [b"a", b"a\xff", b"a\\xff", b"a\\\\xff", b"a\\", "ä".as_bytes()];
        let escaped: Vec<String> = names.iter().map(|name| escaped(name)).collect();
        assert_eq!(escaped, ["a", "a\\xff", "a\\\\xff", "a\\\\\\\\xff", "a\\", "ä"]);
    }

    #[test]
    fn counts_add_up_and_terminals_are_safe() {
        let mut tally = Tally::default();
        let items = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        tally.used(&items(&["jpg", "txt"]));
        tally.skipped("a.tar", "k\u{1b}[31m", &items(&["jpg"]), &Skip::new(SkipReason::BrokenImage, "\u{7}"));
        tally.ignored("md5", "k.md5");
        let mut sum = tally.clone();
        sum.append(&tally);
        assert_eq!((sum.used, sum.n_skipped(), sum.n_ignored(), sum.found()), (2, 2, 2, 4));
        assert_eq!(sum.items["jpg"], ItemCounts { found: 4, used: 2, skipped: 2, ignored: 0 });
        let text = sum.to_string();
        assert!(!text.contains('\u{1b}') && !text.contains('\u{7}'), "{text}");
        assert!(text.contains("2 with image does not decode; ignored: 2 .md5"), "{text}");
        // A folder of as many endings as files does not fill the memory.
        for i in 0..10_000 {
            sum.ignored(&format!("e{i}"), "x");
        }
        assert!(sum.items.len() <= MAX_ENDINGS + 1);
        assert_eq!(sum.n_ignored(), 10_002);
    }
}
