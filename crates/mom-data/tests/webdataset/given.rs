//! All that a source of shards gives, for the tests to look into.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use mom_data::DataError;
use mom_data::readers::{self, Format, Outcome, Part, Picture, ReadOptions, Sample, SkipReason, Sound, Tally};

/// All that a source gives.
#[derive(Debug, Default, PartialEq)]
pub struct Given {
    pub outcomes: Vec<Outcome>,
    /// What `ignored` tells.
    pub outside: Vec<Outcome>,
    pub errors: Vec<String>,
}

impl Given {
    pub fn samples<'a>(&'a self) -> Vec<&'a Sample> {
        let sample = |outcome: &'a Outcome| if let Outcome::Sample(sample) = outcome { Some(sample) } else { None };
        self.outcomes.iter().filter_map(sample).collect()
    }

    pub fn sample(&self, key: &str) -> &Sample {
        self.samples().into_iter().find(|sample| sample.key == key).unwrap_or_else(|| panic!("no {key} in {self:#?}"))
    }

    pub fn skipped<'a>(&'a self) -> Vec<(&'a str, SkipReason, &'a str, &'a [String])> {
        let skipped = |outcome: &'a Outcome| match outcome {
            Outcome::Skipped { key, skip, items, .. } => Some((&key[..], skip.reason, &skip.detail[..], &items[..])),
            _ => None,
        };
        self.outcomes.iter().filter_map(skipped).collect()
    }

    pub fn ignored<'a>(&'a self) -> Vec<&'a str> {
        let ending =
            |outcome: &'a Outcome| if let Outcome::Ignored { ending, .. } = outcome { Some(&ending[..]) } else { None };
        self.outcomes.iter().filter_map(ending).collect()
    }

    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for outcome in &self.outcomes {
            tally.count(outcome);
        }
        tally
    }

    pub fn items(&self) -> u64 {
        self.tally().items.values().map(|counts| counts.found).sum()
    }

    pub fn error(&self) -> &str {
        assert_eq!(self.errors.len(), 1, "{self:#?}");
        &self.errors[0]
    }
}

pub fn read_with(path: &Path, options: &ReadOptions) -> Given {
    let reader = readers::open(path, Some(Format::Webdataset), options).unwrap();
    let mut given = Given { outside: reader.ignored().to_vec(), ..Given::default() };
    for unit in 0..reader.units().len() {
        let mut sink = |outcome| {
            given.outcomes.push(outcome);
            ControlFlow::Continue(())
        };
        match reader.read(unit, &mut sink) {
            Ok(()) => {}
            Err(error @ DataError::Damaged { .. }) => {
                let text = error.to_string();
                assert!(!text.contains(|c: char| c.is_control()), "{text:?}");
                given.errors.push(text);
            }
            Err(error) => panic!("{error}"),
        }
    }
    given
}

pub fn read(path: &Path) -> Given {
    read_with(path, &ReadOptions::default())
}

pub fn read_bytes_as(name: &str, bytes: &[u8], options: &ReadOptions) -> Given {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(name), bytes).unwrap();
    read_with(folder.path(), options)
}

pub fn read_bytes(bytes: &[u8]) -> Given {
    read_bytes_as("a.tar", bytes, &ReadOptions::default())
}

pub fn media<'a>(sample: &'a Sample) -> BTreeMap<&'static str, (&'a str, &'a [u8])> {
    let file = |part: &'a Part| match part {
        Part::Image(Picture::File { name, bytes }) => Some(("image", (&name[..], &bytes[..]))),
        Part::Audio(Sound::File { name, bytes }) => Some(("audio", (&name[..], &bytes[..]))),
        _ => None,
    };
    sample.parts.iter().filter_map(file).collect()
}
