//! The readers of folders, against what other programs read from the same files, and against damaged ones.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use mom_data::readers::{
    Format, Outcome, Part, Picture, ReadOptions, Reader, Sample, SkipReason, Sound, Tally, open, printable,
};
use mom_data::{DataError, Result};
use serde_json::Value;

/// Everything that a source gives.
#[derive(Default)]
struct Found {
    samples: Vec<Sample>,
    /// Key, reason and items.
    skipped: Vec<(String, SkipReason, Vec<String>)>,
    /// Names.
    ignored: Vec<String>,
    tally: Tally,
    fault: Option<DataError>,
}

impl Found {
    fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Sample(sample) => {
                self.tally.used(&sample.items);
                self.samples.push(sample);
            }
            Outcome::Skipped { key, place, items, skip } => {
                self.tally.skipped(&place.file, &key, &items, &skip);
                self.skipped.push((key, skip.reason, items));
            }
            Outcome::Ignored { ending, name } => {
                self.tally.ignored(&ending, &name);
                self.ignored.push(name);
            }
        }
    }

    /// Items by ending.
    fn items(&self) -> BTreeMap<&str, u64> {
        self.tally.items.iter().map(|(ending, counts)| (ending.as_str(), counts.found)).collect()
    }

    fn n_items(&self) -> u64 {
        let sum = |counts: &mom_data::readers::ItemCounts| {
            assert_eq!(counts.found, counts.used + counts.skipped + counts.ignored);
            counts.found
        };
        self.tally.items.values().map(sum).sum()
    }

    fn keys(&self) -> Vec<&str> {
        self.samples.iter().map(|sample| sample.key.as_str()).collect()
    }

    fn sample(&self, key: &str) -> &Sample {
        self.samples.iter().find(|sample| sample.key == key).unwrap_or_else(|| panic!("no {key} in {:?}", self.keys()))
    }

    fn reason(&self, key: &str) -> SkipReason {
        let found = self.skipped.iter().find(|(name, ..)| name == key);
        found.unwrap_or_else(|| panic!("no {key} in {:?}", self.skipped)).1
    }
}

fn read_with(reader: &dyn Reader) -> Found {
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

fn read(path: &Path, format: Format, options: &ReadOptions) -> Found {
    read_with(open(path, Some(format), options).unwrap().as_ref())
}

fn formats() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats")
}

fn stamps() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/tuxpaint")
}

fn expected(folder: &str) -> Vec<Value> {
    let lines = fs::read_to_string(formats().join(folder).join("expected.jsonl")).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Files below a folder, by their paths within it.
fn walk(folder: &Path) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(inner) = folders.pop() {
        for entry in fs::read_dir(inner).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.insert(path.strip_prefix(folder).unwrap().to_path_buf());
            }
        }
    }
    files
}

fn copy(from: &Path, to: &Path) {
    for file in walk(from) {
        write(to, file.to_str().unwrap(), &fs::read(from.join(&file)).unwrap());
    }
}

fn write(folder: &Path, name: &str, contents: &[u8]) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, contents).unwrap();
}

fn text(sample: &Sample) -> Option<&str> {
    sample.parts.iter().find_map(|part| if let Part::Text(text) = part { Some(text.as_str()) } else { None })
}

/// Name and size of the picture.
fn image(sample: &Sample) -> Option<(&str, usize)> {
    sample.parts.iter().find_map(|part| match part {
        Part::Image(Picture::File { name, bytes }) => Some((name.as_str(), bytes.len())),
        _ => None,
    })
}

/// Name and size of the recording.
fn audio(sample: &Sample) -> Option<(&str, usize)> {
    sample.parts.iter().find_map(|part| match part {
        Part::Audio(Sound::File { name, bytes }) => Some((name.as_str(), bytes.len())),
        _ => None,
    })
}

