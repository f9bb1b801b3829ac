//! Shards: written, resumed, read back; users' shards in all their forms; every kind of damage.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::path::Path;

use common::{ALL, config, options, png, tar, tone, wav};
use image::ExtendedColorType as Colour;
use mom_data::scenes::{self, ImageFormat, SceneConfig, WriteSummary, write_shards};
use mom_data::{Corpus, DataError, Dataset, ImageNeed, Needs, Recipe, SkipReason, SpeechNeed, Split, Tokenizers};

fn read_all(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn a_round_trip_gives_the_same_documents() {
    let folder = tempfile::tempdir().unwrap();
    for (name, image_format) in [("png", ImageFormat::Png), ("jpg", ImageFormat::Jpeg { quality: 90 })] {
        let options = scenes::ShardOptions { image_format, ..options(40) };
        let shards = common::write(&folder.path().join(name), &options);
        let corpus = Corpus::open(&shards).unwrap();
        assert_eq!((corpus.len(), corpus.shards().len()), (40, 3));
        for index in 0..40 {
            let sample = corpus.sample(index, &config(), ALL).unwrap().unwrap();
            let document = scenes::document(5, index as u64, &options.scene);
            assert_eq!(corpus.key(index), format!("{index:08}"));
            assert_eq!(sample.caption, document.caption);
            let image = sample.image.unwrap();
            let error: u32 =
                image.pixels.iter().zip(&document.image.pixels).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
            let allowed = if image_format == ImageFormat::Png { 0 } else { 10 * image.pixels.len() as u32 };
            assert!(error <= allowed, "{name} {index}: {error}");
            let speech = sample.speech.unwrap();
            assert_eq!(speech.len(), document.speech.len());
            assert!(speech.iter().zip(&document.speech).all(|(a, b)| (a - b).abs() < 1e-4));
        }
    }
}

#[test]
fn a_killed_write_is_taken_up_and_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let shards = common::write(folder.path(), &options(40));
    let whole = read_all(&shards);
    assert_eq!(whole.len(), 4);
    fs::remove_file(shards.join("shard-000002.tar")).unwrap();
    fs::write(shards.join(".shard-000002.tar.1.partial"), b"half").unwrap();
    let mut last = (0, 0);
    let summary = write_shards(&shards, &options(40), |done, total| last = (done, total)).unwrap();
    assert_eq!(summary, WriteSummary { kept: 2, written: 1 });
    assert_eq!(last, (40, 40));
    assert_eq!(read_all(&shards), whole);
    assert_eq!(write_shards(&shards, &options(40), |_, _| {}).unwrap(), WriteSummary { kept: 3, written: 0 });
}

#[test]
fn other_options_or_a_foreign_folder_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let shards = common::write(folder.path(), &options(20));
    let before = read_all(&shards);
    let error = write_shards(&shards, &options(21), |_, _| {}).unwrap_err();
    assert!(matches!(error, DataError::FolderInUse { .. }), "{error}");
    assert_eq!(read_all(&shards), before);
    let foreign = folder.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("thesis.txt"), "precious").unwrap();
    let error = write_shards(&foreign, &options(20), |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("thesis.txt"), "{error}");
    assert_eq!(read_all(&foreign).len(), 1);
}

