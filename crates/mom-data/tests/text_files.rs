//! Text files, JSON lines and MMC4: every value of the samples, what goes wrong in such files, and damaged files.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use mom_data::DataError;
use mom_data::readers::{
    self, Format, Outcome, Part, PartOrder, Picture, ReadOptions, Reader, Sample, Skip, SkipReason, Sound, Tally,
};
use serde_json::{Value, json};

const MIB: usize = 1 << 20;

fn fixtures(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats").join(name)
}

/// Lines of `expected.jsonl`.
fn expected(name: &str) -> Vec<Value> {
    let text = fs::read_to_string(fixtures(name).join("expected.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A copy of samples, without what is expected of them.
fn copy(from: &Path, to: &Path) {
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
struct Given {
    samples: Vec<Sample>,
    skips: Vec<(String, Skip)>,
    ignored: Vec<String>,
    errors: Vec<DataError>,
    tally: Tally,
}

fn take(read: &mut Given, outcome: Outcome) {
    match outcome {
        Outcome::Sample(sample) => {
            read.tally.used(&sample.items);
            read.samples.push(sample);
        }
        Outcome::Skipped { key, place, items, skip } => {
            read.tally.skipped(&place.file, &key, &items, &skip);
            read.skips.push((key, skip));
        }
        Outcome::Ignored { ending, name } => {
            read.tally.ignored(&ending, &name);
            read.ignored.push(name);
        }
    }
}

fn read_units(reader: &dyn Reader, units: impl Iterator<Item = usize>) -> Given {
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

fn read_with(path: &Path, format: Option<Format>, options: &ReadOptions) -> Given {
    let reader = readers::open(path, format, options).unwrap();
    read_units(&*reader, 0..reader.units().len())
}

fn read(path: &Path, format: Format) -> Given {
    read_with(path, Some(format), &ReadOptions::default())
}

/// Items that were found, by ending.
fn found(read: &Given) -> BTreeMap<String, u64> {
    read.tally.items.iter().map(|(ending, counts)| (ending.clone(), counts.found)).collect()
}

fn counts(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
    pairs.iter().map(|&(ending, count)| (ending.to_owned(), count)).collect()
}

fn text_of(sample: &Sample) -> &str {
    match sample.parts.last() {
        Some(Part::Text(text)) => text,
        other => panic!("no text: {other:?}"),
    }
}

/// Names of media and texts, in order.
fn shown(sample: &Sample) -> Vec<String> {
    let show = |part: &Part| match part {
        Part::Text(text) => text.clone(),
        Part::Image(Picture::File { name, bytes }) => format!("<image {name} {}>", bytes.len()),
        Part::Audio(Sound::File { name, bytes }) => format!("<sound {name} {}>", bytes.len()),
        other => panic!("{other:?}"),
    };
    sample.parts.iter().map(show).collect()
}

fn unpacked(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut file = File::open(path).unwrap();
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("gz") => drop(flate2::read::MultiGzDecoder::new(file).read_to_end(&mut bytes).unwrap()),
        Some("zst") => {
            let packed = fs::read(path).unwrap();
            let mut rest = &packed[..];
            while !rest.is_empty() {
                let mut frame = ruzstd::decoding::StreamingDecoder::new(&mut rest).unwrap();
                frame.read_to_end(&mut bytes).unwrap();
            }
        }
        _ => drop(file.read_to_end(&mut bytes).unwrap()),
    }
    bytes
}

/// Compares a text with a line of `expected.jsonl`.
fn check(text: &str, expected: &Value) {
    let starts: String = text.chars().take(60).collect();
    let ends: Vec<char> = text.chars().rev().take(60).collect();
    assert_eq!(text.chars().count() as u64, expected["chars"]);
    assert_eq!(text.len() as u64, expected["bytes"]);
    assert_eq!(starts, expected["starts"]);
    assert_eq!(ends.into_iter().rev().collect::<String>(), expected["ends"]);
}

#[test]
fn every_book_is_a_document() {
    let folder = tempfile::tempdir().unwrap();
    copy(&fixtures("text"), folder.path());
    let read = read(folder.path(), Format::Text);
    let expected: Vec<_> =
        expected("text").into_iter().filter(|line| line["file"].as_str().unwrap().starts_with("books/")).collect();
    assert_eq!(read.samples.len(), expected.len());
    for (sample, line) in read.samples.iter().zip(&expected) {
        assert_eq!(sample.place.file, line["file"]);
        assert_eq!(format!("{}.txt", sample.key), line["file"]);
        check(text_of(sample), line);
        let bytes = fs::read(folder.path().join(&sample.place.file)).unwrap();
        assert_eq!(text_of(sample).as_bytes(), bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes));
    }
    assert_eq!(found(&read), counts(&[("jsonl", 1), ("jsonl.gz", 1), ("jsonl.zst", 1), ("parquet", 1), ("txt", 4)]));
    assert_eq!(read.tally.n_ignored(), 4);
    assert_eq!(
        readers::open(&folder.path().join("books"), None, &ReadOptions::default()).unwrap().format(),
        Format::Text
    );
}

#[test]
fn every_line_is_a_document() {
    let folder = tempfile::tempdir().unwrap();
    copy(&fixtures("text"), folder.path());
    let read = read(folder.path(), Format::Jsonl);
    let expected: Vec<_> =
        expected("text").into_iter().filter(|line| line["file"].as_str().unwrap().contains(".jsonl")).collect();
    assert_eq!(read.samples.len(), expected.len());
    let mut records = Vec::new();
    for file in ["docs.jsonl", "two-frames.jsonl.zst", "two-members.jsonl.gz"] {
        let text = String::from_utf8(unpacked(&folder.path().join(file))).unwrap();
        records.extend(
            text.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str::<Value>(line).unwrap()),
        );
    }
    for ((sample, line), record) in read.samples.iter().zip(&expected).zip(&records) {
        assert_eq!(sample.place.file, line["file"]);
        assert_eq!(sample.place.row, line["index"].as_u64());
        check(text_of(sample), line);
        assert_eq!(text_of(sample), record["text"]);
        let key = record["id"].as_str().or(record["url"].as_str()).map(str::to_owned);
        let key = key.unwrap_or_else(|| format!("{}:{}", sample.place.file, sample.place.row.unwrap()));
        assert_eq!(sample.key, key);
        assert_eq!(sample.order, PartOrder::Free);
    }
    let lines = [("jsonl", 9), ("jsonl.gz", 8), ("jsonl.zst", 8), ("parquet", 1), ("txt", 4)];
    assert_eq!(found(&read), counts(&lines));
    assert_eq!(read.tally.n_ignored(), 5);
}

#[test]
fn every_document_of_mmc4_is_interleaved() {
    let folder = tempfile::tempdir().unwrap();
    copy(&fixtures("mmc4-jsonl"), folder.path());
    let read = read_with(folder.path(), None, &ReadOptions::default());
    let expected = expected("mmc4-jsonl");
    assert_eq!(read.samples.len(), 12);
    let mut n_pictures = 0;
    for (sample, line) in read.samples.iter().zip(&expected) {
        assert_eq!(sample.key, line["key"]);
        assert_eq!(sample.place.file, line["file"]);
        assert_eq!(sample.place.row, line["line"].as_u64());
        assert_eq!(sample.order, PartOrder::Fixed);
        let mut parts = Vec::new();
        for (index, text) in line["text_list"].as_array().unwrap().iter().enumerate() {
            for image in line["images"].as_array().unwrap() {
                if image["matched_text_index"] == index as u64 {
                    let name = image["name"].as_str().unwrap();
                    let len = fs::metadata(folder.path().join("images").join(name)).unwrap().len();
                    parts.push(format!("<image {name} {len}>"));
                    n_pictures += 1;
                }
            }
            parts.push(text.as_str().unwrap().to_owned());
        }
        assert_eq!(shown(sample), parts);
    }
    let pictures = read.tally.items["jpg"].used + read.tally.items["png"].used;
    assert_eq!(pictures, n_pictures);
    assert_eq!(pictures as usize, fs::read_dir(folder.path().join("images")).unwrap().count());
    assert_eq!((read.tally.n_ignored(), read.tally.n_skipped()), (0, 0));
}

#[test]
fn lines_that_cannot_be_used_are_skipped_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    let mut file = b"\xef\xbb\xbf{\"text\": \"first\", \"key\": 7}\r\n\r\n  \n".to_vec();
    file.extend(b"{\"text\": \"broken\n");
    file.extend(b"{\"text\": \"not \xff UTF-8\"}\n");
    file.extend(b"{\"text\": null}\n{\"id\": \"x\"}\n[1, 2]\n");
    file.extend(b"{\"text\": \"scored\", \"score\": NaN}\n");
    file.extend(b"{\"text\": \"joined\"}{\"text\": \"joined\"}\n");
    file.extend(b"{\"text\": 5, \"side\": \"left\", \"id\": \"\"}");
    fs::write(&path, &file).unwrap();
    let options = ReadOptions { group_field: Some("side".to_owned()), ..ReadOptions::default() };
    let read = read_with(folder.path(), None, &options);
    let given: Vec<_> = read.samples.iter().map(|sample| (sample.key.as_str(), text_of(sample))).collect();
    assert_eq!(given, [("7", "first"), ("a.jsonl:8", "scored"), ("a.jsonl:10", "5")]);
    assert_eq!(read.samples[2].group.as_deref(), Some("left"));
    let skips: Vec<_> = read.skips.iter().map(|(key, skip)| (key.as_str(), skip.reason)).collect();
    use SkipReason::{BrokenRecord, BrokenText, NoPart};
    let reasons = [BrokenRecord, BrokenText, NoPart, NoPart, BrokenRecord, BrokenRecord];
    let keys = ["a.jsonl:3", "a.jsonl:4", "a.jsonl:5", "x", "a.jsonl:7", "a.jsonl:9"];
    assert_eq!(skips, keys.into_iter().zip(reasons).collect::<Vec<_>>());
    assert!(read.skips[0].1.detail.starts_with("line 4, column"), "{}", read.skips[0].1);
    assert_eq!(found(&read), counts(&[("jsonl", 9)]));
}

#[test]
fn long_lines_are_skipped_and_long_files_are_cut() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = File::create(folder.path().join("a.jsonl")).unwrap();
    let word = "x".repeat(MIB);
    for line in 0..150 {
        // One line covers a whole unit, and more.
        let n = if line == 40 { 100 } else { 1 };
        file.write_all(b"{\"text\": \"").unwrap();
        (0..n).for_each(|_| file.write_all(word.as_bytes()).unwrap());
        file.write_all(b"\"}\n\n").unwrap();
    }
    let reader = readers::open(folder.path(), None, &ReadOptions::default()).unwrap();
    let units = reader.units();
    assert_eq!(units.len(), 4);
    assert_eq!(units[1].name, format!("a.jsonl#bytes {}-{}", 64 * MIB, 128 * MIB));
    assert_eq!(units.iter().map(|unit| unit.len_bytes).sum::<u64>(), file.metadata().unwrap().len());
    // The last one first: it counts the lines before it.
    let backwards = read_units(&*reader, (0..4).rev());
    let mut rows: Vec<_> = backwards.samples.iter().map(|sample| sample.place.row.unwrap()).collect();
    rows.sort_unstable();
    assert_eq!(rows, (0..150).filter(|line| *line != 40).map(|line| line * 2).collect::<Vec<u64>>());
    assert!(backwards.samples.iter().all(|sample| text_of(sample).len() == MIB));
    assert_eq!(backwards.skips[0].0, "a.jsonl:80");
    assert_eq!(backwards.skips[0].1.reason, SkipReason::BrokenRecord);
    assert_eq!(found(&backwards), counts(&[("jsonl", 150)]));
    let keys =
        |read: &Given| read.samples.iter().map(|sample| sample.key.clone()).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(keys(&backwards), keys(&read_units(&*reader, 0..4)));
}

