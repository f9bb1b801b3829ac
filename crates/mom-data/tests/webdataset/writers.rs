//! Shards as known writers make them (img2dataset, the webdataset library, interleaved documents, arrays of codes) give what is
//! expected of them.

use std::fs;

use mom_data::Modality;
use mom_data::readers::{Outcome, Part, PartOrder, Picture};
use serde_json::{Value, json};

use crate::archive::count_members;
use crate::formats::{expected, formats};
use crate::given::{Given, media, read};
use crate::outcomes::text;

/// Compares samples, in their order, with expected ones by key, shard, text and names.
fn compare(given: &Given, expected: &[Value]) {
    let samples = given.samples();
    assert_eq!(samples.len(), expected.len());
    assert_eq!((given.skipped().len(), given.errors.len()), (0, 0), "{:?} {:?}", given.skipped(), given.errors);
    for (sample, expected) in samples.into_iter().zip(expected) {
        assert_eq!(sample.key, expected["key"]);
        assert_eq!(sample.place.file, *expected.get("shard").unwrap_or(&expected["file"]));
        assert_eq!(sample.group, None);
        if let Some(sequence) = expected.get("sequence") {
            assert_eq!(sample.order, PartOrder::Fixed);
            let steps: Vec<Value> = sample
                .parts
                .iter()
                .map(|part| match part {
                    Part::Text(text) => json!({"text": text}),
                    Part::Image(Picture::File { name, bytes }) if bytes.len() > 100 => json!({"image": name}),
                    other => panic!("{other:?}"),
                })
                .collect();
            let name = |step: &Value| match step.get("image") {
                Some(image) => json!({"image": image["name"]}),
                None => step.clone(),
            };
            let wanted: Vec<Value> = sequence.as_array().unwrap().iter().map(name).collect();
            assert_eq!(steps, wanted, "{}", sample.key);
            continue;
        }
        assert_eq!(sample.order, PartOrder::Free);
        assert_eq!(text(sample), expected["text"].as_str(), "{}", sample.key);
        let media = media(sample);
        for kind in ["image", "audio"] {
            let wanted = expected.get(kind).and_then(|value| value["name"].as_str());
            assert_eq!(media.get(kind).map(|(name, _)| *name), wanted, "{} {kind}", sample.key);
            assert!(media.get(kind).is_none_or(|(_, bytes)| bytes.len() > 100));
        }
    }
}

#[test]
fn img2dataset_shards_are_read_as_they_are() {
    let given = read(&formats("webdataset-img2dataset"));
    compare(&given, &expected("webdataset-img2dataset"));
    assert_eq!(given.ignored().len(), 0);
    for sample in given.samples() {
        let mut items = sample.items.clone();
        items.sort();
        assert_eq!(items.len(), 3, "{items:?}");
        assert!(items.contains(&"json".to_owned()) && items.contains(&"txt".to_owned()));
    }
    let mut outside: Vec<&str> = given
        .outside
        .iter()
        .map(|outcome| if let Outcome::Ignored { ending, .. } = outcome { &ending[..] } else { panic!("{outcome:?}") })
        .collect();
    outside.sort_unstable();
    assert_eq!(
        outside,
        ["json", "json", "json", "json", "json", "jsonl", "parquet", "parquet", "parquet", "parquet", "parquet"]
    );
}

#[test]
fn writer_shards_are_read_compressed_and_plain() {
    let given = read(&formats("webdataset-writer"));
    compare(&given, &expected("webdataset-writer"));
    let tally = given.tally();
    assert_eq!(tally.items["npy"].ignored, 24);
    assert_eq!(tally.items["cls"].ignored, 24);
    assert_eq!(tally.items["json"].used, 24);
    assert_eq!(tally.n_ignored(), 48);
    let plain = ["clips-000000.tar", "clips-000001.tar"].map(|name| formats("webdataset-writer").join(name));
    for path in plain {
        assert_eq!(read(&path).items(), count_members(&fs::read(path).unwrap()));
    }
}

#[test]
fn multipart_documents_are_interleaved() {
    let given = read(&formats("webdataset-multipart"));
    compare(&given, &expected("webdataset-multipart"));
    assert_eq!(given.ignored(), [""; 0]);
    for shard in ["list", "parallel", "typed"] {
        let path = formats("webdataset-multipart/shards").join(format!("{shard}-000.tar"));
        assert_eq!(read(&path).items(), count_members(&fs::read(path).unwrap()));
    }
}

#[test]
fn arrays_of_codes_are_parts() {
    let given = read(&formats("megatron/codes"));
    let mut expected = expected("megatron");
    expected.retain(|value| value["file"] == "codes/codes-000000.tar");
    assert_eq!(given.samples().len(), expected.len());
    for (sample, expected) in given.samples().into_iter().zip(&expected) {
        assert_eq!(sample.key, expected["key"]);
        assert_eq!(text(sample), expected["text"].as_str());
        for (modality, name) in [(Modality::Image, "image"), (Modality::Speech, "speech")] {
            let codes = sample.parts.iter().find_map(|part| match part {
                Part::Codes { modality: this, shape, values } if *this == modality => Some(json!([shape, values])),
                _ => None,
            });
            let wanted = &expected[name];
            let wanted = (!wanted.is_null()).then(|| json!([wanted["shape"], wanted["codes"]]));
            assert_eq!(codes, wanted, "{} {name}", sample.key);
        }
    }
    assert_eq!(given.items(), 28);
    assert_eq!(given.tally().n_ignored(), 0);
}