#[test]
fn an_unwritable_target_is_a_clean_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = write_shards(&file, &options(4), |_, _| {}).unwrap_err();
    assert!(matches!(&error, DataError::Io { path, .. } if *path == file), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_nothing_half_written() {
    let folder = tempfile::tempdir().unwrap();
    let temporary = folder.path().join(format!(".shard-000000.tar.{}.partial", std::process::id()));
    std::os::unix::fs::symlink("/dev/full", &temporary).unwrap();
    let error = write_shards(folder.path(), &options(4), |_, _| {}).unwrap_err();
    assert!(matches!(&error, DataError::Io { path, .. } if path.ends_with("shard-000000.tar")), "{error}");
    assert!(error.to_string().contains("space"), "{error}");
    assert_eq!(read_all(folder.path()).len(), 1, "the manifest alone");
}

#[test]
fn missing_folder_and_missing_shards_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let error = Corpus::open(folder.path().join("nowhere")).unwrap_err();
    assert!(matches!(error, DataError::Io { .. }) && error.to_string().contains("nowhere"), "{error}");
    assert!(matches!(Corpus::open(folder.path()).unwrap_err(), DataError::NoShards { .. }));
    let shards = common::write(folder.path(), &options(40));
    let whole = Corpus::open(&shards).unwrap();
    fs::remove_file(shards.join("shard-000001.tar")).unwrap();
    let error = Corpus::open(&shards).unwrap_err();
    assert!(error.to_string().contains("the manifest counts 3 shards, 2 are there"), "{error}");
    // A user's folder has no manifest, and any shards may be in it.
    fs::remove_file(shards.join("manifest.json")).unwrap();
    let rest = Corpus::open(&shards).unwrap();
    assert_eq!(rest.len(), 24);
    assert_ne!(rest.fingerprint(), whole.fingerprint());
    fs::rename(shards.join("shard-000000.tar"), shards.join("a.tar")).unwrap();
    assert_eq!(Corpus::open(&shards).unwrap().len(), 24);
}

#[test]
fn a_shard_cut_anywhere_is_an_error_that_names_shard_and_byte() {
    let folder = tempfile::tempdir().unwrap();
    let shards = common::write(folder.path(), &options(3));
    let path = shards.join("shard-000000.tar");
    let whole = fs::read(&path).unwrap();
    // Within a member, at the end of a member, within a header, before the end-of-archive blocks, to nothing.
    for keep in [whole.len() / 2, 700, 1024, 1200, whole.len() - 1024, 0] {
        fs::write(&path, &whole[..keep]).unwrap();
        match Corpus::open(&shards).unwrap_err() {
            DataError::Truncated { shard, offset, what } => {
                assert_eq!(shard, path);
                assert!(offset <= keep as u64 && offset + 512 >= keep as u64, "{keep}: {what} at {offset}");
            }
            other => panic!("cut to {keep}: {other}"),
        }
    }
    let mut garbled = whole.clone();
    garbled[3] ^= 0xff;
    fs::write(&path, &garbled).unwrap();
    assert!(matches!(Corpus::open(&shards).unwrap_err(), DataError::BadArchive { offset: 0, .. }));
}

#[test]
fn users_shards_of_other_layouts_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let grey: Vec<u8> = vec![128; 20 * 30];
    let rgba: Vec<u8> = [255, 0, 0, 255].repeat(40 * 40);
    let clear: Vec<u8> = [255, 0, 0, 0].repeat(16 * 16);
    let deep: Vec<u8> = 0x8000u16.to_ne_bytes().repeat(16 * 16 * 3);
    tar(
        &folder.path().join("deep/er/any-name.TAR"),
        &[
            ("set/b.x/two.WAV", wav(16_000, 2, 24, &tone(16_000, 2))),
            ("set/one.PNG", png(20, 30, Colour::L8, &grey)),
            ("set/one.json", b"{}".to_vec()),
            ("set/one.Txt", b"  a caption of one \n".to_vec()),
            ("set/b.x/two.JpEg", {
                let image = mom_data::RgbImage { width: 20, height: 20, pixels: [0, 0, 255].repeat(400) };
                mom_data::encode::jpeg(&image, 95).unwrap()
            }),
            ("set/one.wav", wav(8000, 1, 0, &tone(8000, 1))),
            ("set/b.x/two.txt", "\u{feff}zwei".into()),
            ("./three.png", png(40, 40, Colour::Rgba8, &rgba)),
            ("./three.txt", b"three".to_vec()),
            ("./three.wav", wav(44_100, 1, 8, &tone(44_100, 1))),
            ("four.png", png(16, 16, Colour::Rgba8, &clear)),
            ("four.txt", b"four".to_vec()),
            ("four.wav", wav(22_050, 1, 32, &tone(22_050, 1))),
            ("five.png", png(16, 16, Colour::Rgb16, &deep)),
            ("five.txt", b"five".to_vec()),
            ("five.wav", wav(8000, 1, 16, &tone(8000, 1))),
        ],
    );
    let corpus = Corpus::open(folder.path()).unwrap();
    let keys: Vec<_> = (0..corpus.len()).map(|index| corpus.key(index)).collect();
    assert_eq!(keys, ["set/b.x/two", "set/one", "three", "four", "five"]);
    let colours = [[0, 0, 255], [128; 3], [255, 0, 0], [255; 3], [128; 3]];
    let captions = ["zwei", "a caption of one", "three", "four", "five"];
    for index in 0..5 {
        let sample = corpus.sample(index, &config(), ALL).unwrap().unwrap();
        assert_eq!(sample.caption, captions[index]);
        let image = sample.image.unwrap();
        assert_eq!((image.width, image.height), (16, 16));
        for (value, expected) in image.pixel(5, 9).into_iter().zip(colours[index]) {
            assert!(value.abs_diff(expected) < 6, "{}: {:?}", keys[index], image.pixel(5, 9));
        }
        let speech = sample.speech.unwrap();
        assert_eq!(speech.len(), 8000, "{}", keys[index]);
        let worst = speech.iter().zip(tone(8000, 1)).skip(200).take(7600).map(|(a, b)| (a - b).abs());
        let worst = worst.fold(0.0, f32::max);
        assert!(worst < 0.02, "{}: {worst}", keys[index]);
    }
}

