//! Tokenizers: the same fit twice, through a folder and back, a user's own, and what damage does.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::path::Path;

use common::{ALL, config, options};
use mom_data::{
    Corpus, DataError, Dataset, ImageNeed, Modality, Needs, Recipe, Repeats, SpeechNeed, Split, TokenizerConfig,
    Tokenizers,
};

fn corpus(dir: &Path, documents: usize) -> Corpus {
    Corpus::open(common::write(dir, &options(documents))).unwrap()
}

#[test]
fn two_fits_are_identical_and_survive_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), 80);
    let names = ["tokenizers.json", "tokenizer.json", "image_codebook.safetensors", "speech_codebook.safetensors"];
    let save = |name: &str| {
        let dir = folder.path().join(name);
        Tokenizers::fit(&corpus, &config(), ALL).unwrap().save(&dir).unwrap();
        names.map(|file| fs::read(dir.join(file)).unwrap())
    };
    let first = save("first");
    assert_eq!(fs::read_dir(folder.path().join("first")).unwrap().count(), names.len());
    for again in 0..4 {
        let second = save(&format!("again{again}"));
        for (file, (a, b)) in names.iter().zip(first.iter().zip(&second)) {
            assert!(a == b, "{file} differs");
        }
    }
    let fitted = Tokenizers::fit(&corpus, &config(), ALL).unwrap();
    let loaded = Tokenizers::load(folder.path().join("first")).unwrap();
    assert_eq!((fitted.vocabulary(), fitted.config(), fitted.needs()), (loaded.vocabulary(), loaded.config(), ALL));
    let recipe = Recipe::three_modality();
    let [a, b] = [fitted, loaded].map(|tokenizers| Dataset::load(&corpus, &tokenizers, &recipe).unwrap());
    for document in 0..a.train.len() {
        assert_eq!(a.train.text(document), b.train.text(document));
        assert_eq!(a.train.image_codes(document), b.train.image_codes(document));
        assert_eq!(a.train.speech_units(document), b.train.speech_units(document));
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let made = [1, 3].map(|threads| {
        let dir = folder.path().join(threads.to_string());
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            Tokenizers::fit(&corpus(&dir, 60), &config(), ALL).unwrap().save(dir.join("shards")).unwrap();
        });
        let mut files: Vec<_> = fs::read_dir(dir.join("shards")).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert_eq!(files.len(), 4 + 4 + 1);
        files.into_iter().map(|path| fs::read(path).unwrap()).collect::<Vec<_>>()
    });
    assert!(made[0] == made[1]);
}

#[test]
fn tokens_decode_to_what_was_encoded() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), 80);
    let tokenizers = Tokenizers::fit(&corpus, &config(), ALL).unwrap();
    let vocabulary = *tokenizers.vocabulary();
    assert_eq!(vocabulary.size(), 6 + 300 + 32 + 32);
    for text in ["a red circle sits above two stars.", "Grüße, 世界!", " tabs\tand\nlines "] {
        assert_eq!(tokenizers.text().decode(&tokenizers.text().encode(text).unwrap()).unwrap(), text);
    }
    let data = Dataset::load(&corpus, &tokenizers, &Recipe::three_modality()).unwrap();
    let mut errors = 0.0;
    for document in 0..data.train.len() {
        let index: usize = data.train.key(document).parse().unwrap();
        let sample = corpus.sample(index, &config(), ALL).unwrap().unwrap();
        assert_eq!(tokenizers.decode_text(data.train.text(document)).unwrap(), sample.caption);
        let (image, codes) = (sample.image.unwrap(), data.train.image_codes(document));
        assert_eq!(codes.len(), 16);
        let decoded = tokenizers.decode_image(codes).unwrap();
        let error: f64 = decoded.pixels.iter().zip(&image.pixels).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum();
        errors += (error / image.pixels.len() as f64).sqrt();
        // Merged units: no neighbour is the same; at most 25 a second.
        let units = data.train.speech_units(document);
        assert!(units.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(units.len() <= sample.speech.unwrap().len().div_ceil(320));
    }
    // A codebook of the mean colour alone would be off by 60 or more.
    let mean_error = errors / data.train.len() as f64;
    assert!(mean_error < 35.0, "{mean_error}");
    let frame = tokenizers.speech_codebook().unwrap().decode(0).unwrap();
    assert!(frame.len() == 40 && frame.iter().all(|v| v.is_finite()));
}

