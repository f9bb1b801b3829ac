//! WebDataset shards of several writers, whole and damaged.
//!
//! `cases/webdataset` holds small archives of GNU tar 1.34 and Python's tarfile; `formats` real ones with their values.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use mom_data::readers::{
    self, Format, Outcome, Part, PartOrder, Picture, ReadOptions, Sample, SkipReason, Sound, Tally,
};
use mom_data::{DataError, Modality};
use serde_json::{Value, json};

/// All that a source gives.
#[derive(Debug, Default, PartialEq)]
struct Given {
    outcomes: Vec<Outcome>,
    /// What `ignored` tells.
    outside: Vec<Outcome>,
    errors: Vec<String>,
}

impl Given {
    fn samples<'a>(&'a self) -> Vec<&'a Sample> {
        let sample = |outcome: &'a Outcome| if let Outcome::Sample(sample) = outcome { Some(sample) } else { None };
        self.outcomes.iter().filter_map(sample).collect()
    }

    fn sample(&self, key: &str) -> &Sample {
        self.samples().into_iter().find(|sample| sample.key == key).unwrap_or_else(|| panic!("no {key} in {self:#?}"))
    }

    fn skipped<'a>(&'a self) -> Vec<(&'a str, SkipReason, &'a str, &'a [String])> {
        let skipped = |outcome: &'a Outcome| match outcome {
            Outcome::Skipped { key, skip, items, .. } => Some((&key[..], skip.reason, &skip.detail[..], &items[..])),
            _ => None,
        };
        self.outcomes.iter().filter_map(skipped).collect()
    }

    fn ignored<'a>(&'a self) -> Vec<&'a str> {
        let ending =
            |outcome: &'a Outcome| if let Outcome::Ignored { ending, .. } = outcome { Some(&ending[..]) } else { None };
        self.outcomes.iter().filter_map(ending).collect()
    }

    fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for outcome in &self.outcomes {
            match outcome {
                Outcome::Sample(sample) => tally.used(&sample.items),
                Outcome::Skipped { key, place, items, skip } => tally.skipped(&place.file, key, items, skip),
                Outcome::Ignored { ending, name } => tally.ignored(ending, name),
            }
        }
        tally
    }

    fn items(&self) -> u64 {
        self.tally().items.values().map(|counts| counts.found).sum()
    }

    fn error(&self) -> &str {
        assert_eq!(self.errors.len(), 1, "{self:#?}");
        &self.errors[0]
    }
}

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path)
}

fn read_with(path: &Path, options: &ReadOptions) -> Given {
    let reader = readers::open(path, Some(Format::Webdataset), options).unwrap();
    let mut given = Given { outside: reader.ignored().to_vec(), ..Given::default() };
    for unit in 0..reader.units().len() {
        let mut sink = |outcome| {
            given.outcomes.push(outcome);
            ControlFlow::Continue(())
        };
        match reader.read(unit, &mut sink) {
            Ok(()) => {}
            Err(error @ DataError::Damaged { .. }) => {
                let text = error.to_string();
                assert!(!text.contains(|c: char| c.is_control()), "{text:?}");
                given.errors.push(text);
            }
            Err(error) => panic!("{error}"),
        }
    }
    given
}

fn read(path: &Path) -> Given {
    read_with(path, &ReadOptions::default())
}

fn read_bytes_as(name: &str, bytes: &[u8], options: &ReadOptions) -> Given {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(name), bytes).unwrap();
    read_with(folder.path(), options)
}

fn read_bytes(bytes: &[u8]) -> Given {
    read_bytes_as("a.tar", bytes, &ReadOptions::default())
}

fn text(sample: &Sample) -> Option<&str> {
    sample.parts.iter().find_map(|part| if let Part::Text(text) = part { Some(&text[..]) } else { None })
}

fn media<'a>(sample: &'a Sample) -> BTreeMap<&'static str, (&'a str, &'a [u8])> {
    let file = |part: &'a Part| match part {
        Part::Image(Picture::File { name, bytes }) => Some(("image", (&name[..], &bytes[..]))),
        Part::Audio(Sound::File { name, bytes }) => Some(("audio", (&name[..], &bytes[..]))),
        _ => None,
    };
    sample.parts.iter().filter_map(file).collect()
}

