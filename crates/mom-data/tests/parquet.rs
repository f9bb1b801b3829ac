//! Tables: every value that is expected of the sample data, codecs and encodings, faults, mutations.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

#[path = "common/formats.rs"]
mod formats;
#[path = "common/random.rs"]
mod random;

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use formats::{cases, expected, formats};
use mom_data::DataError;
use mom_data::readers::{
    Format, Outcome, Part, PartOrder, Picture, ReadOptions, Sample, SkipReason, Sound, Tally, open,
};
use random::{Random, n_mutations};
use serde_json::Value;

fn case(name: &str) -> PathBuf {
    cases(&format!("parquet/{name}.parquet"))
}

/// All outcomes of a source, and the first error.
fn read(path: &Path, options: &ReadOptions) -> (Vec<Outcome>, Option<DataError>) {
    let reader = open(path, Some(Format::Parquet), options).unwrap();
    let mut outcomes = Vec::new();
    for unit in 0..reader.units().len() {
        let result = reader.read(unit, &mut |outcome| {
            outcomes.push(outcome);
            ControlFlow::Continue(())
        });
        if let Err(error) = result {
            return (outcomes, Some(error));
        }
    }
    (outcomes, None)
}

fn outcomes(path: &Path) -> Vec<Outcome> {
    let (outcomes, error) = read(path, &ReadOptions::default());
    assert!(error.is_none(), "{error:?}");
    outcomes
}

fn samples(outcomes: Vec<Outcome>) -> Vec<Sample> {
    let sample = |outcome| match outcome {
        Outcome::Sample(sample) => sample,
        other => panic!("{other:?}"),
    };
    outcomes.into_iter().map(sample).collect()
}

/// Name and length of a medium.
type Medium<'a> = (&'a str, usize);

/// The text, image and recording of a sample of which each may be there once.
fn parts(sample: &Sample) -> (Option<&str>, Option<Medium<'_>>, Option<Medium<'_>>) {
    let mut parts: (Option<&str>, Option<Medium<'_>>, Option<Medium<'_>>) = (None, None, None);
    for part in &sample.parts {
        let before = match part {
            Part::Text(text) => parts.0.replace(text.as_str()).is_some(),
            Part::Image(Picture::File { name, bytes }) => parts.1.replace((name, bytes.len())).is_some(),
            Part::Audio(Sound::File { name, bytes }) => parts.2.replace((name, bytes.len())).is_some(),
            other => panic!("{other:?}"),
        };
        assert!(!before, "{sample:?}");
    }
    parts
}

/// Whether a medium is there as it is expected, under the expected name where one is.
fn assert_medium(found: Option<(&str, usize)>, expected: &Value, column: &str) {
    assert_eq!(found.is_some(), !expected.is_null());
    if let Some((name, len)) = found {
        assert_eq!(name, expected.get("name").and_then(Value::as_str).unwrap_or(column));
        assert!(len > 20);
    }
}

#[test]
fn hugging_face_and_img2dataset_tables() {
    let root = formats("hf-parquet");
    let options = ReadOptions { group_field: Some("language".to_owned()), ..ReadOptions::default() };
    let (found, error) = read(&root, &options);
    assert!(error.is_none());
    let found = samples(found);
    let expected = expected("hf-parquet");
    assert_eq!(found.len(), expected.len());
    for (sample, expected) in found.iter().zip(&expected) {
        assert_eq!(sample.place.file, expected["file"]);
        assert_eq!(sample.place.row, expected["row"].as_u64());
        assert_eq!(sample.key, expected["key"]);
        assert_eq!(sample.items, ["parquet"]);
        assert_eq!(sample.order, PartOrder::Free);
        assert_eq!(sample.group, expected.get("label").map(Value::to_string));
        let (text, image, audio) = parts(sample);
        assert_eq!(text, expected["text"].as_str());
        assert_medium(image, &expected["image"], "image");
        assert_medium(audio, &expected["audio"], "audio");
    }
    let reader = open(&root, None, &options).unwrap();
    assert_eq!(reader.format(), Format::Parquet);
    assert_eq!(reader.units().len(), 6);
    assert_eq!(reader.units()[0].name, "datasets/data/train-00000-of-00003.parquet");
    // The list of what is expected, and the statistics of img2dataset.
    assert_eq!(reader.ignored().len(), 3);
}