#[test]
fn kept_repeats_have_one_unit_per_frame() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), 30);
    let mut config = config();
    config.speech.repeats = Repeats::Kept;
    let tokenizers = Tokenizers::fit(&corpus, &config, ALL).unwrap();
    let sample = corpus.sample(0, &config, ALL).unwrap().unwrap();
    let wave = sample.speech.unwrap();
    assert_eq!(tokenizers.speech_codebook().unwrap().encode(&wave).len(), wave.len().div_ceil(320));
}

#[test]
fn only_the_training_split_is_fitted() {
    let folder = tempfile::tempdir().unwrap();
    // Held-out captions have a word that no other has.
    let mut members = Vec::new();
    for index in 0..60 {
        let key = format!("k{index}");
        let held_out = Split::of(&key, config().held_out) == Split::HeldOut;
        let caption = if held_out { "xylophone xylophone xylophone" } else { "a red circle above a star" };
        members.push((format!("{key}.txt"), caption.as_bytes().to_vec()));
    }
    let members: Vec<_> = members.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    common::tar(&folder.path().join("a.tar"), &members);
    let corpus = Corpus::open(folder.path()).unwrap();
    let tokenizers = Tokenizers::fit(&corpus, &config(), Needs::default()).unwrap();
    assert_eq!(tokenizers.text().encode(" circle").unwrap().len(), 1);
    assert!(tokenizers.text().encode("xylophone").unwrap().len() > 6);
}

#[test]
fn a_users_tokenizer_is_taken_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), 30);
    let theirs = folder.path().join("theirs.json");
    let words = r#"{"version":"1.0","truncation":{"direction":"Right","max_length":2,"strategy":"LongestFirst","stride":0},
        "padding":null,"added_tokens":[],"normalizer":null,"pre_tokenizer":{"type":"Whitespace"},"post_processor":null,
        "decoder":null,"model":{"type":"WordLevel","vocab":{"[UNK]":0,"a":1,"circle":9},"unk_token":"[UNK]"}}"#;
    fs::write(&theirs, words).unwrap();
    let mut config = config();
    config.text.tokenizer = Some(theirs.clone());
    let tokenizers = Tokenizers::fit(&corpus, &config, Needs::default()).unwrap();
    assert_eq!(tokenizers.vocabulary().n_tokens(Modality::Text), 10);
    // Whole captions, though the file says to cut after two tokens.
    assert_eq!(tokenizers.text().encode("a red circle a").unwrap(), [1, 0, 9, 1]);
    tokenizers.save(folder.path().join("saved")).unwrap();
    fs::remove_file(&theirs).unwrap();
    let loaded = Tokenizers::load(folder.path().join("saved")).unwrap();
    assert_eq!(loaded.text().encode("circle").unwrap(), [9]);
    for (name, contents) in
        [("empty", words.replace(r#"{"[UNK]":0,"a":1,"circle":9}"#, "{}")), ("torn", words[..90].into())]
    {
        let path = folder.path().join(name);
        fs::write(&path, contents).unwrap();
        config.text.tokenizer = Some(path.clone());
        let error = Tokenizers::fit(&corpus, &config, Needs::default()).unwrap_err();
        assert!(matches!(&error, DataError::TextTokenizer { path: Some(p), .. } if *p == path), "{error}");
    }
}

#[test]
fn what_was_not_fitted_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), 30);
    let tokenizers =
        Tokenizers::fit(&corpus, &config(), Needs { image: ImageNeed::Codes, speech: SpeechNeed::None }).unwrap();
    let error = Dataset::load(&corpus, &tokenizers, &Recipe::three_modality()).unwrap_err();
    assert_eq!(error.to_string(), "the recipe needs speech units, and the tokenizers at hand lack them");
    assert!(Dataset::load(&corpus, &tokenizers, &Recipe::chameleon()).is_ok());
}

