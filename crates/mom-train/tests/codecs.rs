//! Data that are tokenised by published codecs with small random weights.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device};
use mom_data::scenes::SceneSource;
use mom_data::{
    CodeKind, Content, Dataset, External, Modality, Needs, Repeats, SourceConfig, TokenizerConfig, Tokenizers,
};
use mom_models::codecs::{ImageCodec, SpeechCodec, Units};
use mom_train::{Latents, PublishedImages, PublishedSpeech};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../mom-models/tests/golden/codecs")
}

fn golden(name: &str) -> PathBuf {
    folder().join(format!("{name}.safetensors"))
}

/// Whether the other crate's files are not here, because this is a package of its own; said past the test harness, which would
/// swallow a print.
fn is_alone(test: &str) -> bool {
    let is_package = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml.orig").exists();
    let is_alone = is_package && !folder().exists();
    if is_alone {
        let mut stderr = std::io::stderr();
        writeln!(stderr, "SKIPPED {test}: the weights that it opens are not part of this package").unwrap();
    }
    is_alone
}

#[test]
fn scenes_become_codes_of_the_vqgan_and_of_mimi() {
    if is_alone("scenes_become_codes_of_the_vqgan_and_of_mimi") {
        return;
    }
    // A golden file holds its weights behind a prefix, as single files of several networks do.
    let images = ImageCodec::open(golden("chameleon_vqgan"), DType::F32, &Device::Cpu).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mimi = folder.path().join("mimi.safetensors");
    std::fs::copy(golden("mimi_odd_length"), &mimi).unwrap();
    std::fs::write(folder.path().join("config.json"), r#"{ "num_attention_heads": 2 }"#).unwrap();
    let speech = SpeechCodec::open(&mimi, &Units::Codebooks(1), DType::F32, &Device::Cpu).unwrap();
    let mut config = TokenizerConfig { held_out: 0.3, ..TokenizerConfig::default() };
    config.image.kind = CodeKind::Precomputed;
    config.image.codes = 256;
    config.speech.kind = CodeKind::Precomputed;
    config.speech.units = 32;
    config.speech.repeats = Repeats::Kept;
    let source = SourceConfig::generated(SceneSource { documents: 6, ..SceneSource::default() });
    let external = External {
        image: Some(Arc::new(PublishedImages::new(images, 64, Latents::Mean, 4).unwrap())),
        speech: Some(Arc::new(PublishedSpeech::new(speech).unwrap())),
    };
    let tokenizers = Tokenizers::fit(std::slice::from_ref(&source), &config, Needs::CODES_AND_UNITS, |_| {}).unwrap();
    let tokenizers = tokenizers.with_external(external).unwrap();
    let data = Dataset::load(std::slice::from_ref(&source), &tokenizers).unwrap();
    assert_eq!(data.train.len() + data.held_out.len(), 6, "{}", data.tallies["scenes"]);
    let parts: Vec<Content> = (0..data.train.len()).flat_map(|at| data.train.document(at).unwrap().parts).collect();
    let codes = parts.iter().filter(|part| matches!(part, Content::ImageCodes(codes) if codes.len() == 16)).count();
    let units = parts.iter().filter(|part| matches!(part, Content::Speech(units) if !units.is_empty())).count();
    assert_eq!((codes as u64, units as u64), (data.train.len(), data.train.len()));
    // And back.
    let token = |modality, code| tokenizers.vocabulary().token(modality, code).unwrap();
    let picture = tokenizers.decode_image(&[token(Modality::Image, 3); 16]).unwrap();
    assert_eq!((picture.width, picture.height, picture.pixels.len()), (64, 64, 64 * 64 * 3));
    assert_eq!(tokenizers.decode_speech(&[token(Modality::Speech, 3); 2]).unwrap().len(), 2 * 1920);
}

#[test]
fn sizes_that_the_weights_do_not_take_are_refused() {
    if is_alone("sizes_that_the_weights_do_not_take_are_refused") {
        return;
    }
    let codec = || ImageCodec::open(golden("chameleon_vqgan"), DType::F32, &Device::Cpu).unwrap();
    let error = PublishedImages::new(codec(), 40, Latents::Mean, 4).unwrap_err().to_string();
    assert!(error.contains("data.tokenizers.image.size") && error.contains("16"), "{error}");
    assert!(PublishedImages::new(codec(), 64, Latents::Mean, 0).is_err());
}
