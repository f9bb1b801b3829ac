//! The large world: a pure function of seed and index, spoken in persons' voices, a source like any other; and the small one is
//! what it was before there was another.

mod common;

use std::collections::BTreeSet;

use common::{ALL, config};
use mom_data::scenes::{self, SceneConfig, SceneSource, ShardOptions, Speech, World};
use mom_data::{Dataset, SourceConfig, Tokenizers};

const LARGE: SceneConfig =
    SceneConfig { image_size: 32, sample_rate: 8000, speech: Speech::Spoken, world: World::Large };

fn fnv(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[test]
fn captions_are_frozen() {
    let config = SceneConfig { speech: Speech::Silent, ..LARGE };
    let captions: String = (0..200).map(|index| scenes::document(0, index, &config).caption + "\n").collect();
    // Raise LARGE_WORLD_VERSION when this changes.
    assert_eq!(fnv(captions.bytes()), 9_447_201_359_628_029_508);
}

#[test]
fn a_document_is_a_function_of_seed_and_index() {
    let document = scenes::document(3, 1_000_000_007, &LARGE);
    assert_eq!(document, scenes::document(3, 1_000_000_007, &LARGE));
    assert_ne!(document.image, scenes::document(4, 1_000_000_007, &LARGE).image);
    assert_ne!(document.caption, scenes::document(3, 1_000_000_008, &LARGE).caption);
    let silent = scenes::document(3, 1_000_000_007, &SceneConfig { speech: Speech::Silent, ..LARGE });
    assert_eq!((silent.image, silent.caption), (document.image, document.caption));
    assert!(silent.speech.is_empty());
    let wide = scenes::document(3, 1_000_000_007, &SceneConfig { image_size: 64, sample_rate: 16_000, ..LARGE });
    assert_eq!((wide.image.width, wide.image.pixels.len()), (64, 64 * 64 * 3));
    assert!(wide.speech.len().abs_diff(2 * document.speech.len()) < 100);
}

#[test]
fn speech_has_the_length_of_its_words_and_never_clips() {
    let (mut seconds, mut words) = (0.0, 0);
    for index in 0..150 {
        let document = scenes::document(6, index, &LARGE);
        let length = document.speech.len() as f32 / 8000.0;
        assert!((1.0..28.0).contains(&length), "{length} s: {}", document.caption);
        seconds += length;
        words += document.caption.split(' ').count();
        let peak = document.speech.iter().fold(0.0f32, |peak, value| peak.max(value.abs()));
        assert!((0.4..=0.99).contains(&peak), "{peak}");
        assert!(document.speech.iter().all(|value| value.is_finite()));
    }
    let per_word = seconds / words as f32;
    assert!((0.18..0.42).contains(&per_word), "{per_word} s a word");
}

#[test]
fn there_are_thousands_of_words_and_no_two_documents_alike() {
    let config = SceneConfig { speech: Speech::Silent, ..LARGE };
    let documents: Vec<_> = (0..2000).map(|index| scenes::document(1, index, &config)).collect();
    let images: BTreeSet<&[u8]> = documents.iter().map(|document| document.image.pixels.as_slice()).collect();
    let captions: BTreeSet<&str> = documents.iter().map(|document| document.caption.as_str()).collect();
    assert_eq!((images.len(), captions.len()), (2000, 2000));
    let words: BTreeSet<&str> = captions.iter().flat_map(|caption| caption.split([' ', ',', '.'])).collect();
    assert!(words.len() > 3500, "{}", words.len());
}

#[test]
fn a_configuration_names_the_world_and_the_small_one_is_not_named() {
    let source: SourceConfig =
        serde_json::from_str(r#"{"scenes": {"documents": 40, "world": "large", "image_size": 16}}"#).unwrap();
    let tokenizers = Tokenizers::fit(std::slice::from_ref(&source), &config(), ALL, |_| {}).unwrap();
    let data = Dataset::load(std::slice::from_ref(&source), &tokenizers).unwrap();
    assert_eq!(data.train.len() + data.held_out.len(), 40);

    // What is known of the small world by its written form or its stamp is what it was before there was another.
    let small = SceneSource::default();
    assert_eq!(small.stamp(), 3_408_692_245_979_562_510);
    assert_ne!(SceneSource { world: World::Large, ..small.clone() }.stamp(), small.stamp());
    assert!(!serde_json::to_string(&small).unwrap().contains("world"));
    assert!(!serde_json::to_string(&ShardOptions::default()).unwrap().contains("world"));
    let refused = serde_json::from_str::<SourceConfig>(r#"{"scenes": {"world": "huge"}}"#).unwrap_err();
    assert!(refused.to_string().contains("large"), "{refused}");
    assert!("huge".parse::<World>().unwrap_err().to_string().contains("small or large"));
}
