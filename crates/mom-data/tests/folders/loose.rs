//! Loose files that belong together by their names: pairs, sidecars, links, and what cannot be used.

use std::path::Path;

use mom_data::Result;
use mom_data::readers::{Format, ReadOptions, SkipReason, open};
use serde_json::Value;

use crate::files::files_below;
use crate::formats::{cases, expected, formats};
use crate::found::{audio, check_parts, image, read, write};
use crate::outcomes::text;

#[test]
fn loose_pairs_give_what_is_expected() {
    let root = formats("loose-pairs");
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
    assert_eq!(found.n_items(), files_below(&root).len() as u64);
}

#[test]
fn loose_formats_are_recognised() -> Result<()> {
    for (folder, format) in
        [("loose-pairs/sub", Format::Loose), ("hf-folder", Format::Metadata), ("librispeech", Format::Librispeech)]
    {
        assert_eq!(open(&formats(folder), None, &ReadOptions::default())?.format(), format);
    }
    assert_eq!(open(&cases("tuxpaint"), None, &ReadOptions::default())?.format(), Format::Tuxpaint);
    Ok(())
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
    assert_eq!(found.n_items(), files_below(root).len() as u64);

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