/// A header block; `size` stands in it whatever follows.
fn header(name: &[u8], flag: u8, size: u64, link: &str) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(tar::EntryType::new(flag));
    header.set_size(size);
    header.set_mode(0o644);
    header.set_link_name_literal(link).unwrap();
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn member(name: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = header(name.as_bytes(), b'0', data.len() as u64, "");
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn end() -> Vec<u8> {
    vec![0; 1024]
}

fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes: Vec<u8> = members.iter().flat_map(|(name, data)| member(name, data)).collect();
    bytes.extend(end());
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// Members of a tar archive, by another reader: all but headers that speak of all members.
fn count_members(bytes: &[u8]) -> u64 {
    let mut archive = tar::Archive::new(bytes);
    archive.set_ignore_zeros(true);
    let entries = archive.entries().unwrap().map(Result::unwrap);
    entries.filter(|entry| entry.header().as_old().linkflag != *b"g").count() as u64
}

fn expected(folder: &str) -> Vec<Value> {
    let lines = fs::read_to_string(here("formats").join(folder).join("expected.jsonl")).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

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
    let given = read(&here("formats/webdataset-img2dataset"));
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
    let given = read(&here("formats/webdataset-writer"));
    compare(&given, &expected("webdataset-writer"));
    let tally = given.tally();
    assert_eq!(tally.items["npy"].ignored, 24);
    assert_eq!(tally.items["cls"].ignored, 24);
    assert_eq!(tally.items["json"].used, 24);
    assert_eq!(tally.n_ignored(), 48);
    let plain = ["clips-000000.tar", "clips-000001.tar"].map(|name| here("formats/webdataset-writer").join(name));
    for path in plain {
        assert_eq!(read(&path).items(), count_members(&fs::read(path).unwrap()));
    }
}

#[test]
fn multipart_documents_are_interleaved() {
    let given = read(&here("formats/webdataset-multipart"));
    compare(&given, &expected("webdataset-multipart"));
    assert_eq!(given.ignored(), [""; 0]);
    for shard in ["list", "parallel", "typed"] {
        let path = here("formats/webdataset-multipart/shards").join(format!("{shard}-000.tar"));
        assert_eq!(read(&path).items(), count_members(&fs::read(path).unwrap()));
    }
}

#[test]
fn arrays_of_codes_are_parts() {
    let given = read(&here("formats/megatron/codes"));
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

#[test]
fn gnu_tar_with_links_folders_and_long_names() {
    for name in ["gnu-tar-gnu.tar", "gnu-tar-posix.tar"] {
        let path = here("cases/webdataset").join(name);
        let given = read(&path);
        assert_eq!(given.errors, [""; 0], "{name}");
        assert_eq!(given.items(), count_members(&fs::read(&path).unwrap()), "{name}");
        let long = format!("{}/{}", "folder-".repeat(20), "x".repeat(120));
        assert_eq!(text(given.sample(&long)), Some("A long way."));
        for (key, words) in [("plain/a", "A first one."), ("plain/b", "A hard link."), ("other/c", "A soft link.")] {
            let sample = given.sample(key);
            assert_eq!(text(sample), Some(words));
            assert_eq!(media(sample)["image"], ("jpg", &b"jpeg-a"[..]), "{name} {key}");
        }
        let lost: Vec<&str> = given.skipped().iter().map(|(key, ..)| *key).collect();
        assert_eq!(lost, ["other/d", "other/e", "other/f", "other/g"]);
        let words = ["not in the archive", "out of the archive", "in a circle", "in a circle"];
        for ((key, reason, detail, items), words) in given.skipped().into_iter().zip(words) {
            assert_eq!(reason, SkipReason::UnreadableMember);
            assert!(detail.contains(words), "{detail}");
            assert_eq!(items.len(), if key == "other/g" { 1 } else { 2 });
        }
        let ignored = given.ignored();
        let count = |ending| ignored.iter().filter(|this| **this == ending).count();
        assert_eq!((count("(folder)"), count("(special)"), count("(hidden)"), count("(none)")), (4, 1, 1, 1));
    }
    for (name, n_items) in [("gnu-tar-ustar.tar", 7), ("gnu-tar-v7.tar", 5), ("gnu-tar-label.tar", 6)] {
        let path = here("cases/webdataset").join(name);
        let given = read(&path);
        assert_eq!((given.samples().len(), given.errors.len()), (2, 0), "{name}");
        assert!(given.samples().iter().all(|sample| sample.parts.len() == 2));
        assert_eq!(given.items(), n_items, "{name}");
    }
}

#[test]
fn python_tarfile_with_names_of_all_kinds() {
    for name in ["python-pax.tar", "python-gnu.tar", "python-ustar.tar"] {
        let path = here("cases/webdataset").join(name);
        let given = read(&path);
        assert_eq!((given.skipped().len(), given.errors.len()), (0, 0), "{name} {given:#?}");
        assert_eq!(given.items(), count_members(&fs::read(&path).unwrap()), "{name}");
        assert_eq!(text(given.sample("café")), Some("Café in UTF-8."));
        assert_eq!(text(given.sample("caf\\xe9")), Some("Acute in Latin-1."));
        assert_eq!(text(given.sample("caf\\xe8")), Some("Grave in Latin-1."));
        assert_eq!(media(given.sample("photo"))["image"], ("v2.jpg", &b"jpeg-photo"[..]));
        assert_eq!(media(given.sample("hard"))["image"], ("jpg", &b"jpeg-photo"[..]));
        assert_eq!(media(given.sample("late"))["image"], ("jpg", &b"jpeg-late"[..]));
        if name != "python-ustar.tar" {
            assert_eq!(text(given.sample(&"x".repeat(150))), Some("A long name."));
            assert_eq!(media(given.sample("z"))["image"], ("jpg", &b"jpeg-z"[..]));
        }
        let mut ignored = given.ignored();
        ignored.sort_unstable();
        assert_eq!(ignored, ["(folder)", "(special)", "(special)"]);
    }
}

#[test]
fn sparse_members_are_filled() {
    let mut wanted = vec![0; 12 * 65536 + 100];
    for piece in 0..12 {
        let at = piece * 65536;
        (at..at + 4096).for_each(|i| wanted[i] = format!("{piece:02}").as_bytes()[i % 2]);
    }
    for name in ["sparse-gnu.tar", "sparse-posix-0.0.tar", "sparse-posix-0.1.tar", "sparse-posix-1.0.tar"] {
        let given = read(&here("cases/webdataset").join(name));
        assert_eq!(given.errors, [""; 0], "{name}");
        assert_eq!(given.samples().len(), 2, "{name} {:?}", given.skipped());
        assert!(media(given.sample("a"))["audio"].1 == wanted, "{name}");
        assert_eq!(given.ignored(), ["(folder)"], "{name}");
        assert_eq!(given.items(), 5, "{name}");
    }
    // A hole of a terabyte is no reason to allocate one.
    let mut pax = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n37 GNU.sparse.realsize=1099511627776\n".to_vec();
    let mut bytes = header(b"x", b'x', pax.len() as u64, "");
    pax.resize(512, 0);
    bytes.extend(pax);
    bytes.extend(archive(&[("a.jpg", b"0\n"), ("b.txt", b"There.")]));
    let given = read_bytes(&bytes);
    assert_eq!(given.skipped()[0].1, SkipReason::UnreadableMember);
    assert_eq!(given.skipped()[0].2, "sparse member a.jpg");
    assert_eq!(given.samples().len(), 1);
}

#[test]
fn the_tar_crate_with_long_names_and_links() {
    let mut builder = tar::Builder::new(Vec::new());
    let long = format!("{}/{}.jpg", "d".repeat(120), "n".repeat(120));
    let mut add = |name: &str, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, data).unwrap();
    };
    add(&long, b"jpeg-long");
    add("k.txt", b"Linked.");
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Link);
    header.set_size(0);
    builder.append_link(&mut header, "k.jpg", &long).unwrap();
    let bytes = builder.into_inner().unwrap();
    let given = read_bytes(&bytes);
    assert_eq!(given.items(), count_members(&bytes));
    assert_eq!(media(given.sample("k"))["image"].1, b"jpeg-long");
    assert_eq!(media(given.sample(long.trim_end_matches(".jpg")))["image"].1, b"jpeg-long");
}