#[test]
fn the_middle_square_of_an_image_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    // Red, green and blue squares beside each other.
    let row: Vec<u8> = [[255, 0, 0].repeat(32), [0, 255, 0].repeat(32), [0, 0, 255].repeat(32)].concat();
    tar(&folder.path().join("a.tar"), &[("a.png", png(96, 32, Colour::Rgb8, &row.repeat(32))), ("a.txt", "a".into())]);
    let needs = Needs { image: ImageNeed::Patches, speech: SpeechNeed::None };
    let sample = Corpus::open(folder.path()).unwrap().sample(0, &config(), needs).unwrap().unwrap();
    assert!(sample.speech.is_none());
    assert_eq!(sample.image.unwrap().pixels, [0, 255, 0].repeat(256));
}

/// A shard with one good sample per unusable one; returns the reasons expected.
fn damaged(path: &Path) -> Vec<(&'static str, SkipReason)> {
    let good = || png(16, 16, Colour::L8, &[90; 256]);
    let sound = || wav(8000, 1, 16, &tone(8000, 1));
    let text = || b"some words".to_vec();
    let mut loud = tone(8000, 1);
    loud[77] = f32::NAN;
    let half = |bytes: Vec<u8>| bytes[..bytes.len() / 2].to_vec();
    let mut members: Vec<(String, Vec<u8>)> = Vec::new();
    let mut add = |key: &str, parts: [(&str, Option<Vec<u8>>); 3]| {
        for (extension, bytes) in parts {
            members.extend(bytes.map(|bytes| (format!("{key}.{extension}"), bytes)));
        }
    };
    for index in 0..30 {
        add(&format!("good{index}"), [("txt", Some(text())), ("png", Some(good())), ("wav", Some(sound()))]);
    }
    add("mute", [("txt", None), ("png", Some(good())), ("wav", Some(sound()))]);
    add("blank", [("txt", Some(b" \n".to_vec())), ("png", Some(good())), ("wav", Some(sound()))]);
    add("latin", [("txt", Some(vec![0xff, 0xfe, 0x41])), ("png", Some(good())), ("wav", Some(sound()))]);
    add("blind", [("txt", Some(text())), ("png", None), ("wav", Some(sound()))]);
    add("torn", [("txt", Some(text())), ("png", Some(half(good()))), ("wav", Some(sound()))]);
    add("silent", [("txt", Some(text())), ("png", Some(good())), ("wav", None)]);
    add("garbled", [("txt", Some(text())), ("png", Some(good())), ("wav", Some(half(sound())))]);
    add("nan", [("txt", Some(text())), ("png", Some(good())), ("wav", Some(wav(8000, 1, 0, &loud)))]);
    add("zero", [("txt", Some(text())), ("png", Some(good())), ("wav", Some(wav(8000, 1, 16, &[])))]);
    add("twice", [("txt", Some(text())), ("png", Some(good())), ("wav", Some(sound()))]);
    add("twice", [("txt", None), ("jpg", Some(good())), ("wav", None)]);
    let members: Vec<(&str, Vec<u8>)> = members.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    tar(path, &members);
    vec![
        ("mute", SkipReason::MissingCaption),
        ("blank", SkipReason::EmptyCaption),
        ("latin", SkipReason::BrokenCaption),
        ("blind", SkipReason::MissingImage),
        ("torn", SkipReason::BrokenImage),
        ("silent", SkipReason::MissingSpeech),
        ("garbled", SkipReason::BrokenSpeech),
        ("nan", SkipReason::NonFiniteSpeech),
        ("zero", SkipReason::EmptySpeech),
        ("twice", SkipReason::DuplicateMember),
    ]
}

