//! A text file is a document: whole, cut at paragraphs where it is long, or skipped.

use std::fs;
use std::io::Write;

use mom_data::readers::{self, Format, ReadOptions, SkipReason};

use crate::formats::{expected, formats};
use crate::given::{MIB, check, copy, counts, found, read, read_units, text_of};

#[test]
fn every_book_is_a_document() {
    let folder = tempfile::tempdir().unwrap();
    copy(&formats("text"), folder.path());
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
    let packed = fs::read(formats("text/two-members.jsonl.gz")).unwrap();
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