#[test]
fn hard_links_that_state_a_size_have_data_or_have_none() {
    let first = [member("a.jpg", b"jpeg-a"), header(b"b.jpg", b'1', 6, "a.jpg")].concat();
    let rest = archive(&[("b.txt", b"Linked."), ("c.txt", b"Behind.")]);
    for data in [&b""[..], &[&b"jpeg-a"[..], &[0; 506]].concat()] {
        let given = read_bytes(&[&first[..], data, &rest].concat());
        assert_eq!((given.errors.len(), given.samples().len()), (0, 3), "{given:#?}");
        assert_eq!(media(given.sample("b"))["image"].1, b"jpeg-a");
    }
}

#[test]
fn archives_end_to_end_are_read_on() {
    let (a, b) = (archive(&[("a.txt", b"One."), ("a.jpg", b"jpeg")]), archive(&[("b.txt", b"Two.")]));
    for between in [0, 1, 18] {
        let bytes = [&a[..], &vec![0; between * 512], &b].concat();
        let given = read_bytes(&bytes);
        assert_eq!((given.samples().len(), given.errors.len(), given.items()), (2, 0, 3));
    }
    // One zero block in the middle of a sample.
    let bytes = [member("a.txt", b"One."), vec![0; 512], member("a.jpg", b"jpeg"), end()].concat();
    assert_eq!(read_bytes(&bytes).samples()[0].items, ["txt", "jpg"]);
}