/// Checks one part of each kind at most, what there must be of them, and that the files are whole.
fn check_parts(root: &Path, sample: &Sample, wanted: &Value) {
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

#[test]
fn loose_pairs_give_what_is_expected() {
    let root = formats().join("loose-pairs");
    let mut found = read(&root, Format::Loose, &ReadOptions::default());
    found.samples.sort_by(|a, b| a.key.as_bytes().cmp(b.key.as_bytes()));
    let expected = expected("loose-pairs");
    assert_eq!(found.samples.len(), expected.len());
    for (sample, wanted) in found.samples.iter().zip(&expected) {
        assert_eq!(Some(sample.key.as_str()), wanted["key"].as_str());
        check_parts(&root, sample, wanted);
        let files = wanted["files"].as_object().unwrap();
        assert_eq!(image(sample).map(|(name, _)| name), files.get("image").and_then(Value::as_str));
        assert_eq!(audio(sample).map(|(name, _)| name), files.get("audio").and_then(Value::as_str));
        assert_eq!(sample.items.len(), files.len());
    }
    assert_eq!(found.skipped, []);
    assert_eq!(found.ignored, ["expected.jsonl"]);
    assert_eq!(found.n_items(), walk(&root).len() as u64);
}

#[test]
fn loose_formats_are_recognised() -> Result<()> {
    for (folder, format) in
        [("loose-pairs/sub", Format::Loose), ("hf-folder", Format::Metadata), ("librispeech", Format::Librispeech)]
    {
        assert_eq!(open(&formats().join(folder), None, &ReadOptions::default())?.format(), format);
    }
    assert_eq!(open(&stamps(), None, &ReadOptions::default())?.format(), Format::Tuxpaint);
    Ok(())
}

#[test]
fn hf_folders_give_what_is_expected() {
    let root = formats().join("hf-folder");
    let found = read(&root, Format::Metadata, &ReadOptions::default());
    let expected = expected("hf-folder");
    assert_eq!(found.samples.len(), expected.len());
    for (sample, wanted) in found.samples.iter().zip(&expected) {
        assert_eq!(Some(sample.key.as_str()), wanted["key"].as_str());
        assert_eq!(sample.place.file.rsplit_once('/').map(|(folder, _)| folder), wanted["folder"].as_str());
        check_parts(&root, sample, wanted);
        let (name, _) = image(sample).or(audio(sample)).unwrap();
        assert_eq!(name, format!("{}/{}", wanted["folder"].as_str().unwrap(), sample.key));
        assert_eq!(sample.items.len(), 2);
    }
    assert_eq!(found.skipped, []);
    assert_eq!(found.ignored, ["expected.jsonl"]);
    // Three tables, as many rows as samples; `expected.jsonl` is ignored.
    assert_eq!(found.n_items(), (walk(&root).len() - 3 + expected.len()) as u64);
    assert_eq!(found.items()["csv"], 12);
    assert_eq!(found.items()["jsonl"], 15);

    let options = ReadOptions { group_field: Some("language".to_owned()), ..ReadOptions::default() };
    let found = read(&root.join("audiofolder/metadata.csv"), Format::Metadata, &options);
    assert_eq!(found.samples.len(), 12);
    assert_eq!(found.samples[1].group.as_deref(), Some("ru"));
    assert_eq!(found.n_items(), 24);
}

#[test]
fn librispeech_gives_what_is_expected() {
    let root = formats().join("librispeech");
    let options = ReadOptions { group_field: Some("speaker".to_owned()), ..ReadOptions::default() };
    let reader = open(&root, Some(Format::Librispeech), &options).unwrap();
    assert_eq!(reader.units().len(), 4);
    let found = read_with(reader.as_ref());
    let expected = expected("librispeech");
    assert_eq!(found.samples.len(), expected.len());
    for (sample, wanted) in found.samples.iter().zip(&expected) {
        assert_eq!(Some(sample.key.as_str()), wanted["key"].as_str());
        assert_eq!(Some(sample.place.file.as_str()), wanted["file"].as_str());
        assert_eq!(audio(sample).unwrap().0, sample.place.file);
        assert_eq!(sample.group.as_deref(), Some(&sample.key[..4]));
        check_parts(&root, sample, wanted);
    }
    assert_eq!((found.skipped.len(), found.ignored.len()), (0, 1));
    // Clips, as many lines, and `expected.jsonl`.
    assert_eq!(found.n_items(), 2 * expected.len() as u64 + 1);

    let options = ReadOptions { group_field: Some("chapter".to_owned()), ..ReadOptions::default() };
    let found = read(&root, Format::Librispeech, &options);
    assert_eq!(found.samples[0].group.as_deref(), Some("100101"));
    let found = read(&root, Format::Librispeech, &ReadOptions::default());
    assert_eq!(found.samples[0].group, None);
}

#[test]
fn sidecars_give_captions_and_groups() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    write(root, "00000/0.jpg", b"picture");
    write(root, "00000/0.txt", b"from the text\n");
    write(root, "00000/0.json", br#"{"caption": "from the sidecar", "long": "at length", "url": "u"}"#);
    write(root, "00000/1.jpg", b"picture");
    write(root, "00000/1.json", br#"{"caption": "only here"}"#);
    write(root, "00000/2.jpg", b"picture");
    write(root, "00000/2.json", br#"{"caption": "#);
    write(root, "00000/3.jpg", b"picture");
    write(root, "00000/3.txt", b"sound");
    write(root, "00000/3.json", br#"{"caption": "#);
    write(root, "00000_stats.json", br#"{"count": 4}"#);
    write(root, "00000.parquet", b"PAR1");

    let found = read(root, Format::Loose, &ReadOptions::default());
    assert_eq!(found.keys(), ["00000/0", "00000/1", "00000/3"]);
    assert_eq!(text(&found.samples[0]), Some("from the text"));
    assert_eq!(text(&found.samples[1]), Some("only here"));
    assert_eq!(found.reason("00000/2"), SkipReason::BrokenRecord);
    assert_eq!(found.ignored, ["00000.parquet", "00000_stats.json"]);
    assert_eq!(found.n_items(), 12);

    let options = ReadOptions {
        text_fields: vec!["long".to_owned(), "caption".to_owned()],
        group_field: Some("url".to_owned()),
        ..ReadOptions::default()
    };
    let found = read(root, Format::Loose, &options);
    assert_eq!(text(&found.samples[0]), Some("at length"));
    assert_eq!(found.samples[0].group.as_deref(), Some("u"));
    assert_eq!(found.samples[1].group, None);
}

#[test]
fn loose_files_that_cannot_be_used_are_told() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    write(root, "two.jpg", b"a");
    write(root, "two.png", b"b");
    write(root, "two.txt", b"text");
    write(root, "latin.jpg", b"a");
    write(root, "latin.txt", b"caf\xe9");
    write(root, "heard.wav", b"a");
    write(root, "heard.MP3", b"a");
    write(root, "dir.x/none", b"a");
    write(root, ".hidden.jpg", b"a");
    write(root, "fine.JPE", b"a");
    let found = read(root, Format::Loose, &ReadOptions::default());
    assert_eq!(found.keys(), ["fine"]);
    assert_eq!(found.reason("two"), SkipReason::DuplicatePart);
    assert_eq!(found.reason("heard"), SkipReason::DuplicatePart);
    assert_eq!(found.reason("latin"), SkipReason::BrokenText);
    assert_eq!(found.n_items(), walk(root).len() as u64);

    write(root, "fine.JPE", b"longer");
    let units = |root: &Path| open(root, Some(Format::Loose), &ReadOptions::default()).unwrap().units().to_vec();
    let before = units(root);
    write(root, "fine.JPE", b"much longer");
    assert_ne!(units(root)[0].stamp, before[0].stamp);
    assert_eq!(units(root)[0].len_bytes, before[0].len_bytes + 5);
}

#[cfg(unix)]
#[test]
fn linked_folders_are_read_and_broken_links_told() {
    use std::os::unix::fs::symlink;
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    for name in ["data/a", "elsewhere/b"] {
        write(root, &format!("{name}.jpg"), b"picture");
        write(root, &format!("{name}.txt"), b"text");
    }
    symlink("../elsewhere", root.join("data/part2")).unwrap();
    symlink("../../elsewhere/b.txt", root.join("elsewhere/c.txt")).unwrap();
    symlink("b.txt", root.join("elsewhere/d.txt")).unwrap();
    symlink("/nonexistent/gone.jpg", root.join("data/gone.jpg")).unwrap();
    symlink(".", root.join("data/around")).unwrap();
    let found = read(&root.join("data"), Format::Loose, &ReadOptions::default());
    assert_eq!(found.keys(), ["a", "part2/b", "part2/d"]);
    assert_eq!(found.items()["(link)"], 3);
    assert!(found.ignored.iter().any(|name| name.starts_with("gone.jpg ")), "{:?}", found.ignored);
    assert_eq!(found.n_items(), 8);
}

#[test]
fn rows_that_cannot_be_used_are_told() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    write(root, "secret.jpg", b"outside");
    let lines = [
        r#"{"file_name": "a.jpg", "text": "first"}"#,
        r#"{"file_name": "a.jpg", "text": "the same again"}"#,
        "",
        r#"{"file_name": "gone.jpg", "text": "x"}"#,
        r#"{"file_name": "../../secret.jpg", "text": "x"}"#,
        r#"{"file_name": "/etc/hostname", "text": "x"}"#,
        r#"{"file_name": "a.jpg", "text": "#,
        r#"["a.jpg"]"#,
        r#"{"text": "no name"}"#,
        r#"{"file_name": 7}"#,
        r#"{"image_file_name": "./in/../b.png", "audio_file_name": "c.wav", "text": null, "caption": "both"}"#,
        r#"{"file_name": "b.png", "mask_file_name": "a.jpg"}"#,
        r#"{"file_name": "d.npy", "text": "kept"}"#,
        r#"{"file_name": "d.npy", "text": null}"#,
        r#"{"file_names": ["e.jpg", "e.jpg"]}"#,
        r#"{"file_name": null, "text": "alone"}"#,
    ];
    write(root, "data/sub/metadata.jsonl", format!("\u{feff}{}\r\n", lines.join("\r\n")).as_bytes());
    for name in ["a.jpg", "b.png", "c.wav", "d.npy", "e.jpg", "unnamed.jpg", "metadata.csv"] {
        write(root, &format!("data/sub/{name}"), b"medium");
    }
    let found = read(&root.join("data"), Format::Metadata, &ReadOptions::default());
    let keys = ["a.jpg", "a.jpg", "c.wav", "d.npy", "e.jpg", "sub/metadata.jsonl#15"];
    assert_eq!(found.keys(), keys);
    let texts: Vec<_> = found.samples.iter().map(text).collect();
    assert_eq!(texts, [Some("first"), Some("the same again"), Some("both"), Some("kept"), None, Some("alone")]);
    assert_eq!(found.samples[0].items, ["jsonl", "jpg"]);
    assert_eq!(found.samples[1].items, ["jsonl"]);
    assert_eq!(found.samples[1].place.row, Some(1));
    let both = found.sample("c.wav");
    assert_eq!(image(both).unwrap().0, "sub/b.png");
    assert_eq!(audio(both).unwrap().0, "sub/c.wav");
    for (key, reason) in [
        ("gone.jpg", SkipReason::MissingFile),
        ("../../secret.jpg", SkipReason::MissingFile),
        ("/etc/hostname", SkipReason::MissingFile),
        ("sub/metadata.jsonl#6", SkipReason::BrokenRecord),
        ("sub/metadata.jsonl#7", SkipReason::BrokenRecord),
        ("sub/metadata.jsonl#8", SkipReason::BrokenRecord),
        ("sub/metadata.jsonl#9", SkipReason::BrokenRecord),
        ("b.png", SkipReason::DuplicatePart),
        ("d.npy", SkipReason::NoPart),
    ] {
        assert_eq!(found.reason(key), reason, "{key}");
    }
    let copy = "sub/metadata.csv (metadata.jsonl beside it is read)";
    assert_eq!(found.ignored, [copy, "sub/d.npy", "sub/unnamed.jpg"]);
    // Fifteen rows and all files but the table itself.
    assert_eq!(found.n_items(), 15 + 7);
}

#[test]
fn rows_of_csv_that_cannot_be_used_are_told() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let csv = b"\xef\xbb\xbffile_name,text\n\na.jpg,\"one,\r\n\"\"two\"\"\"\nb.jpg\na.jpg,caf\xe9\n\"c.jpg\",last";
    write(root, "metadata.csv", csv);
    for name in ["a.jpg", "b.jpg", "c.jpg", "folder/metadata.csv"] {
        write(root, name, b"");
    }
    let found = read(root, Format::Metadata, &ReadOptions::default());
    assert_eq!(found.keys(), ["a.jpg", "c.jpg"]);
    assert_eq!(text(&found.samples[0]), Some("one,\r\n\"two\""));
    assert_eq!(text(&found.samples[1]), Some("last"));
    assert_eq!(found.reason("metadata.csv#1"), SkipReason::BrokenRecord);
    assert_eq!(found.reason("metadata.csv#2"), SkipReason::BrokenText);
    assert_eq!(found.ignored, ["b.jpg", "folder/metadata.csv"]);
    assert_eq!(found.n_items(), 4 + 4);
}

#[test]
fn long_tables_are_cut_into_units() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    write(root, "a.jpg", b"picture");
    let row = |n: usize| format!("a.jpg,\"caption {n}\nof {n}\"\r\n");
    let csv: String = (0..10_000).map(row).collect();
    write(root, "csv/metadata.csv", format!("file_name,text\r\n{csv}").replace("a.jpg", "../a.jpg").as_bytes());
    let line = |n: usize| format!("{}{{\"file_name\": \"../a.jpg\", \"text\": \"{n}\"}}\n", "\n".repeat(n % 2));
    let lines: String = (0..5_000).map(line).collect();
    write(root, "lines/metadata.jsonl", lines.as_bytes());
    let reader = open(root, Some(Format::Metadata), &ReadOptions::default()).unwrap();
    let names: Vec<&str> = reader.units().iter().map(|unit| unit.name.as_str()).collect();
    let cut = |name: &str, n: usize| (0..n).map(move |piece| format!("{name}#{piece}")).collect::<Vec<_>>();
    assert_eq!(names, [cut("csv/metadata.csv", 3), cut("lines/metadata.jsonl", 2)].concat());
    let found = read_with(reader.as_ref());
    assert_eq!(found.samples.len(), 15_000);
    for (n, sample) in found.samples[..10_000].iter().enumerate() {
        assert_eq!(text(sample), Some(format!("caption {n}\nof {n}").as_str()));
        assert_eq!(sample.place.row, Some(n as u64));
    }
    for (n, sample) in found.samples[10_000..].iter().enumerate() {
        assert_eq!(text(sample), Some(n.to_string().as_str()));
    }
    assert_eq!(found.n_items(), 15_001);

    // Rows that are added leave earlier units as they are.
    write(root, "lines/metadata.jsonl", format!("{lines}{}", line(0)).as_bytes());
    let changed = open(root, Some(Format::Metadata), &ReadOptions::default()).unwrap();
    let same: Vec<bool> = changed.units().iter().zip(reader.units()).map(|(a, b)| a == b).collect();
    assert_eq!(same, [true, true, true, true, false]);
}

#[test]
fn clips_and_transcripts_without_each_other_are_told() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    for name in ["1-2-0000.flac", "1-2-0001.wav", "1-2-0002.mp3", "1-2-0003.opus", "1-2-0003.flac", "1-2-0004.flac"] {
        write(root, &format!("1/2/{name}"), b"clip");
    }
    let lines = b"1-2-0000 ONE\r\n1-2-0001\n\n1-2-0003 X\n1-2-0004 \xff\n1-2-0009 GONE\n LOST\n1-2-0000 AGAIN";
    write(root, "1/2/1-2.trans.txt", lines);
    write(root, "1/3/1-3.trans.txt", b"\n");
    write(root, "SPEAKERS.TXT", b"1 | F");
    let found = read(root, Format::Librispeech, &ReadOptions::default());
    assert_eq!(found.keys(), ["1-2-0000", "1-2-0001", "1-2-0002"]);
    let texts: Vec<_> = found.samples.iter().map(text).collect();
    assert_eq!(texts, [Some("ONE"), Some(""), None]);
    assert_eq!(found.reason("1-2-0000"), SkipReason::DuplicatePart);
    assert_eq!(found.reason("1-2-0003"), SkipReason::DuplicatePart);
    assert_eq!(found.reason("1-2-0004"), SkipReason::BrokenText);
    assert_eq!(found.reason("1-2-0009"), SkipReason::MissingFile);
    assert_eq!(found.reason("1/2/1-2.trans.txt#6"), SkipReason::BrokenRecord);
    assert_eq!(found.ignored, ["SPEAKERS.TXT", "1/3/1-3.trans.txt"]);
    assert_eq!(found.n_items(), 6 + 7 + 2);
}