#[test]
fn records_name_files_of_the_source_only() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("source");
    fs::create_dir_all(root.join("lists")).unwrap();
    fs::create_dir_all(root.join("media")).unwrap();
    fs::write(folder.path().join("secret.jpg"), "outside").unwrap();
    for (name, bytes) in
        [("media/a.jpg", "aa"), ("media/b.png", "bbb"), ("lists/c.wav", "cccc"), ("media/none.jpg", "n")]
    {
        fs::write(root.join(name), bytes).unwrap();
    }
    fs::write(root.join("notes.pdf"), "").unwrap();
    let outside = folder.path().join("secret.jpg");
    let lines = [
        json!({"id": 0, "text": "set", "image": "../media/a.jpg", "audio_filepath": "c.wav", "offset": 0.0}),
        json!({"id": 1, "text": "several", "images": ["../media/b.png", "../media/a.jpg", null]}),
        json!({"id": 2, "image": "../media/b.png", "file_name": "./../media/b.png"}),
        json!({"id": 3, "text": "code", "file_name": "main.rs", "image": "https://example.com/a.jpg"}),
        json!({"id": 4, "text": "out", "image": "../../secret.jpg"}),
        json!({"id": 5, "text": "out", "image": outside}),
        json!({"id": 6, "text": "missing", "image": "../media/a.jpg", "audio": "d.wav"}),
        json!({"id": 7, "text": "segment", "audio_filepath": "c.wav", "offset": 1.5}),
        json!({"id": 8, "text": "other", "image": "../notes.pdf"}),
    ];
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(root.join("lists/l.jsonl"), &text).unwrap();
    let read = read(&root, Format::Jsonl);
    let given: Vec<_> = read.samples.iter().map(shown).collect();
    assert_eq!(given[0], ["<image ../media/a.jpg 2>", "<sound c.wav 4>", "set"]);
    assert_eq!(given[1], ["<image ../media/b.png 3>", "<image ../media/a.jpg 2>", "several"]);
    assert_eq!(given[2], ["<image ../media/b.png 3>"]);
    assert_eq!(given[3], ["code"]);
    assert_eq!(given.len(), 4);
    let order: Vec<_> = read.samples.iter().map(|sample| sample.order).collect();
    assert_eq!(order, [PartOrder::Free, PartOrder::Fixed, PartOrder::Free, PartOrder::Free]);
    let skips: Vec<_> = read.skips.iter().map(|(key, skip)| (key.as_str(), skip.reason)).collect();
    use SkipReason::{BrokenRecord, MissingFile};
    let missing = |key| (key, MissingFile);
    assert_eq!(skips, [missing("4"), missing("5"), missing("6"), ("7", BrokenRecord), missing("8")]);
    assert_eq!(read.samples[0].items, ["jsonl", "jpg", "wav"]);
    assert_eq!(read.ignored, ["notes.pdf", "media/none.jpg"]);

    // A single file: what lies beside it may be named.
    fs::write(
        root.join("one.jsonl"),
        "{\"image\": \"media/a.jpg\"}\n{\"image\": \"lists/../media/a.jpg\"}\n{\"image\": \"../secret.jpg\"}\n",
    )
    .unwrap();
    let read = read_with(&root.join("one.jsonl"), Some(Format::Jsonl), &ReadOptions::default());
    assert_eq!(
        read.samples.iter().map(shown).collect::<Vec<_>>(),
        [["<image media/a.jpg 2>"], ["<image lists/../media/a.jpg 2>"]]
    );
    assert_eq!(read.skips[0].1.reason, MissingFile);
}