#[test]
fn interleaved_documents() {
    let found = samples(outcomes(&formats("obelics-parquet")));
    let expected = expected("obelics-parquet");
    assert_eq!(found.len(), expected.len());
    for (sample, expected) in found.iter().zip(&expected) {
        assert_eq!(sample.place.file, expected["file"]);
        assert_eq!(sample.place.row, expected["row"].as_u64());
        assert_eq!(sample.key, expected["key"]);
        assert_eq!(sample.order, PartOrder::Fixed);
        let sequence = expected["sequence"].as_array().unwrap();
        assert_eq!(sample.parts.len(), sequence.len());
        for (part, expected) in sample.parts.iter().zip(sequence) {
            match part {
                Part::Text(text) => assert_eq!(*text, expected["text"]),
                Part::Image(Picture::File { name, bytes }) => {
                    assert_medium(Some((name, bytes.len())), &expected["image"], "images");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn a_table_of_texts() {
    let found = samples(outcomes(&formats("text/docs.parquet")));
    let expected = expected("text");
    let expected: Vec<_> = expected.iter().filter(|expected| expected["file"] == "docs.parquet").collect();
    assert_eq!(found.len(), expected.len());
    for (sample, expected) in found.iter().zip(expected) {
        assert_eq!(sample.place.row, expected["index"].as_u64());
        assert_eq!(sample.key, expected["index"].to_string());
        let text = parts(sample).0.unwrap();
        assert_eq!(text.chars().count() as u64, expected["chars"]);
        assert_eq!(text.len() as u64, expected["bytes"]);
        assert!(text.starts_with(expected["starts"].as_str().unwrap()));
        assert!(text.ends_with(expected["ends"].as_str().unwrap()));
    }
}

/// The rows that `make.py` writes with each codec.
#[test]
fn codecs_and_encodings() {
    let mut names: Vec<String> = ["delta-byte-array", "delta-length-byte-array"].map(str::to_owned).into();
    for codec in ["none", "snappy", "gzip", "brotli", "lz4", "zstd"] {
        names.extend([format!("{codec}-v1"), format!("{codec}-v2")]);
    }
    let options = ReadOptions { group_field: Some("speaker".to_owned()), ..ReadOptions::default() };
    for name in names {
        let (found, error) = read(&case(&name), &options);
        assert!(error.is_none(), "{name}: {error:?}");
        assert_eq!(found.len(), 40);
        for (row, outcome) in found.into_iter().enumerate() {
            let text = (row % 7 != 3).then(|| format!("Row {row} of the table, ").repeat(row % 5) + "end.");
            let image = (row % 6 != 5).then(|| if row % 4 == 0 { "image".to_owned() } else { format!("{row}.png") });
            match outcome {
                Outcome::Sample(sample) => {
                    assert_eq!(sample.key, row.to_string());
                    assert_eq!(sample.place.row, Some(row as u64));
                    assert_eq!(sample.group, Some(format!("speaker {}", row / 10)));
                    let found = parts(&sample);
                    assert_eq!((found.0, found.1.map(|it| it.0)), (text.as_deref(), image.as_deref()), "{name}");
                }
                Outcome::Skipped { skip, .. } => {
                    assert_eq!((skip.reason, text, image), (SkipReason::NoPart, None, None));
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Reason and detail of a row that is skipped; the number of parts of one that is not.
fn summary(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Sample(sample) => format!("{} {}", sample.key, sample.parts.len()),
        Outcome::Skipped { key, skip, items, .. } => {
            assert_eq!(items, &["parquet"]);
            format!("{key} {skip}")
        }
        other => panic!("{other:?}"),
    }
}

fn summaries(name: &str) -> Vec<String> {
    outcomes(&case(name)).iter().map(summary).collect()
}

#[test]
fn rows_that_cannot_be_used_say_why() {
    let at = |row: usize| format!("https://example.com/{row}");
    assert_eq!(
        summaries("documents"),
        [
            format!("{} 3", at(0)),
            format!("{} record does not parse (2 images beside 1 texts)", at(1)),
            format!("{} no part that is asked for (its lists are empty)", at(2)),
            format!("{} no part that is asked for (its lists are empty)", at(3)),
            format!("{} record does not parse (both image and text at place 0)", at(4)),
            format!("{} file is missing (neither image nor text at place 0)", at(5)),
            format!("{} file is missing (images: the table holds no bytes of gone.png)", at(6)),
            format!("{} 600", at(7)),
            format!("{} 1", at(8)),
        ]
    );
    assert_eq!(
        summaries("addresses"),
        [
            "addresses.parquet#0 file is missing (images: the table holds no bytes of https://example.com/a.png)",
            "addresses.parquet#1 1",
        ]
    );
    assert_eq!(
        summaries("two-images"),
        [
            "two-images.parquet#0 several parts of one kind (images in the columns image and mask)",
            "two-images.parquet#1 text is not UTF-8 (invalid utf-8 sequence of 1 bytes from index 0)",
            "two-images.parquet#2 no part that is asked for (all columns of the row are null)",
            "two-images.parquet#3 file is missing (image: the table holds no bytes of gone.png)",
        ]
    );
    assert_eq!(
        summaries("gallery"),
        [
            "gallery.parquet#0 2",
            "gallery.parquet#1 several parts of one kind (images in the columns images and images)",
            "gallery.parquet#2 1",
            "gallery.parquet#3 no part that is asked for (all columns of the row are null)",
        ]
    );
}

#[test]
fn text_is_taken_from_the_fields_that_are_named() {
    let options = ReadOptions { text_fields: vec!["score".to_owned()], ..ReadOptions::default() };
    let (found, error) = read(&case("numbers"), &options);
    assert!(error.is_none());
    let texts: Vec<_> = samples(found).into_iter().map(|sample| sample.parts).collect();
    assert_eq!(texts, [[Part::Text("0.5".to_owned())], [Part::Text("2".to_owned())]]);

    let (found, error) = read(&case("numbers"), &ReadOptions::default());
    assert!(found.is_empty());
    let error = error.unwrap().to_string();
    assert!(error.ends_with("in its schema: no column is read as text, image or sound, of score, flag"), "{error}");
}

#[test]
fn a_sink_that_breaks_ends_the_reading() {
    let reader = open(&case("zstd-v2"), None, &ReadOptions::default()).unwrap();
    let mut n = 0;
    let result = reader.read(0, &mut |_| {
        n += 1;
        if n == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(result.is_ok());
    assert_eq!(n, 5);
}

/// Writes bytes as a table and reads it.
fn read_bytes(folder: &Path, bytes: &[u8]) -> (Vec<Outcome>, Option<DataError>) {
    let path = folder.join("a.parquet");
    fs::write(&path, bytes).unwrap();
    read(&path, &ReadOptions::default())
}

#[test]
fn damaged_files_name_the_place() {
    let dir = tempfile::tempdir().unwrap();
    let whole = fs::read(case("zstd-v2")).unwrap();
    let error = |bytes: &[u8]| {
        let (found, error) = read_bytes(dir.path(), bytes);
        let error = error.unwrap();
        assert!(matches!(error, DataError::Damaged { .. }), "{error}");
        (found.len(), error.to_string())
    };
    let assert = |bytes: &[u8], rows: usize, words: &str| {
        let (n, error) = error(bytes);
        assert_eq!(n, rows);
        assert!(error.contains(words), "{error}");
    };
    assert(b"", 0, "a.parquet, in its footer: 0 bytes are too few for a table");
    assert(b"version https://git-lfs.github.com/spec/v1", 0, "it does not begin with PAR1");
    assert(&whole[..whole.len() - 100], 0, "it does not end with PAR1: it is cut, or damaged");
    // The length of the footer.
    let mut lies = whole.clone();
    let at = lies.len() - 8;
    lies[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert(&lies, 0, "a footer of 4294967295 bytes is said to be in a file of");
    // A page of the second row group: the rows of the first are given.
    let texts = whole.windows(4).enumerate().filter(|(_, bytes)| *bytes == [0x28, 0xb5, 0x2f, 0xfd]);
    let frames: Vec<usize> = texts.map(|(at, _)| at).collect();
    let mut flipped = whole.clone();
    flipped[frames[frames.len() / 2] + 8] ^= 0xff;
    let (n, error) = error(&flipped);
    assert!((16..32).contains(&n), "{n}");
    assert!(error.contains("in row group 1, row "), "{error}");
    assert!(error.contains("its bytes do not fit its checksum"), "{error}");
}

/// A footer of nothing but a schema of these elements, each with the count of its children.
fn schema(children: impl Iterator<Item = u32>) -> Vec<u8> {
    let varint = |mut value: u64, out: &mut Vec<u8>| {
        while value > 0x7f {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    };
    let children: Vec<u32> = children.collect();
    let mut footer = vec![0x15, 0x02, 0x19, 0xfc];
    varint(children.len() as u64, &mut footer);
    for n in children {
        footer.extend([0x35, 0x00, 0x18, 0x01, b'a', 0x15]);
        varint(u64::from(n) * 2, &mut footer);
        footer.push(0);
    }
    footer.extend([0x16, 0x00, 0x19, 0x0c, 0x00]);
    let len = (footer.len() as u32).to_le_bytes();
    [b"PAR1", &footer[..], &len, b"PAR1"].concat()
}

#[test]
fn schemas_that_would_exhaust_stack_or_memory_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let deep = schema((0..300_000).map(|index| u32::from(index < 299_999)));
    let wide = schema([i32::MAX as u32, 0].into_iter());
    let open_ended = schema([2, 0].into_iter());
    for bytes in [deep, wide, open_ended] {
        let (found, error) = read_bytes(dir.path(), &bytes);
        assert!(found.is_empty());
        assert!(error.unwrap().to_string().contains("in its footer: it does not parse"));
    }
}

/// Flips, cuts, repeats or fills some bytes; half of the time near the end, where the footer is.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        if bytes.len() < 16 {
            return;
        }
        let from = if random.below(2) == 0 { bytes.len().saturating_sub(2_000) } else { 0 };
        let at = from + random.below(bytes.len() - from);
        let len = (1 + random.below(24)).min(bytes.len() - at);
        match random.below(8) {
            0..3 => bytes[at] ^= 1 << random.below(8),
            3 => bytes[at] = random.below(256) as u8,
            4 => bytes[at..at + len].fill([0x00, 0x7f, 0x80, 0xff][random.below(4)]),
            5 => drop(bytes.drain(at..at + len)),
            6 => {
                let piece = bytes[at..at + len].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => bytes.truncate(at),
        }
    }
}

/// Largest memory that this process has had, where the system tells.
fn peak_memory_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

#[test]
fn mutated_files_neither_panic_nor_hang_nor_lose_rows() {
    let mut files: Vec<PathBuf> = fs::read_dir(cases("parquet")).unwrap().map(|it| it.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|it| it == "parquet"));
    files.sort();
    files.push(formats("hf-parquet/key-jpg-txt/00000.parquet"));
    files.push(formats("hf-parquet/img2dataset/00001.parquet"));
    let files: Vec<(Vec<u8>, u64)> = files
        .iter()
        .map(|path| (fs::read(path).unwrap(), read(path, &ReadOptions::default()).0.len() as u64))
        .collect();

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    let mut random = Random(7);
    let mut slowest = Duration::ZERO;
    let mut endings: BTreeMap<&str, usize> = BTreeMap::new();
    for index in 0..n_mutations() {
        let (whole, rows) = &files[index % files.len()];
        let mut bytes = whole.clone();
        mutate(&mut bytes, &mut random);
        fs::write(&path, &bytes).unwrap();
        let begin = Instant::now();
        let reader = open(&path, Some(Format::Parquet), &ReadOptions::default()).unwrap();
        let mut tally = Tally::default();
        let mut found = 0;
        let result = reader.read(0, &mut |outcome| {
            let (Outcome::Sample(Sample { place, .. }) | Outcome::Skipped { place, .. }) = &outcome else {
                panic!("{outcome:?}")
            };
            assert_eq!(place.row, Some(found));
            tally.count(&outcome);
            found += 1;
            ControlFlow::Continue(())
        });
        slowest = slowest.max(begin.elapsed());
        assert_eq!(tally.found(), found);
        let counts = tally.items.get("parquet").copied().unwrap_or_default();
        assert_eq!(counts.found, counts.used + counts.skipped + counts.ignored);
        assert_eq!(counts.found, found);
        // Where the footer is as it was, so is the number of rows, or the damage is said.
        let footer = 8 + u32::from_le_bytes(whole[whole.len() - 8..][..4].try_into().unwrap()) as usize;
        let ending = match result {
            Ok(()) if bytes.ends_with(&whole[whole.len() - footer..]) => {
                assert_eq!(found, *rows);
                "read"
            }
            Ok(()) => "read, with another footer",
            Err(DataError::Damaged { .. }) => "damaged",
            Err(other) => panic!("{other}"),
        };
        *endings.entry(ending).or_default() += 1;
    }
    println!("{endings:?}, slowest {slowest:?}, peak {:?} bytes", peak_memory_bytes());
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    assert!(peak_memory_bytes().is_none_or(|peak| peak < 512 << 20), "{:?}", peak_memory_bytes());
}
