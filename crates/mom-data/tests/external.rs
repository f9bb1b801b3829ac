//! Tokenizers that are not of this crate: raw media become their tokens, many at a time.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of a test may fail as the test does")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mom_data::media::image::Preparation;
use mom_data::readers::{Part, PartOrder, Place, Sample, SkipReason};
use mom_data::scenes::SceneSource;
use mom_data::{
    CodeKind, Content, DataError, Dataset, External, ImageForm, ImageNeed, ImageTokenizer, ImageTokens, Modality,
    Needs, Repeats, Result, RgbImage, SourceConfig, SpeechNeed, SpeechTokenizer, TokenizerConfig, Tokenizers,
};

const SIZE: usize = 32;
const BLOCK: usize = 8;

/// A code, or a latent, for each square of pixels: its corner's red.
#[derive(Debug, Default)]
struct Corners {
    latents: bool,
    fails: bool,
    name: &'static str,
    largest_batch: AtomicUsize,
}

impl ImageTokenizer for Corners {
    fn identity(&self) -> String {
        format!("corners {}", self.name)
    }

    fn preparation(&self) -> Preparation {
        Preparation::Square { size: SIZE }
    }

    fn form(&self) -> ImageForm {
        if self.latents { ImageForm::Latents { channels: 1 } } else { ImageForm::Codes { n_codes: 256 } }
    }

    fn batch(&self) -> usize {
        5
    }

    fn encode(&self, pictures: &[RgbImage], keys: &[u64]) -> Result<Vec<ImageTokens>> {
        if self.fails {
            return Err(DataError::Tokenizer { what: "corners", reason: "out of memory".to_owned() });
        }
        assert_eq!(pictures.len(), keys.len());
        self.largest_batch.fetch_max(pictures.len(), Ordering::Relaxed);
        let side = SIZE / BLOCK;
        let tokens = |image: &RgbImage| {
            assert_eq!((image.width, image.height), (SIZE, SIZE));
            let codes = (0..side * side).map(|i| image.pixel(i % side * BLOCK, i / side * BLOCK)[0]);
            if self.latents {
                ImageTokens::Latents { shape: [1, side, side], values: codes.map(f32::from).collect() }
            } else {
                ImageTokens::Codes { shape: [side, side], values: codes.map(u32::from).collect() }
            }
        };
        Ok(pictures.iter().map(tokens).collect())
    }

    fn decode(&self, tokens: &ImageTokens) -> Result<RgbImage> {
        let ImageTokens::Codes { shape: [rows, columns], values } = tokens else { panic!("latents") };
        let pixels = values.iter().flat_map(|&code| [code as u8; 3]).collect();
        Ok(RgbImage { width: *columns, height: *rows, pixels })
    }
}

/// A unit for each 1,000 samples: 0, 0, 1, 1, 2, ...
#[derive(Debug)]
struct Counter;

impl SpeechTokenizer for Counter {
    fn identity(&self) -> String {
        "counter".to_owned()
    }

    fn sample_rate(&self) -> u32 {
        16_000
    }

    fn n_units(&self) -> usize {
        2048
    }

    fn encode(&self, sounds: &[Vec<f32>]) -> Result<Vec<Vec<u32>>> {
        Ok(sounds.iter().map(|sound| (0..sound.len() as u32 / 1000).map(|i| i / 2).collect()).collect())
    }

    fn decode(&self, units: &[u32]) -> Result<Vec<f32>> {
        Ok(vec![0.5; units.len() * 1000])
    }
}

fn source() -> SourceConfig {
    SourceConfig::generated(SceneSource { documents: 24, ..SceneSource::default() })
}

fn config() -> TokenizerConfig {
    let mut config = TokenizerConfig { held_out: 0.3, ..TokenizerConfig::default() };
    config.image.kind = CodeKind::Precomputed;
    config.image.codes = 256;
    config.image.channels = 1;
    config.image.patch = 2;
    config.speech.kind = CodeKind::Precomputed;
    config.speech.units = 2048;
    config
}

fn fitted(config: &TokenizerConfig, needs: Needs) -> Tokenizers {
    Tokenizers::fit(&[source()], config, needs, |_| {}).unwrap()
}

fn images(tokenizer: Corners) -> External {
    External { image: Some(Arc::new(tokenizer)), speech: None }
}

fn contents(data: &Dataset) -> Vec<Content> {
    (0..data.train.len()).flat_map(|i| data.train.document(i).unwrap().parts).collect()
}

#[test]
fn raw_media_become_codes_and_units() {
    let corners = Arc::new(Corners::default());
    for (repeats, first) in [(Repeats::Merged, [0, 1]), (Repeats::Kept, [0, 0])] {
        let mut config = config();
        config.speech.repeats = repeats;
        let external = External { image: Some(corners.clone()), speech: Some(Arc::new(Counter)) };
        let tokenizers = fitted(&config, Needs::CODES_AND_UNITS).with_external(external).unwrap();
        let data = Dataset::load(&[source()], &tokenizers).unwrap();
        assert_eq!(data.train.len() + data.held_out.len(), 24, "{}", data.tallies["scenes"]);
        let parts = contents(&data);
        let codes = parts.iter().filter(|part| matches!(part, Content::ImageCodes(codes) if codes.len() == 16)).count();
        assert_eq!(codes as u64, data.train.len());
        let units = |part: &&Content| matches!(part, Content::Speech(units) if units[..2] == first);
        assert_eq!(parts.iter().filter(units).count() as u64, data.train.len());
        let token = |modality, code| tokenizers.vocabulary().token(modality, code).unwrap();
        let picture = tokenizers.decode_image(&[token(Modality::Image, 7); 16]).unwrap();
        assert_eq!((picture.width, picture.pixels[0]), (4, 7));
        assert!(tokenizers.decode_image(&[token(Modality::Image, 7); 15]).is_err());
        assert_eq!(tokenizers.decode_speech(&[token(Modality::Speech, 2047)]).unwrap().len(), 1000);
    }
    assert_eq!(corners.largest_batch.load(Ordering::Relaxed), 5);
}