/// Languages and texts of a stamp, in the order of the file.
fn descriptions(path: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(path).unwrap();
    let pair = |line: &str| {
        line.split_once(".utf8=").map_or(("en".to_owned(), line.to_owned()), |(a, b)| (a.into(), b.into()))
    };
    text.lines().filter(|line| !line.is_empty()).map(pair).collect()
}

#[test]
fn stamps_give_a_sample_for_each_language() {
    let root = stamps();
    let found = read(&root, Format::Tuxpaint, &ReadOptions::default());
    assert_eq!(found.skipped, []);
    assert_eq!(found.n_items(), walk(&root).len() as u64);
    let mut n_samples = 0;
    for (stamp, has_picture, recordings) in [
        ("household/tools/measuring_tape", true, "be bg ca el es fr ro ru"),
        ("people/body_parts/wig", false, "be bg ca es fr ro ru"),
        ("symbols/math/0", true, "fr ro ru"),
        ("symbols/money/00_symbols/euro_1_euro", true, "be bg ca fr"),
    ] {
        let texts = descriptions(&root.join(format!("{stamp}.txt")));
        let recordings: BTreeSet<&str> = recordings.split(' ').collect();
        let mut languages: BTreeSet<&str> = texts.keys().map(String::as_str).collect();
        languages.extend(&recordings);
        n_samples += languages.len();
        for language in languages {
            let sample = found.sample(&format!("{stamp}#{language}"));
            assert_eq!(text(sample), texts.get(language).map(String::as_str), "{}", sample.key);
            assert_eq!(image(sample).is_some_and(|(_, len)| len > 0), has_picture, "{}", sample.key);
            let recording = format!("{stamp}_desc_{language}.ogg");
            assert_eq!(audio(sample).map(|(name, _)| name), recordings.contains(language).then_some(&recording[..]));
            assert_eq!(sample.group.as_deref(), Some(stamp));
        }
    }
    assert_eq!(found.samples.len(), n_samples);
    assert_eq!(text(found.sample("people/body_parts/wig#en")), Some("Hair."));
    assert_eq!(found.samples[0].items, ["png", "txt"]);
    assert_eq!(found.sample("household/tools/measuring_tape#fr").items, ["ogg"]);
    let png = found.tally.items["png"];
    assert_eq!((png.used, png.ignored), (3, 1));
    assert_eq!((found.tally.items["svg"].ignored, found.tally.items["dat"].ignored), (2, 3));
    assert!(found.ignored.contains(&"symbols/math/0_en_GB.ogg".to_owned()));
    assert!(found.ignored.contains(&"household/tools/measuring_tape_mirror.png".to_owned()));

    let options = ReadOptions { group_field: Some("language".to_owned()), ..ReadOptions::default() };
    let found = read(&root, Format::Tuxpaint, &options);
    assert_eq!(found.sample("symbols/math/0#ro").group.as_deref(), Some("ro"));
}