#[test]
fn pictures_of_mmc4_are_looked_up_near_first() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for (name, bytes) in [
        ("a/0.jpg", "a"),
        ("b/0.jpg", "bb"),
        ("b/images/1.jpg", "ccc"),
        ("deep/down/2.jpg", "dddd"),
        ("x/3.jpg", ""),
        ("y/3.jpg", ""),
    ] {
        fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        fs::write(root.join(name), bytes).unwrap();
    }
    let line = |names: &[(&str, u64)]| {
        let pictures: Vec<_> =
            names.iter().map(|(name, at)| json!({"image_name": name, "matched_text_index": at})).collect();
        format!("{}\n", json!({"text_list": ["s", "t"], "image_info": pictures}))
    };
    let near = line(&[("1.jpg", 1), ("2.jpg", 1), ("0.jpg", 0)]);
    let lines = [near, line(&[]), line(&[("3.jpg", 0)]), line(&[("0.jpg", 2)]), line(&[("9.jpg", 0), ("0.jpg", 0)])];
    let lost =
        "{\"text_list\": [], \"image_info\": []}\n{\"text_list\": [null], \"image_info\": []}\n{\"text\": \"x\"}\n";
    fs::write(root.join("b/d.jsonl"), lines.concat() + lost).unwrap();
    let read = read_with(root, None, &ReadOptions::default());
    assert_eq!(shown(&read.samples[0]), ["<image 0.jpg 2>", "s", "<image 1.jpg 3>", "<image 2.jpg 4>", "t"]);
    assert_eq!(shown(&read.samples[1]), ["s", "t"]);
    use SkipReason::{BrokenRecord, MissingFile, NoPart};
    let skips: Vec<_> = read.skips.iter().map(|(_, skip)| skip.reason).collect();
    assert_eq!(skips, [MissingFile, BrokenRecord, MissingFile, NoPart, BrokenRecord, BrokenRecord]);
    assert_eq!(read.ignored, ["a/0.jpg", "x/3.jpg", "y/3.jpg"]);

    fs::write(root.join("z.jsonl"), b"PK\x03\x04 and more").unwrap();
    let zip = readers::open(&root.join("z.jsonl"), Some(Format::Mmc4), &ReadOptions::default()).unwrap();
    assert!(
        matches!(&read_units(&*zip, 0..1).errors[..], [DataError::Damaged { reason, .. }] if reason.contains("zip"))
    );
    fs::rename(root.join("z.jsonl"), root.join("z.jsonl.zip")).unwrap();
    let zip = readers::open(&root.join("z.jsonl.zip"), Some(Format::Mmc4), &ReadOptions::default());
    assert!(matches!(zip, Err(DataError::Damaged { reason, .. }) if reason.contains("zip")));
}

