//! The generator: determinism, variety, pictures that show what the scene says, speech that can be heard.

use std::collections::BTreeSet;

use mom_data::scenes::{self, SceneConfig, Shape, Speech, Texture};

fn fnv(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[test]
fn captions_are_frozen() {
    let config = SceneConfig { speech: Speech::Silent, ..SceneConfig::default() };
    let captions: String = (0..200).map(|index| scenes::document(0, index, &config).caption + "\n").collect();
    // Raise GENERATOR_VERSION when this changes.
    assert_eq!(fnv(captions.bytes()), 9_641_693_435_799_209_194);
}

#[test]
fn a_document_is_a_function_of_seed_and_index() {
    let config = SceneConfig::default();
    let document = scenes::document(3, 1_000_000_007, &config);
    assert_eq!(document, scenes::document(3, 1_000_000_007, &config));
    assert_ne!(document.image, scenes::document(4, 1_000_000_007, &config).image);
    assert_ne!(document.image, scenes::document(3, 1_000_000_008, &config).image);
    let silent = scenes::document(3, 1_000_000_007, &SceneConfig { speech: Speech::Silent, ..config });
    assert_eq!((silent.image, silent.caption), (document.image, document.caption));
    assert!(silent.speech.is_empty());
}

#[test]
fn captions_and_images_are_varied() {
    let config = SceneConfig { speech: Speech::Silent, ..SceneConfig::default() };
    let documents: Vec<_> = (0..2000).map(|index| scenes::document(1, index, &config)).collect();
    let captions: BTreeSet<&str> = documents.iter().map(|document| document.caption.as_str()).collect();
    assert!(captions.len() > 1990, "{}", captions.len());
    let images: BTreeSet<&[u8]> = documents.iter().map(|document| document.image.pixels.as_slice()).collect();
    assert_eq!(images.len(), 2000);
    let words: BTreeSet<&str> =
        captions.iter().flat_map(|caption| caption.split([' ', ',', '.'])).filter(|word| !word.is_empty()).collect();
    assert!((150..250).contains(&words.len()), "{}", words.len());
}

#[test]
fn objects_are_where_the_scene_says_in_the_colour_it_says() {
    let config = SceneConfig { image_size: 64, speech: Speech::Silent, ..SceneConfig::default() };
    let mut checked = 0;
    for index in 0..300 {
        let scene = scenes::scene(2, index);
        let image = scenes::document(2, index, &config).image;
        for (at, object) in scene.objects.iter().enumerate() {
            let group = &scene.groups[object.group];
            let hollow = matches!(group.shape, Shape::Ring | Shape::Crescent);
            let [x, y] = object.centre;
            let hidden = scene.objects[at + 1..]
                .iter()
                .any(|other| (other.centre[0] - x).hypot(other.centre[1] - y) < 1.6 * other.radius);
            if hollow || hidden || group.texture != Texture::Plain {
                continue;
            }
            let pixel = image.pixel((x * 64.0) as usize, (y * 64.0) as usize);
            for (value, expected) in pixel.into_iter().zip(object.rgb) {
                let difference = (f32::from(value) / 255.0 - expected).abs();
                assert!(difference < 0.12, "document {index}: {group:?} at {x} {y} is {pixel:?}");
            }
            checked += 1;
        }
    }
    assert!(checked > 100, "{checked}");
}

#[test]
fn speech_has_the_length_of_its_words_and_never_clips() {
    let config = SceneConfig::default();
    let (mut seconds, mut words) = (0.0, 0);
    for index in 0..150 {
        let document = scenes::document(6, index, &config);
        let length = document.speech.len() as f32 / 8000.0;
        assert!((1.0..6.5).contains(&length), "{length} s: {}", document.caption);
        seconds += length;
        words += document.caption.split(' ').count();
        let peak = document.speech.iter().fold(0.0f32, |peak, value| peak.max(value.abs()));
        assert!((0.45..0.95).contains(&peak), "{peak}");
        let rms = |wave: &[f32]| (wave.iter().map(|v| v * v).sum::<f32>() / wave.len() as f32).sqrt();
        // The utterance begins and ends in silence.
        assert!(rms(&document.speech[800..]) > 8.0 * rms(&document.speech[..160]), "{}", document.caption);
    }
    let per_word = seconds / words as f32;
    assert!((0.15..0.28).contains(&per_word), "{per_word} s a word");
}

#[test]
fn sizes_and_rates_are_configurable_and_checked() {
    let config = SceneConfig { image_size: 48, sample_rate: 16_000, ..SceneConfig::default() };
    let document = scenes::document(0, 0, &config);
    assert_eq!((document.image.width, document.image.pixels.len()), (48, 48 * 48 * 3));
    let slow = scenes::document(0, 0, &SceneConfig::default()).speech.len();
    assert!(document.speech.len().abs_diff(2 * slow) < 100);
    let bad = SceneConfig { image_size: 0, ..config };
    assert!(bad.validate().unwrap_err().to_string().contains("scenes.image_size"));
}