#[test]
fn faults_of_stamps_are_told() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    write(root, "a.png", b"picture");
    write(root, "a.txt", b"caf\xe9\n\nfr.utf8=Un\r\nfr.utf8=Deux\nde.utf8=\n???\nes.utf8=\xff\nca@valencia.utf8=Hola");
    write(root, "a_desc.ogg", b"en");
    write(root, "a_desc_fr.ogg", b"fr");
    write(root, "a_desc_fr.wav", b"fr again");
    write(root, "a_desc_da.ogg.ogg", b"?");
    write(root, "a.wav", b"sound");
    write(root, "lone_flip.png", b"picture");
    write(root, "spoken_desc_pt_BR.wav", b"pt");
    write(root, "silent.txt", b"\n");
    write(root, "hand.png", b"picture");
    write(root, "hand_mirror.png", b"picture");
    write(root, "hand_mirror.txt", b"A hand mirror.");
    let found = read(root, Format::Tuxpaint, &ReadOptions::default());
    let keys = ["a#ca@valencia", "a#fr", "hand", "hand_mirror#en", "lone_flip", "spoken#pt_BR"];
    assert_eq!(found.keys(), keys);
    assert_eq!(text(found.sample("a#fr")), Some("Un"));
    assert_eq!(audio(found.sample("a#fr")), Some(("a_desc_fr.ogg", 2)));
    // English comes first and cannot be used: the next sample has the shared files.
    assert_eq!(found.skipped[0], ("a#en".to_owned(), SkipReason::BrokenText, vec!["ogg".to_owned()]));
    assert_eq!(found.samples[0].items, ["png", "txt"]);
    assert_eq!(found.reason("a#es"), SkipReason::BrokenText);
    assert_eq!(found.reason("a#fr"), SkipReason::DuplicatePart);
    assert_eq!(found.reason("a#line 6"), SkipReason::BrokenRecord);
    assert_eq!(found.reason("silent"), SkipReason::NoPart);
    assert_eq!(found.n_items(), walk(root).len() as u64);
}