#[test]
fn long_texts_are_cut_at_paragraphs_and_stay_whole() {
    let folder = tempfile::tempdir().unwrap();
    let mut text = String::from("\u{feff}");
    while text.len() < 40 * MIB {
        text.push_str(&"A line of a paragraph \u{1f989}.\r\n".repeat(1 + text.len() % 40));
        text.push_str("\r\n");
    }
    fs::write(folder.path().join("long.txt"), &text).unwrap();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(text.as_bytes()).unwrap();
    fs::write(folder.path().join("long.txt.gz"), packed.finish().unwrap()).unwrap();
    fs::write(folder.path().join("unbroken.md"), "\u{1f989}".repeat(5 * MIB)).unwrap();
    let read = read(folder.path(), Format::Text);
    for (file, stem, whole) in [("long.txt", "long", &text[3..]), ("long.txt.gz", "long", &text[3..])] {
        let stretches: Vec<_> = read.samples.iter().filter(|sample| sample.place.file == file).collect();
        assert_eq!(stretches.len(), 3);
        for (row, stretch) in stretches.iter().enumerate() {
            assert_eq!(stretch.key, format!("{stem}:{row}"));
            assert_eq!(stretch.place.row, Some(row as u64));
            assert_eq!(stretch.group.as_deref(), Some(stem));
            assert!(text_of(stretch).len() <= 16 * MIB && text_of(stretch).ends_with("\r\n\r\n"));
        }
        assert!(stretches.iter().map(|sample| text_of(sample)).collect::<String>() == whole);
    }
    let unbroken: Vec<_> =
        read.samples.iter().filter(|sample| sample.place.file == "unbroken.md").map(text_of).collect();
    assert!(unbroken.len() == 2 && unbroken[0].len() == 16 * MIB && unbroken.concat() == "\u{1f989}".repeat(5 * MIB));
    assert_eq!(found(&read), counts(&[("md", 1), ("txt", 1), ("txt.gz", 1)]));
}

