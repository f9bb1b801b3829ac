//! Folders with a table of their files (`metadata.csv`, `metadata.jsonl`): every row is used, or told.

use mom_data::readers::{Format, ReadOptions, SkipReason, open};

use crate::files::files_below;
use crate::formats::{expected, formats};
use crate::found::{audio, check_parts, image, read, read_with, write};
use crate::outcomes::text;

#[test]
fn hf_folders_give_what_is_expected() {
    let root = formats("hf-folder");
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
    assert_eq!(found.n_items(), (files_below(&root).len() - 3 + expected.len()) as u64);
    assert_eq!(found.items()["csv"], 12);
    assert_eq!(found.items()["jsonl"], 15);

    let options = ReadOptions { group_field: Some("language".to_owned()), ..ReadOptions::default() };
    let found = read(&root.join("audiofolder/metadata.csv"), Format::Metadata, &options);
    assert_eq!(found.samples.len(), 12);
    assert_eq!(found.samples[1].group.as_deref(), Some("ru"));
    assert_eq!(found.n_items(), 24);
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