#[test]
fn unusable_samples_are_skipped_counted_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let expected = damaged(&folder.path().join("bad.tar"));
    let corpus = Corpus::open(folder.path()).unwrap();
    let recipe = Recipe::three_modality();
    let tokenizers = Tokenizers::fit(&corpus, &config(), recipe.needs()).unwrap();
    let data = Dataset::load(&corpus, &tokenizers, &recipe).unwrap();
    assert_eq!(data.train.len() + data.held_out.len(), 30);
    assert_eq!(data.skipped.total(), expected.len());
    for (at, (key, reason)) in expected.iter().enumerate() {
        assert_eq!(data.skipped.count(*reason), 1, "{key}");
        if let Some(example) = data.skipped.examples().get(at) {
            assert_eq!(example, &format!("bad.tar: {key}: {}", reason.describe()));
        }
    }
    let report = data.skipped.to_string();
    assert!(report.starts_with("10 samples skipped: 1 with no caption (.txt)"), "{report}");
    // What a recipe does not need may be missing or broken.
    let data = Dataset::load(&corpus, &tokenizers, &Recipe::chameleon()).unwrap();
    assert_eq!(data.train.len() + data.held_out.len(), 34);
}

#[test]
fn nothing_left_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(Split::of("c", config().held_out), Split::Train);
    tar(&folder.path().join("a.tar"), &[("c.png", vec![1, 2, 3]), ("c.txt", b"words".to_vec())]);
    let corpus = Corpus::open(folder.path()).unwrap();
    let error = Tokenizers::fit(&corpus, &config(), Recipe::chameleon().needs()).unwrap_err();
    assert!(matches!(error, DataError::AllSkipped { .. }) && error.to_string().contains("a.tar: c"), "{error}");
    let tokenizers = Tokenizers::fit(&corpus, &config(), Needs::default()).unwrap();
    let error = Dataset::load(&corpus, &tokenizers, &Recipe::transfusion()).unwrap_err();
    assert!(matches!(error, DataError::AllSkipped { .. }), "{error}");
    // One good sample: a split without documents.
    tar(&folder.path().join("b.tar"), &[("b.png", png(16, 16, Colour::L8, &[7; 256])), ("b.txt", b"words".to_vec())]);
    let corpus = Corpus::open(folder.path()).unwrap();
    let error = Dataset::load(&corpus, &tokenizers, &Recipe::transfusion()).unwrap_err();
    assert!(matches!(error, DataError::EmptySplit { n_samples: 1, .. }), "{error}");
    // An archive without members.
    tar(&folder.path().join("empty/c.tar"), &[]);
    let corpus = Corpus::open(folder.path().join("empty")).unwrap();
    assert!(corpus.is_empty());
    assert!(matches!(Tokenizers::fit(&corpus, &config(), Needs::default()), Err(DataError::EmptySplit { .. })));
}

#[test]
fn invalid_options_name_their_field() {
    let folder = tempfile::tempdir().unwrap();
    let scene = SceneConfig { sample_rate: 1, ..SceneConfig::default() };
    let bad = [
        (scenes::ShardOptions { documents: 0, ..options(1) }, "scenes.documents"),
        (scenes::ShardOptions { documents_per_shard: 0, ..options(1) }, "documents_per_shard"),
        (scenes::ShardOptions { image_format: ImageFormat::Jpeg { quality: 0 }, ..options(1) }, "quality"),
        (scenes::ShardOptions { scene, ..options(1) }, "scenes.sample_rate"),
    ];
    for (options, field) in bad {
        let error = write_shards(folder.path().join("x"), &options, |_, _| {}).unwrap_err();
        assert!(error.to_string().contains(field), "{error}");
    }
    assert!(!folder.path().join("x").exists());
}