#[test]
fn texts_that_cannot_be_read_are_skipped_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let packed = fs::read(fixtures("text/two-members.jsonl.gz")).unwrap();
    let files: [(&str, &[u8]); 8] = [
        ("1.txt", b""),
        ("2.txt", b"\xff\xfeh\0i\0"),
        ("3.v2.txt", b"latin \xe9"),
        ("4.txt.gz", &packed[..packed.len() / 3]),
        ("5.txt.gz", b"not compressed"),
        ("6.TXT", b"\xef\xbb\xbfupper"),
        ("7.csv", b"a,b"),
        ("sub/8.text", b"below"),
    ];
    fs::create_dir(folder.path().join("sub")).unwrap();
    files.iter().for_each(|(name, bytes)| fs::write(folder.path().join(name), bytes).unwrap());
    let reader = readers::open(folder.path(), None, &ReadOptions::default()).unwrap();
    let units: Vec<_> = reader.units().iter().map(|unit| unit.name.as_str()).collect();
    assert_eq!(units, ["1.txt and 5 more", "sub/8.text"]);
    let read = read_units(&*reader, 0..2);
    let given: Vec<_> = read.samples.iter().map(|sample| (sample.key.as_str(), text_of(sample))).collect();
    assert_eq!(given, [("1", ""), ("5", "not compressed"), ("6", "upper"), ("sub/8", "below")]);
    let skips: Vec<_> = read.skips.iter().map(|(key, skip)| (key.as_str(), skip.reason)).collect();
    assert_eq!(skips, ["2", "3.v2", "4"].map(|key| (key, SkipReason::BrokenText)));
    assert_eq!(found(&read), counts(&[("csv", 1), ("text", 1), ("txt", 4), ("txt.gz", 2)]));
}