#[test]
fn a_key_that_comes_again_in_the_next_archive_is_another_sample() {
    let one = archive(&[("k.txt", b"One."), ("k.jpg", b"jpeg-1")]);
    let two = archive(&[("k.json", b"{}"), ("k.jpg", b"jpeg-2"), ("k.txt", b"Two."), ("m.txt", b"More.")]);
    let given = read_bytes(&[&one[..], &two, &one].concat());
    let told: Vec<_> =
        given.samples().iter().map(|sample| (&sample.key[..], sample.group.as_deref(), text(sample))).collect();
    let wanted = [
        ("k", None, Some("One.")),
        ("k (archive 2)", Some("k"), Some("Two.")),
        ("m", None, Some("More.")),
        ("k (archive 3)", Some("k"), Some("One.")),
    ];
    assert_eq!(told, wanted);
    // Texts in one archive, pictures in the next: one sample.
    let pictures = archive(&[("k.jpg", b"jpeg-1")]);
    let given = read_bytes(&[archive(&[("k.txt", b"One.")]), pictures].concat());
    assert_eq!(given.samples().len(), 1);
    assert_eq!(given.samples()[0].parts.len(), 2);
    // Within one archive nothing says which of the two is meant.
    let given = read_bytes(&archive(&[("k.txt", b"One."), ("k.txt", b"Two."), ("m.cls", b"1"), ("m.cls", b"1")]));
    assert_eq!(given.skipped()[0].1, SkipReason::DuplicatePart);
    assert_eq!(given.skipped()[0].3, ["txt", "txt"]);
    assert_eq!(given.ignored(), ["cls", "cls"]);
}