/// All stamps of an installation of Tux Paint, if `MOM_TUXPAINT` names its folder.
#[test]
fn every_file_of_an_installation_is_accounted_for() {
    let Some(root) = std::env::var_os("MOM_TUXPAINT").map(PathBuf::from) else { return };
    let reader = open(&root, Some(Format::Tuxpaint), &ReadOptions::default()).unwrap();
    let (mut languages, mut tally) = (BTreeMap::<String, [u64; 4]>::new(), Tally::default());
    let mut keys = BTreeSet::new();
    let mut add = |outcome: Outcome| match outcome {
        Outcome::Sample(sample) => {
            tally.used(&sample.items);
            let language = sample.key.rsplit_once('#').map_or("(none)", |(_, language)| language);
            let counts = languages.entry(language.to_owned()).or_default();
            let kinds = [text(&sample).is_some(), image(&sample).is_some(), audio(&sample).is_some()];
            counts[0] += 1;
            counts[1..].iter_mut().zip(kinds).for_each(|(count, has)| *count += u64::from(has));
            assert!(keys.insert(sample.key));
        }
        Outcome::Skipped { key, place, items, skip } => tally.skipped(&place.file, &key, &items, &skip),
        Outcome::Ignored { ending, name } => tally.ignored(&ending, &name),
    };
    reader.ignored().iter().cloned().for_each(&mut add);
    for unit in 0..reader.units().len() {
        let sink = &mut |outcome| {
            add(outcome);
            ControlFlow::Continue(())
        };
        reader.read(unit, sink).unwrap();
    }
    println!("{tally}\n{:#?}", tally.items);
    println!("samples, with text, picture, recording, by language: {languages:?}");
    assert_eq!(tally.items.values().map(|counts| counts.found).sum::<u64>(), walk(&root).len() as u64);
}

