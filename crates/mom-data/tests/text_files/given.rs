//! All that a reader of texts gives, for the tests to look into.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use mom_data::DataError;
use mom_data::readers::{self, Format, Outcome, Part, Picture, ReadOptions, Reader, Sample, Skip, Sound, Tally};
use serde_json::Value;

pub const MIB: usize = 1 << 20;

/// A copy of samples, without what is expected of them.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let path = file.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else if path.file_name().unwrap() != "expected.jsonl" {
            fs::write(&target, fs::read(&path).unwrap()).unwrap();
        }
    }
}

/// All that a reader gives, unit by unit, with its counts.
#[derive(Default)]
pub struct Given {
    pub samples: Vec<Sample>,
    pub skips: Vec<(String, Skip)>,
    pub ignored: Vec<String>,
    pub errors: Vec<DataError>,
    pub tally: Tally,
}

fn take(read: &mut Given, outcome: Outcome) {
    read.tally.count(&outcome);
    match outcome {
        Outcome::Sample(sample) => read.samples.push(sample),
        Outcome::Skipped { key, skip, .. } => read.skips.push((key, skip)),
        Outcome::Ignored { name, .. } => read.ignored.push(name),
    }
}

pub fn read_units(reader: &dyn Reader, units: impl Iterator<Item = usize>) -> Given {
    let mut read = Given::default();
    reader.ignored().iter().for_each(|outcome| take(&mut read, outcome.clone()));
    for unit in units {
        let result = reader.read(unit, &mut |outcome| {
            take(&mut read, outcome);
            ControlFlow::Continue(())
        });
        read.errors.extend(result.err());
    }
    read
}

pub fn read_with(path: &Path, format: Option<Format>, options: &ReadOptions) -> Given {
    let reader = readers::open(path, format, options).unwrap();
    read_units(&*reader, 0..reader.units().len())
}

pub fn read(path: &Path, format: Format) -> Given {
    read_with(path, Some(format), &ReadOptions::default())
}

/// Items that were found, by ending.
pub fn found(read: &Given) -> BTreeMap<String, u64> {
    read.tally.items.iter().map(|(ending, counts)| (ending.clone(), counts.found)).collect()
}

pub fn counts(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
    pairs.iter().map(|&(ending, count)| (ending.to_owned(), count)).collect()
}

pub fn text_of(sample: &Sample) -> &str {
    match sample.parts.last() {
        Some(Part::Text(text)) => text,
        other => panic!("no text: {other:?}"),
    }
}

/// Names of media and texts, in order.
pub fn shown(sample: &Sample) -> Vec<String> {
    let show = |part: &Part| match part {
        Part::Text(text) => text.clone(),
        Part::Image(Picture::File { name, bytes }) => format!("<image {name} {}>", bytes.len()),
        Part::Audio(Sound::File { name, bytes }) => format!("<sound {name} {}>", bytes.len()),
        other => panic!("{other:?}"),
    };
    sample.parts.iter().map(show).collect()
}

/// Compares a text with a line of `expected.jsonl`.
pub fn check(text: &str, expected: &Value) {
    let starts: String = text.chars().take(60).collect();
    let ends: Vec<char> = text.chars().rev().take(60).collect();
    assert_eq!(text.chars().count() as u64, expected["chars"]);
    assert_eq!(text.len() as u64, expected["bytes"]);
    assert_eq!(starts, expected["starts"]);
    assert_eq!(ends.into_iter().rev().collect::<String>(), expected["ends"]);
}