#[test]
fn zstd_frames_without_data_are_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let frames = fs::read(fixtures("text/two-frames.jsonl.zst")).unwrap();
    let empty = b"\x53\x2a\x4d\x18\x05\0\0\0empty";
    for (name, bytes) in [("a", [&frames[..], empty].concat()), ("b", [empty, &frames[..]].concat())] {
        let path = folder.path().join(format!("{name}.jsonl.zst"));
        fs::write(&path, bytes).unwrap();
        let read = read(&path, Format::Jsonl);
        assert_eq!((read.samples.len(), read.errors.len()), (8, 0), "{name}");
    }
    let path = folder.path().join("c.jsonl.zst");
    fs::write(&path, [&frames[..], &empty[..10]].concat()).unwrap();
    let read = read(&path, Format::Jsonl);
    assert_eq!((read.samples.len(), read.errors.len()), (8, 1));
}

/// A small generator of random numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % n.max(1)
    }

    /// Flips, cuts, repeats, removes or overwrites something.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..1 + self.below(3) {
            let at = self.below(bytes.len());
            let end = (at + 1 + self.below(40)).min(bytes.len());
            match self.below(6) {
                _ if bytes.is_empty() => bytes.push(self.below(256) as u8),
                0 | 1 => bytes[at] ^= 1 << self.below(8),
                2 => bytes[at] = self.below(256) as u8,
                3 => bytes.truncate(at),
                4 => drop(bytes.drain(at..end)),
                _ => {
                    let stretch = bytes[at..end].to_vec();
                    let to = self.below(bytes.len());
                    drop(bytes.splice(to..to, stretch));
                }
            }
        }
    }
}