/// A seeded stream of numbers.
struct Draws(u64);

impl Draws {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % n.max(1)
    }

    /// Flips bytes, cuts, repeats a stretch, or writes something that means something.
    fn damage(&mut self, bytes: &[u8]) -> Vec<u8> {
        const MEANINGFUL: [&[u8]; 12] =
            [b"\n", b"\"", b"\\", b"../", b"\0", b"\xff\xfe", b"\r", b",", b"{", b".utf8=", b"\xef\xbb\xbf", b" "];
        let mut bytes = bytes.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            let end = at + self.below((bytes.len() - at).min(200) + 1);
            match self.below(5) {
                0 => bytes[at..end].iter_mut().take(3).for_each(|byte| *byte ^= 1 << self.below(8)),
                1 => bytes.truncate(at),
                2 => drop(bytes.drain(at..end)),
                3 => bytes.extend_from_within(at..end),
                _ => drop(bytes.splice(at..at, MEANINGFUL[self.below(MEANINGFUL.len())].iter().copied())),
            }
        }
        bytes
    }
}

/// Folder, file within it that is damaged, format, and how many items the damaged file is.
type Target = (&'static str, &'static str, Format, fn(&[u8]) -> u64);

/// Lines that are not blank; a file without any is an item itself.
fn n_lines(bytes: &[u8]) -> u64 {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let n = bytes.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).count();
    n.max(1) as u64
}

