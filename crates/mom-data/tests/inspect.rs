//! Every sample folder gives what its `expected.jsonl` says, through `inspect`: sizes, seconds and texts exactly, means of
//! colours within 1.5, loudness within 2 %.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "common/formats.rs"]
mod formats;

use std::path::Path;

use formats::{expected, formats};
use mom_data::SourceConfig;
use mom_data::inspect::inspect;
use serde_json::Value;

fn lines(bytes: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(bytes).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn seen(path: &Path) -> Vec<Value> {
    let mut out = Vec::new();
    let report = inspect(&SourceConfig::at(path), u64::MAX, |line| line.write_json(&mut out).unwrap()).unwrap();
    let tally = report.tally();
    for (ending, counts) in &tally.items {
        assert_eq!(counts.found, counts.used + counts.skipped + counts.ignored, "{ending}");
    }
    let seen = lines(&out);
    assert_eq!(seen.len() as u64, tally.found());
    seen
}

/// Compares what `expected` says of a medium; `Null` is nothing.
fn same_medium(expected: &Value, seen: &Value, context: &str) {
    if expected.is_null() {
        assert!(seen.is_null(), "{context}: {seen}");
        return;
    }
    for name in ["width", "height", "sample_rate", "channels"] {
        if let Some(value) = expected.get(name) {
            assert_eq!(value, &seen[name], "{context}: {name}");
        }
    }
    if let Some(mean) = expected.get("mean_rgb") {
        for (a, b) in mean.as_array().unwrap().iter().zip(seen["mean_rgb"].as_array().unwrap()) {
            assert!((a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1.5, "{context}: {mean} {seen}");
        }
    }
    if let Some(frames) = expected.get("frames") {
        let name = expected.get("name").and_then(Value::as_str).unwrap_or_default();
        // Vorbis: decoders trim the last packet differently.
        let vorbis =
            name.ends_with("ogg") || context.ends_with("ogg") || seen["name"].as_str().unwrap().ends_with("ogg");
        let (frames, got) = (frames.as_u64().unwrap(), seen["frames"].as_u64().unwrap());
        assert!(frames.abs_diff(got) <= if vorbis { 2048 } else { 0 }, "{context}: {frames} frames, {got}");
        let (rms, got) = (expected["rms"].as_f64().unwrap(), seen["rms"].as_f64().unwrap());
        let tolerance = if vorbis { 0.0072 + 0.02 * rms } else { 0.02 * rms };
        assert!((rms - got).abs() <= tolerance, "{context}: rms {rms}, {got}");
    }
}

fn same(expected: &Value, seen: &Value) {
    let context = expected["key"].to_string();
    assert!(seen.get("error").is_none(), "{context}: {seen}");
    if let Some(text) = expected.get("text") {
        let missing = text.is_null() && seen["text"].is_null();
        let empty = text.as_str() == Some("") && seen["text"].as_str().unwrap_or_default().is_empty();
        assert!(missing || empty || text == &seen["text"], "{context}: {text} {}", seen["text"]);
    }
    for medium in ["image", "audio"] {
        if let Some(value) = expected.get(medium) {
            same_medium(value, &seen[medium], &context);
        }
    }
    if let Some(sequence) = expected.get("sequence").and_then(Value::as_array) {
        let got = seen["sequence"].as_array().unwrap();
        assert_eq!(sequence.len(), got.len(), "{context}");
        for (a, b) in sequence.iter().zip(got) {
            assert_eq!(a.get("text"), b.get("text"), "{context}");
            if let Some(image) = a.get("image") {
                same_medium(image, &b["image"], &context);
            }
        }
    }
}

/// The samples of a folder, found by key and file where several files have the key.
fn check(folder: &str, roots: &[&str]) {
    let seen: Vec<(String, Value)> = roots
        .iter()
        .flat_map(|root| seen(&formats(folder).join(root)).into_iter().map(move |line| ((*root).to_owned(), line)))
        .collect();
    let expected = expected(folder);
    assert_eq!(seen.len(), expected.len(), "{folder}");
    for line in &expected {
        let place = ["shard", "file"].iter().find_map(|name| line.get(*name)?.as_str()).unwrap_or_default();
        let matches = |(root, seen): &&(String, Value)| {
            let at = seen.get("shard").or(seen.get("file")).and_then(Value::as_str).unwrap_or_default();
            let whole = format!("{root}/{at}");
            let same_place = line.get("shard").is_none() || whole.trim_start_matches("./").ends_with(place);
            seen["key"] == line["key"] && same_place && line.get("row").is_none_or(|row| *row == seen["row"])
        };
        let (_, found) = seen.iter().find(matches).unwrap_or_else(|| panic!("{folder}: {line}"));
        same(line, found);
    }
}

#[test]
fn webdataset() {
    check("webdataset-img2dataset", &["."]);
    check("webdataset-writer", &["."]);
    check("webdataset-multipart", &["."]);
}

#[test]
fn folders() {
    check("loose-pairs", &["."]);
    check("hf-folder", &["imagefolder", "audiofolder"]);
    check("librispeech", &["LibriSpeech"]);
}

#[test]
fn tables() {
    check("hf-parquet", &["datasets", "img2dataset", "key-jpg-txt"]);
    check("obelics-parquet", &["."]);
}

#[test]
fn limits_and_summaries() {
    let one = formats("webdataset-writer/clips-000000.tar");
    let mut summary = Vec::new();
    inspect(&SourceConfig::at(one), 5, |_| {}).unwrap().write_json(&mut summary).unwrap();
    assert_eq!(lines(&summary)[0]["summary"]["complete"], Value::Bool(false), "5 of 6 in one unit");
    let path = formats("loose-pairs");
    let mut out = Vec::new();
    let report = inspect(&SourceConfig::at(&path), 3, |line| line.write_json(&mut out).unwrap()).unwrap();
    assert_eq!(lines(&out).len(), 3);
    let mut summary = Vec::new();
    report.write_json(&mut summary).unwrap();
    let summary = &lines(&summary)[0]["summary"];
    assert_eq!((&summary["found"], &summary["format"]), (&Value::from(3), &Value::from("loose")));
    assert_eq!(summary["complete"], Value::Bool(false));
    let mut table = Vec::new();
    report.write_table(&mut table).unwrap();
    assert!(String::from_utf8(table).unwrap().contains("not read to the end"));
}