#[test]
fn damage_is_told_behind_what_is_whole() {
    let whole = archive(&[("a.txt", b"One."), ("a.jpg", &[7; 700]), ("b.txt", b"Two."), ("b.jpg", &[8; 700])]);
    let is_whole = |given: &Given| given.sample("a").parts.len() == 2;
    // In the middle of b.jpg; its sample is not whole.
    let given = read_bytes(&whole[..4700]);
    assert!(is_whole(&given) && given.samples().len() == 1, "{given:#?}");
    assert_eq!(given.skipped()[0].2, "member b.jpg is cut off");
    assert_eq!(given.items(), 4);
    assert!(given.error().contains("a.tar, at byte 4096: member b.jpg goes on to byte 4796"), "{}", given.error());
    // In a header.
    let given = read_bytes(&whole[..3700]);
    assert!(is_whole(&given) && given.error().contains("at byte 3584: a header is cut"), "{}", given.error());
    // Without an end, and with the last padding cut.
    for cut in [whole.len() - 1024, whole.len() - 1024 - 200] {
        let given = read_bytes(&whole[..cut]);
        assert!(is_whole(&given) && given.samples().len() == 2);
        assert!(given.error().contains("no end-of-archive block"), "{}", given.error());
    }
    // One block is an end, half a block is none.
    assert_eq!(read_bytes(&whole[..whole.len() - 512]).errors, [""; 0]);
    assert!(read_bytes(&whole[..whole.len() - 1024 + 256]).error().contains("no end-of-archive block"));
    // A flipped bit in a header.
    let mut flipped = whole.clone();
    flipped[2560 + 3] ^= 1;
    let given = read_bytes(&flipped);
    assert!(is_whole(&given) && given.error().contains("at byte 2560: no header"), "{}", given.error());
    // A size that no file has.
    let mut huge = header(b"h.jpg", b'0', 0, "");
    huge[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    let mut fixed = tar::Header::from_byte_slice(&huge).clone();
    fixed.set_cksum();
    let given = read_bytes(&[&whole[..whole.len() - 1024], fixed.as_bytes(), &end()[..]].concat());
    assert!(is_whole(&given) && given.error().contains("an impossible byte"), "{}", given.error());
    // Something behind the end.
    let given = read_bytes(&[&whole[..], &b"some words".repeat(60)].concat());
    assert!(is_whole(&given) && given.error().contains("what follows the end"), "{}", given.error());
}

#[test]
fn an_extended_header_is_for_a_member() {
    let pax = [&b"10 size=7\n"[..], &[0; 502]].concat();
    let bytes = [member("a.txt", b"One."), header(b"x", b'x', 10, ""), pax.clone(), end()].concat();
    let given = read_bytes(&bytes);
    assert_eq!(given.samples().len(), 1);
    assert!(given.error().contains("without the member"), "{}", given.error());
    // Its size counts, not the one in the header.
    let data = [&b"Seventy"[..], &[0; 505]].concat();
    let bytes = [header(b"x", b'x', 10, ""), pax, header(b"a.txt", b'0', 0, ""), data, end()].concat();
    assert_eq!(text(read_bytes(&bytes).sample("a")), Some("Seventy"));
    let bytes = [header(b"x", b'x', 1 << 40, ""), end()].concat();
    assert!(read_bytes(&bytes).error().contains("of a size that none has"));
}

#[test]
fn what_is_no_archive_is_named() {
    let cases: [(&[u8], &str); 9] = [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n",
            "a Git LFS pointer, not the archive itself",
        ),
        (b"PK\x03\x04 and more", "a zip archive"),
        (b"<!DOCTYPE html><title>404", "an HTML page"),
        (b"\n<HTML>", "an HTML page"),
        (b"<?xml version='1.0'?><Error>", "an XML document"),
        (b"{\"error\": 1}", "JSON"),
        (b"\x1b[31mRED\x1b[2J", "text, not an archive: \"\\u{1b}[31mRED"),
        (b"\x01\xff\x00binary", "not a tar archive: \"\\u{1}\\xff"),
        (b"", "the file is empty"),
    ];
    for (start, words) in cases {
        for fill in [0, 2000] {
            let mut bytes = start.to_vec();
            bytes.extend(vec![b'x'; if start.is_empty() { 0 } else { fill }]);
            let given = read_bytes(&bytes);
            assert_eq!(given.items(), 0);
            assert!(given.error().contains("a.tar, at byte 0: ") && given.error().contains(words), "{}", given.error());
        }
    }
    assert!(read_bytes(&gzip(b"<html>")).error().contains("at decompressed byte 0: an HTML page"));
}

