//! Clips and transcripts in the layout of LibriSpeech, whole and without each other.

use mom_data::readers::{Format, ReadOptions, SkipReason, open};

use crate::formats::{expected, formats};
use crate::found::{audio, check_parts, read, read_with, write};
use crate::outcomes::text;

#[test]
fn librispeech_gives_what_is_expected() {
    let root = formats("librispeech");
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