/// A model that sees whole pictures knows the number of their patches alone: four of 1 x 4 would pass for those of 2 x 2.
#[test]
fn arrays_of_latents_are_squares_where_that_is_asked_for() {
    let used = |square: bool, shape: &[usize]| {
        let mut config = config();
        config.image.square = square;
        let tokenizers = fitted(&config, Needs::PATCHES);
        let latents = Part::Latents { shape: shape.to_vec(), values: vec![0.5; shape.iter().product()] };
        let sample = Sample {
            key: "a".to_owned(),
            place: Place::default(),
            group: None,
            order: PartOrder::Free,
            parts: vec![latents],
            items: vec!["image.npy".to_owned()],
        };
        Dataset::document(&sample, &source(), &tokenizers).map_err(|skip| (skip.reason, format!("{skip:?}")))
    };
    for shape in [&[1, 4, 4][..], &[4, 4]] {
        assert!(used(true, shape).is_ok(), "{shape:?}");
    }
    for shape in [&[1, 2, 8][..], &[1, 8, 2], &[3, 4]] {
        assert!(used(false, shape).is_ok(), "{shape:?}");
        let (reason, told) = used(true, shape).unwrap_err();
        assert!(reason == SkipReason::BrokenArray && told.contains("of a square picture"), "{told}");
    }
}

#[test]
fn raw_pictures_become_patches_of_latents() {
    let needs = Needs { image: ImageNeed::Patches, speech: SpeechNeed::None };
    let tokenizers =
        fitted(&config(), needs).with_external(images(Corners { latents: true, ..Corners::default() })).unwrap();
    let data = Dataset::load(&[source()], &tokenizers).unwrap();
    let patches = |part: &&Content| matches!(part, Content::Patches(values) if values.len() == 16);
    assert_eq!(contents(&data).iter().filter(patches).count() as u64, data.train.len());
}

#[test]
fn tokens_are_known_again_by_who_made_them() {
    let folder = tempfile::tempdir().unwrap();
    let plain = fitted(&config(), Needs::CODES);
    let one = plain.clone().with_external(images(Corners { name: "one", ..Corners::default() })).unwrap();
    let two = plain.clone().with_external(images(Corners { name: "two", ..Corners::default() })).unwrap();
    let hashes = [&plain, &one, &two].map(|tokenizers| tokenizers.fingerprint().unwrap());
    assert!(hashes[0] != hashes[1] && hashes[1] != hashes[2], "{hashes:?}");
    one.save(folder.path()).unwrap();
    let loaded = Tokenizers::load(folder.path()).unwrap();
    assert_eq!(loaded.fingerprint().unwrap(), hashes[1]);
    assert_eq!(loaded.external_identities().image.as_deref(), Some("corners one"));
    // Tokens that are there need no network; new ones do.
    let tokens = folder.path().join("tokens");
    let error = Dataset::prepare(&[source()], &loaded, &tokens, |_| {}).unwrap_err();
    assert!(matches!(error, DataError::Missing { what: "the image tokenizer's weights", .. }), "{error}");
    let made = Dataset::prepare(&[source()], &one, &tokens, |_| {}).unwrap();
    let read = Dataset::prepare(&[source()], &loaded, &tokens, |_| {}).unwrap();
    assert_eq!(read.fingerprint(), made.fingerprint());
    let error = loaded.with_external(images(Corners { name: "two", ..Corners::default() })).unwrap_err().to_string();
    assert!(error.contains("corners one") && error.contains("corners two"), "{error}");
    plain.save(folder.path()).unwrap();
    let head = std::fs::read_to_string(Path::new(folder.path()).join("tokenizers.json")).unwrap();
    assert!(!head.contains("external"), "{head}");
}

#[test]
fn what_does_not_fit_is_named() {
    let refused = |config: &TokenizerConfig, needs, external| {
        fitted(config, needs).with_external(external).unwrap_err().to_string()
    };
    let corners = || images(Corners::default());
    let mut other = config();
    other.image.codes = 128;
    let error = refused(&other, Needs::CODES, corners());
    assert!(error.contains("tokenizers.image.codes") && error.contains("256"), "{error}");
    let mut own = config();
    own.image.kind = CodeKind::Fitted;
    assert!(refused(&own, Needs::CODES, corners()).contains("tokenizers.image.kind"));
    assert!(refused(&config(), Needs::PATCHES, corners()).contains("tokenizers.image.weights"));
    let mut few = config();
    few.speech.units = 500;
    let speech = External { image: None, speech: Some(Arc::new(Counter)) };
    assert!(refused(&few, Needs::CODES_AND_UNITS, speech).contains("tokenizers.speech.units"));
    let failing = images(Corners { fails: true, ..Corners::default() });
    let tokenizers = fitted(&config(), Needs::CODES).with_external(failing).unwrap();
    let error = Dataset::load(&[source()], &tokenizers).unwrap_err();
    assert!(matches!(error, DataError::Tokenizer { .. }), "{error}");
}
