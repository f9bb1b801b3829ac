//! A line of a JSON lines file is a document: plain and compressed, with files that it names, or skipped.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use mom_data::SourceConfig;
use mom_data::readers::{self, Format, PartOrder, ReadOptions, SkipReason};
use serde_json::{Value, json};

use crate::formats::{expected, formats};
use crate::given::{Given, MIB, check, copy, counts, found, read, read_units, read_with, shown, text_of};

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

#[test]
fn every_line_is_a_document() {
    let folder = tempfile::tempdir().unwrap();
    copy(&formats("text"), folder.path());
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
fn zstd_frames_without_data_are_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let frames = fs::read(formats("text/two-frames.jsonl.zst")).unwrap();
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

/// As an interrupted copy leaves it.
#[test]
fn an_empty_file_with_a_compressed_name_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.jsonl"), "{\"text\": \"one\"}\n").unwrap();
    for name in ["b.jsonl.gz", "b.jsonl.zst"] {
        let path = folder.path().join(name);
        fs::write(&path, "").unwrap();
        let told = match mom_data::inspect::inspect(&SourceConfig::at(folder.path()), 9, |_| {}) {
            Ok(report) => report.damaged().concat(),
            Err(error) => error.to_string(),
        };
        assert!(told.contains(name) && told.contains("it is empty"), "{told}");
        fs::remove_file(path).unwrap();
    }
}