fn n_mutations() -> usize {
    std::env::var("MOM_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(300)
}

/// Lines that are not blank.
fn n_lines(bytes: &[u8]) -> u64 {
    let lines = bytes.split(|&byte| byte == b'\n');
    lines.filter(|line| !line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line).trim_ascii().is_empty()).count() as u64
}

#[test]
fn damaged_text_files_lose_nothing_else() {
    let mut random = Random(1);
    let folder = tempfile::tempdir().unwrap();
    let book = fs::read(fixtures("text/books/oz.txt")).unwrap();
    let zstd = fs::read(fixtures("text/two-frames.jsonl.zst")).unwrap();
    let gzip = fs::read(fixtures("text/two-members.jsonl.gz")).unwrap();
    fs::write(folder.path().join("z.txt"), "good").unwrap();
    for _ in 0..n_mutations() {
        for (name, original) in [("a.txt", &book), ("b.txt.gz", &gzip), ("c.txt.zst", &zstd)] {
            let mut bytes = original.clone();
            random.mutate(&mut bytes);
            fs::write(folder.path().join(name), &bytes).unwrap();
        }
        let read = read(folder.path(), Format::Text);
        assert!(read.errors.is_empty(), "{:?}", read.errors);
        assert_eq!(found(&read), counts(&[("txt", 2), ("txt.gz", 1), ("txt.zst", 1)]));
        assert_eq!(read.samples.last().map(text_of), Some("good"));
    }
}

#[test]
fn damaged_lines_lose_nothing_else() {
    let mut random = Random(2);
    let folder = tempfile::tempdir().unwrap();
    let plain = fs::read(fixtures("text/docs.jsonl")).unwrap();
    let zstd = fs::read(fixtures("text/two-frames.jsonl.zst")).unwrap();
    let gzip = fs::read(fixtures("text/two-members.jsonl.gz")).unwrap();
    for _ in 0..n_mutations() {
        let mut bytes = plain.clone();
        random.mutate(&mut bytes);
        fs::write(folder.path().join("a.jsonl"), &bytes).unwrap();
        let lines = n_lines(&bytes);
        for (name, original) in [("b.jsonl.gz", &gzip), ("c.jsonl.zst", &zstd)] {
            let mut bytes = original.clone();
            random.mutate(&mut bytes);
            fs::write(folder.path().join(name), &bytes).unwrap();
        }
        let read = read(folder.path(), Format::Jsonl);
        assert!(read.errors.len() <= 2 && read.errors.iter().all(|error| matches!(error, DataError::Damaged { .. })));
        assert_eq!(read.tally.items.get("jsonl").map_or(0, |counts| counts.found), lines);
        assert_eq!(read.tally.found() as usize, read.samples.len() + read.skips.len());
    }
}

#[test]
fn damaged_documents_of_mmc4_lose_nothing_else() {
    let mut random = Random(3);
    let folder = tempfile::tempdir().unwrap();
    copy(&fixtures("mmc4-jsonl"), folder.path());
    let path = folder.path().join("docs_shard_0_v3.jsonl");
    let original = fs::read(&path).unwrap();
    let n_pictures = fs::read_dir(folder.path().join("images")).unwrap().count() as u64;
    for _ in 0..n_mutations() {
        let mut bytes = original.clone();
        random.mutate(&mut bytes);
        fs::write(&path, &bytes).unwrap();
        let read = read(folder.path(), Format::Mmc4);
        assert!(read.errors.is_empty(), "{:?}", read.errors);
        assert_eq!(read.tally.items.get("jsonl").map_or(0, |counts| counts.found), n_lines(&bytes));
        // A line that is doubled names its pictures twice.
        let pictures = read.tally.items["jpg"].found + read.tally.items["png"].found;
        assert!(pictures >= n_pictures);
    }
}