#[test]
fn compressed_archives_are_told_by_their_bytes() {
    let tar = archive(&[("a.txt", b"One."), ("b.txt", b"Two.")]);
    let options = ReadOptions::default();
    let parts = [gzip(&tar[..1500]), gzip(&tar[1500..])].concat();
    for (name, bytes) in [("a.tar", gzip(&tar)), ("a.tgz", parts), ("b.tar.gz", tar.clone())] {
        let given = read_bytes_as(name, &bytes, &options);
        assert_eq!((given.samples().len(), given.errors.len()), (2, 0), "{name}");
    }
    // Noise does not shrink, so that the cut lies in the second member.
    let noise: Vec<u8> = (0..4000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let packed = gzip(&archive(&[("a.txt", b"One."), ("b.jpg", &noise)]));
    let given = read_bytes_as("a.tar.gz", &packed[..packed.len() / 2], &options);
    assert_eq!(text(given.sample("a")), Some("One."));
    assert!(given.error().contains("does not decompress further"), "{}", given.error());
    // A damaged checksum at the very end.
    let mut broken = packed.clone();
    let last = broken.len() - 6;
    broken[last] ^= 1;
    let given = read_bytes_as("a.tar.gz", &broken, &options);
    assert_eq!(given.samples().len(), 2);
    assert!(given.error().contains("does not decompress further"), "{}", given.error());
}

#[test]
fn a_bomb_is_refused() {
    let bomb = gzip(&archive(&[("a.wav", &vec![0; 60 << 20])]));
    assert!(bomb.len() < 200_000);
    let given = read_bytes_as("a.tar.gz", &bomb, &ReadOptions::default());
    assert_eq!(given.outcomes, []);
    assert!(given.error().contains("times as much"), "{}", given.error());
}

#[test]
fn two_pictures_need_a_sidecar() {
    let two: [(&str, &[u8]); 3] = [("x.input.jpg", b"jpeg-1"), ("x.target.jpg", b"jpeg-2"), ("x.cls", b"3")];
    let given = read_bytes(&archive(&two));
    let (key, reason, detail, items) = given.skipped()[0];
    assert_eq!((key, reason, detail), ("x", SkipReason::DuplicatePart, "input.jpg, target.jpg"));
    assert_eq!(items, ["input.jpg", "target.jpg"]);
    assert_eq!(given.ignored(), ["cls"]);
    let with = |json: &[u8]| read_bytes(&archive(&[two[0], two[1], two[2], ("x.json", json), ("x.txt", b"Aside.")]));
    let given = with(br#"["Before: ", "input.jpg"]"#);
    assert_eq!(given.samples()[0].items, ["input.jpg", "json"]);
    assert_eq!(given.ignored(), ["target.jpg", "cls", "txt"]);
    assert_eq!(given.items(), 5);
    let given = with(br#"[{"type": "image", "image": "other.jpg"}]"#);
    assert_eq!(given.skipped()[0].1, SkipReason::MissingFile);
    let given = with(br#"{"images": ["input.jpg"], "texts": []}"#);
    assert_eq!(given.skipped()[0].1, SkipReason::BrokenRecord);
    let given = with(b"{");
    assert_eq!((given.skipped()[0].1, given.skipped()[0].3.len()), (SkipReason::BrokenRecord, 4));
    let given = with(br#"["txt", "input.jpg", "txt"]"#);
    assert_eq!(given.skipped()[0].1, SkipReason::DuplicatePart);
}

#[test]
fn texts_come_from_members_and_sidecars() {
    let json = br#"{"caption": "Of the sidecar.", "long": "A long one.", "source": 17}"#;
    let bytes = archive(&[
        ("a.jpg", b"jpeg"),
        ("a.txt", b"\xef\xbb\xbfOf the member.\r\n"),
        ("a.json", json),
        ("b.jpg", b"jpeg"),
        ("b.json", json),
        ("c.txt", b"Alone."),
        ("c.json", b"{ broken"),
        ("d.jpg", b"jpeg"),
        ("d.json", b"{ broken"),
        ("e.txt", b"caf\xe9"),
        ("f.json", br#"{"status": "failed_to_download"}"#),
        ("g.TXT", b"Upper case."),
        ("h.json", br#"["cat", "dog"]"#),
        ("i.json", "[".repeat(100_000).as_bytes()),
    ]);
    let given = read_bytes(&bytes);
    assert_eq!(given.items(), 14);
    let told = |key| text(given.sample(key)).unwrap();
    assert_eq!((told("a"), told("b"), told("c")), ("Of the member.", "Of the sidecar.", "Alone."));
    assert_eq!((told("g"), told("h")), ("Upper case.", "cat"));
    assert_eq!(given.sample("a").items, ["jpg", "txt", "json"]);
    assert_eq!(given.ignored(), ["json"]);
    let reasons: Vec<_> = given.skipped().iter().map(|(key, reason, ..)| (*key, *reason)).collect();
    let wanted = [
        ("d", SkipReason::BrokenRecord),
        ("e", SkipReason::BrokenText),
        ("f", SkipReason::NoPart),
        ("i", SkipReason::BrokenRecord),
    ];
    assert_eq!(reasons, wanted);

    let options =
        ReadOptions { text_fields: vec!["long".into()], group_field: Some("source".into()), ..ReadOptions::default() };
    let given = read_bytes_as("a.tar", &bytes, &options);
    let a = given.sample("a");
    assert_eq!((text(a), a.group.as_deref()), (Some("A long one."), Some("17")));
    assert_eq!(a.items, ["jpg", "json"]);
    // The group of c is not known.
    assert!(given.skipped().iter().any(|(key, ..)| *key == "c"));
}

#[test]
fn arrays_come_before_files_and_broken_ones_are_skipped() {
    let npy = |kind: &str, data: &[u8]| {
        let head = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': (2,), }}");
        [&b"\x93NUMPY\x01\x00"[..], &(head.len() as u16).to_le_bytes(), head.as_bytes(), data].concat()
    };
    let given = read_bytes(&archive(&[
        ("a.image.npy", &npy("<f2", &[0, 0x3c, 0, 0xc0])),
        ("a.jpg", b"jpeg"),
        ("a.txt", b"Latents."),
        ("b.speech.npy", &npy("<i2", &[1, 0, 0xff, 0xff])),
        ("b.txt", b"A negative code."),
        ("c.img.npy", &npy("<u2", &[1, 0])),
        ("d.tokens.npy", &npy("<u4", &[1, 0, 0, 0, 2, 0, 0, 0])),
        ("e.audio.npy", &npy("<f4", &[0; 8])),
        ("f.image.npy", &npy("<f4", &[0, 0, 0xc0, 0x7f, 0, 0, 0, 0])),
        ("g.npy", b"anything"),
    ]));
    let latents = Part::Latents { shape: vec![2], values: vec![1.0, -2.0] };
    assert!(given.sample("a").parts.contains(&latents));
    assert_eq!(given.sample("a").items, ["image.npy", "txt"]);
    let codes = Part::Codes { modality: Modality::Text, shape: vec![2], values: vec![1, 2] };
    assert_eq!(given.sample("d").parts, [codes]);
    assert_eq!(given.ignored(), ["jpg", "npy"]);
    let broken: Vec<_> = given.skipped().iter().map(|(key, reason, ..)| (*key, *reason)).collect();
    assert_eq!(broken, ["b", "c", "e", "f"].map(|key| (key, SkipReason::BrokenArray)));
    assert_eq!(given.items(), 10);
}

#[test]
fn linked_shards_are_read_and_broken_links_told() {
    #[cfg(unix)]
    {
        let folder = tempfile::tempdir().unwrap();
        let (shards, elsewhere) = (folder.path().join("shards"), folder.path().join("elsewhere"));
        fs::create_dir_all(&shards).unwrap();
        fs::create_dir_all(&elsewhere).unwrap();
        fs::write(shards.join("a.tar"), archive(&[("a.txt", b"One.")])).unwrap();
        fs::write(elsewhere.join("b.tar"), archive(&[("b.txt", b"Two.")])).unwrap();
        std::os::unix::fs::symlink("../elsewhere", shards.join("part2")).unwrap();
        std::os::unix::fs::symlink("/nonexistent/gone.tar", shards.join("gone.tar")).unwrap();
        let given = read(&shards);
        assert_eq!(given.samples().len(), 2);
        assert_eq!(given.sample("b").place.file, "part2/b.tar");
        assert!(format!("{:?}", given.outside).contains("gone.tar (a link that leads nowhere)"));
    }
}

#[test]
fn a_sink_that_breaks_ends_the_reading() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    fs::write(&path, &archive(&[("a.txt", b"One."), ("b.txt", b"Two.")])[..2048]).unwrap();
    let reader = readers::open(&path, None, &ReadOptions::default()).unwrap();
    let mut n = 0;
    let mut sink = |_| {
        n += 1;
        ControlFlow::Break(())
    };
    assert!(reader.read(0, &mut sink).is_ok());
    assert_eq!(n, 1);
}

/// A small generator of its own, so that a failure can be repeated by its number.
struct Lcg(u64);

impl Lcg {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % below.max(1)
    }
}

/// Changes some bytes: anywhere, within headers with their checksums made right again, by a cut, or by a stretch repeated.
fn mutate(bytes: &mut Vec<u8>, lcg: &mut Lcg) {
    for _ in 0..1 + lcg.next(4) {
        if bytes.is_empty() {
            return;
        }
        let at = lcg.next(bytes.len());
        match lcg.next(8) {
            0 | 1 => bytes[at] ^= 1 << lcg.next(8),
            2 => bytes[at] = lcg.next(256) as u8,
            3 => bytes.truncate(at),
            4 => {
                let from = lcg.next(bytes.len());
                let len = lcg.next(2000).min(bytes.len() - from);
                let stretch = bytes[from..from + len].to_vec();
                bytes.splice(at..at, stretch);
            }
            _ => {
                let blocks = bytes.len() / 512;
                let is_header = |block: &usize| &bytes[block * 512 + 257..][..5] == b"ustar";
                let headers: Vec<usize> = (0..blocks).filter(is_header).collect();
                if headers.is_empty() {
                    continue;
                }
                let from = headers[lcg.next(headers.len())] * 512;
                let field = [0..100, 124..136, 156..157, 157..257, 345..500][lcg.next(5)].clone();
                let place = from + field.start + lcg.next(field.len());
                let kinds = b"01234567xgLKSDMVX\x00\xff/.";
                bytes[place] = if lcg.next(3) > 0 { kinds[lcg.next(kinds.len())] } else { lcg.next(256) as u8 };
                let mut header = tar::Header::from_byte_slice(&bytes[from..from + 512]).clone();
                header.set_cksum();
                bytes[from..from + 512].copy_from_slice(header.as_bytes());
            }
        }
    }
}

#[test]
fn mutated_archives_never_panic_and_lose_nothing() {
    let n_mutations = std::env::var("MOM_MUTATIONS").map_or(300, |n| n.parse().unwrap());
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for entry in fs::read_dir(here("cases/webdataset")).unwrap() {
        seeds.push(fs::read(entry.unwrap().path()).unwrap());
    }
    for name in
        ["webdataset-writer/packed.tar.gz", "webdataset-writer/packed.tar.zst", "megatron/codes/codes-000000.tar"]
    {
        seeds.push(fs::read(here("formats").join(name)).unwrap());
    }
    seeds.push(fs::read(here("formats/webdataset-multipart/shards/typed-000.tar")).unwrap());
    let small =
        archive(&[("a.json", br#"["text", "1.jpg", "2.jpg"]"#), ("a.1.jpg", b"j"), ("a.2.jpg", b"k"), ("b.txt", b"t")]);
    seeds.extend([gzip(&small), [&small[..], &small].concat()]);
    seeds.sort();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    let mut lcg = Lcg(20_240_601);
    let mut n_damaged = 0;
    for round in 0..n_mutations {
        let mut bytes = seeds[lcg.next(seeds.len())].clone();
        mutate(&mut bytes, &mut lcg);
        fs::write(&path, &bytes).unwrap();
        let given = read(&path);
        n_damaged += given.errors.len();
        let tally = given.tally();
        for (ending, counts) in &tally.items {
            assert_eq!(counts.found, counts.used + counts.skipped + counts.ignored, "round {round}: {ending}");
        }
        for outcome in &given.outcomes {
            match outcome {
                Outcome::Sample(sample) => {
                    assert!(!sample.items.is_empty() && !sample.parts.is_empty(), "round {round}")
                }
                Outcome::Skipped { items, .. } => assert!(!items.is_empty(), "round {round}"),
                Outcome::Ignored { ending, .. } => assert!(!ending.is_empty(), "round {round}"),
            }
        }
        // Another reader that comes to the end finds as many members.
        if given.errors.is_empty() && !bytes.starts_with(&[0x1f, 0x8b]) && !bytes.starts_with(&[0x28, 0xb5]) {
            let mut archive = tar::Archive::new(&bytes[..]);
            archive.set_ignore_zeros(true);
            let theirs: Option<Vec<_>> = archive.entries().unwrap().map(Result::ok).collect();
            if let Some(theirs) = theirs
                && theirs.iter().all(|entry| matches!(entry.header().as_old().linkflag[0], 0 | b'0' | b'S'))
            {
                assert_eq!(given.items(), theirs.len() as u64, "round {round}");
            }
        }
        assert_eq!(read(&path), given, "round {round}");
    }
    assert!(n_damaged > 0 && n_damaged < n_mutations);
}