/// Rows below the header; a file without any is an item itself.
fn n_rows(bytes: &[u8]) -> u64 {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bytes);
    reader.byte_records().count().saturating_sub(1).max(1) as u64
}

#[test]
fn damaged_files_never_cost_uncounted_data() {
    let n_mutations = std::env::var("MOM_MUTATIONS").map_or(300, |n| n.parse().unwrap());
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    copy(&formats().join("loose-pairs"), &root.join("loose"));
    copy(&formats().join("hf-folder/imagefolder/train"), &root.join("lines"));
    copy(&formats().join("hf-folder/audiofolder"), &root.join("csv"));
    copy(&formats().join("librispeech/LibriSpeech/dev-clean/1001/100101"), &root.join("speech"));
    copy(&stamps(), &root.join("stamps"));
    let targets: [Target; 5] = [
        ("loose", "bom and crlf.txt", Format::Loose, |_| 1),
        ("lines", "metadata.jsonl", Format::Metadata, n_lines),
        ("csv", "metadata.csv", Format::Metadata, n_rows),
        ("speech", "1001-100101.trans.txt", Format::Librispeech, n_lines),
        ("stamps", "symbols/math/0.txt", Format::Tuxpaint, |_| 1),
    ];
    let mut draws = Draws(7);
    for (folder, name, format, n_items) in targets {
        let folder = root.join(folder);
        let whole = fs::read(folder.join(name)).unwrap();
        let n_others = walk(&folder).len() as u64 - 1;
        for _ in 0..n_mutations / targets.len() {
            let damaged = draws.damage(&whole);
            write(&folder, name, &damaged);
            let found = read(&folder, format, &ReadOptions::default());
            let shown = || printable(&String::from_utf8_lossy(&damaged), 3000);
            assert!(found.fault.is_none(), "{:?}: {}", found.fault, shown());
            assert_eq!(found.n_items(), n_others + n_items(&damaged), "{name}: {}", shown());
            assert!(!found.tally.to_string().contains(char::is_control), "{name}: {}", shown());
        }
        write(&folder, name, &whole);
    }
}
