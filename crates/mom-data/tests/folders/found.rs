//! Everything that a folder gives, for the tests to look into, and folders made by hand.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use mom_data::DataError;
use mom_data::readers::{
    Format, ItemCounts, Outcome, Part, Picture, ReadOptions, Reader, Sample, SkipReason, Sound, Tally, open,
};
use serde_json::Value;

use crate::files::files_below;
use crate::outcomes::text;

/// Everything that a source gives.
#[derive(Default)]
pub struct Found {
    pub samples: Vec<Sample>,
    /// Key, reason and items.
    pub skipped: Vec<(String, SkipReason, Vec<String>)>,
    /// Names.
    pub ignored: Vec<String>,
    pub tally: Tally,
    pub fault: Option<DataError>,
}

impl Found {
    pub fn add(&mut self, outcome: Outcome) {
        self.tally.count(&outcome);
        match outcome {
            Outcome::Sample(sample) => self.samples.push(sample),
            Outcome::Skipped { key, items, skip, .. } => self.skipped.push((key, skip.reason, items)),
            Outcome::Ignored { name, .. } => self.ignored.push(name),
        }
    }

    /// Items by ending.
    pub fn items(&self) -> BTreeMap<&str, u64> {
        self.tally.items.iter().map(|(ending, counts)| (ending.as_str(), counts.found)).collect()
    }

    pub fn n_items(&self) -> u64 {
        let sum = |counts: &ItemCounts| {
            assert_eq!(counts.found, counts.used + counts.skipped + counts.ignored);
            counts.found
        };
        self.tally.items.values().map(sum).sum()
    }

    pub fn keys(&self) -> Vec<&str> {
        self.samples.iter().map(|sample| sample.key.as_str()).collect()
    }

    pub fn sample(&self, key: &str) -> &Sample {
        self.samples.iter().find(|sample| sample.key == key).unwrap_or_else(|| panic!("no {key} in {:?}", self.keys()))
    }

    pub fn reason(&self, key: &str) -> SkipReason {
        let found = self.skipped.iter().find(|(name, ..)| name == key);
        found.unwrap_or_else(|| panic!("no {key} in {:?}", self.skipped)).1
    }
}

pub fn read_with(reader: &dyn Reader) -> Found {
    let mut found = Found::default();
    reader.ignored().iter().for_each(|outcome| found.add(outcome.clone()));
    for unit in 0..reader.units().len() {
        let read = reader.read(unit, &mut |outcome| {
            found.add(outcome);
            ControlFlow::Continue(())
        });
        found.fault = read.err().or(found.fault.take());
    }
    found
}

pub fn read(path: &Path, format: Format, options: &ReadOptions) -> Found {
    read_with(open(path, Some(format), options).unwrap().as_ref())
}

pub fn copy(from: &Path, to: &Path) {
    for file in files_below(from) {
        write(to, file.to_str().unwrap(), &fs::read(from.join(&file)).unwrap());
    }
}

pub fn write(folder: &Path, name: &str, contents: &[u8]) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, contents).unwrap();
}

/// Name and size of the picture.
pub fn image(sample: &Sample) -> Option<(&str, usize)> {
    sample.parts.iter().find_map(|part| match part {
        Part::Image(Picture::File { name, bytes }) => Some((name.as_str(), bytes.len())),
        _ => None,
    })
}

/// Name and size of the recording.
pub fn audio(sample: &Sample) -> Option<(&str, usize)> {
    sample.parts.iter().find_map(|part| match part {
        Part::Audio(Sound::File { name, bytes }) => Some((name.as_str(), bytes.len())),
        _ => None,
    })
}

/// Checks one part of each kind at most, what there must be of them, and that the files are whole.
pub fn check_parts(root: &Path, sample: &Sample, wanted: &Value) {
    let key = &sample.key;
    assert_eq!(text(sample), wanted["text"].as_str(), "{key}");
    assert_eq!(image(sample).is_some(), wanted.get("image").is_some_and(|image| !image.is_null()), "{key}");
    assert_eq!(audio(sample).is_some(), wanted.get("audio").is_some_and(|audio| !audio.is_null()), "{key}");
    let media: Vec<(&str, usize)> = image(sample).into_iter().chain(audio(sample)).collect();
    assert_eq!(sample.parts.len(), media.len() + usize::from(text(sample).is_some()), "{key}");
    for (name, len) in media {
        assert!(len > 0 && len as u64 == fs::metadata(root.join(name)).unwrap().len(), "{key}: {name}");
    }
}