#[test]
fn damaged_folders_are_errors_that_name_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), 30);
    let dir = folder.path().join("saved");
    Tokenizers::fit(&corpus, &config(), ALL).unwrap().save(&dir).unwrap();
    let damage = |name: &str, change: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        let whole = fs::read(dir.join(name)).unwrap();
        fs::write(dir.join(name), change(whole.clone())).unwrap();
        let error = Tokenizers::load(&dir).unwrap_err().to_string();
        fs::write(dir.join(name), whole).unwrap();
        error
    };
    for name in ["tokenizers.json", "tokenizer.json", "image_codebook.safetensors", "speech_codebook.safetensors"] {
        let error = damage(name, &|bytes| bytes[..bytes.len() / 2].to_vec());
        assert!(error.contains(name), "{error}");
    }
    let replaced = |from: &'static str, to: &'static str| {
        move |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replacen(from, to, 1).into_bytes()
    };
    let error = damage("tokenizers.json", &replaced(r#""n_text": 300"#, r#""n_text": 301"#));
    assert!(error.contains("tokenizers.vocabulary"), "{error}");
    let error = damage("tokenizers.json", &replaced(r#""codes": 32"#, r#""codes": 33"#));
    assert!(error.contains("expected F32 [33, 48], got F32 [32, 48]"), "{error}");
    let error = damage("tokenizers.json", &replaced("format_version", "version"));
    assert!(error.contains("tokenizers.json"), "{error}");
    let error = damage("image_codebook.safetensors", &|mut bytes| {
        let n = bytes.len();
        bytes[n - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        bytes
    });
    assert!(error.contains("NaN"), "{error}");
    assert!(Tokenizers::load(&dir).is_ok());
}

#[test]
fn saving_over_an_obstacle_fails_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), 30);
    let tokenizers = Tokenizers::fit(&corpus, &config(), Needs::default()).unwrap();
    let dir = folder.path().join("saved");
    fs::create_dir_all(dir.join("tokenizer.json")).unwrap();
    let error = tokenizers.save(&dir).unwrap_err();
    assert!(matches!(&error, DataError::Io { path, .. } if path.ends_with("tokenizer.json")), "{error}");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    fs::write(folder.path().join("file"), "").unwrap();
    assert!(matches!(tokenizers.save(folder.path().join("file")).unwrap_err(), DataError::Io { .. }));
}

#[test]
fn invalid_configurations_name_their_field() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), 3);
    let rejected = |change: &dyn Fn(&mut TokenizerConfig), field: &str| {
        let mut config = config();
        change(&mut config);
        let error = Tokenizers::fit(&corpus, &config, ALL).unwrap_err();
        assert!(matches!(error, DataError::Config { .. }) && error.to_string().contains(field), "{error}");
    };
    rejected(&|c| c.speech.units = 501, "tokenizers.speech.units must be 2 to 500, got 501");
    rejected(&|c| c.speech.sample_rate = 8001, "tokenizers.speech.sample_rate");
    rejected(&|c| c.image.patch = 5, "patch must be a divisor of the image size 16");
    rejected(&|c| c.image.codes = 0, "tokenizers.image.codes");
    rejected(&|c| c.text.vocab_size = 255, "tokenizers.text.vocab_size");
    rejected(&|c| c.held_out = 1.0, "tokenizers.held_out");
    rejected(&|c| c.held_out = f64::NAN, "tokenizers.held_out");
    assert!(serde_json::from_str::<TokenizerConfig>(r#"{"seeds": 1}"#).is_err());
    let partial: TokenizerConfig = serde_json::from_str(r#"{"seed": 9, "image": {"codes": 64}}"#).unwrap();
    assert_eq!((partial.seed, partial.image.codes, partial.image.patch), (9, 64, 4));
}
