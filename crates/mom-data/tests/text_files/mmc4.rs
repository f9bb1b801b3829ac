//! Documents of MMC4: sentences and pictures in their order, and where the pictures are looked for.

use std::fs;

use mom_data::DataError;
use mom_data::readers::{self, Format, PartOrder, ReadOptions, SkipReason};
use serde_json::json;

use crate::formats::{expected, formats};
use crate::given::{copy, read_units, read_with, shown};

#[test]
fn every_document_of_mmc4_is_interleaved() {
    let folder = tempfile::tempdir().unwrap();
    copy(&formats("mmc4-jsonl"), folder.path());
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
