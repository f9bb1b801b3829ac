//! Tokenizers: the same fit twice, through a folder and back, a user's own, and what damage does.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "common/files.rs"]
mod files;

use std::fs;
use std::path::PathBuf;

use common::{ALL, config, generated};
use files::files_below;
use mom_data::scenes::{self, SceneConfig};
use mom_data::{
    Batch, Content, DataError, Dataset, Modality, NO_TARGET, Needs, Repeats, SourceConfig, Special, TextTokenizer,
    TokenizerConfig, Tokenizers,
};

fn fit(documents: usize, needs: Needs) -> Tokenizers {
    Tokenizers::fit(&[generated(documents)], &config(), needs, |_| {}).unwrap()
}

#[test]
fn two_fits_are_identical_and_survive_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["tokenizers.json", "tokenizer.json", "image_codebook.safetensors", "speech_codebook.safetensors"];
    let save = |name: &str| {
        let dir = folder.path().join(name);
        fit(80, ALL).save(&dir).unwrap();
        names.map(|file| fs::read(dir.join(file)).unwrap())
    };
    let first = save("first");
    assert_eq!(fs::read_dir(folder.path().join("first")).unwrap().count(), names.len());
    for again in 0..3 {
        let second = save(&format!("again{again}"));
        for (file, (a, b)) in names.iter().zip(first.iter().zip(&second)) {
            assert!(a == b, "{file} differs");
        }
    }
    let fitted = fit(80, ALL);
    let loaded = Tokenizers::load(folder.path().join("first")).unwrap();
    assert_eq!((fitted.vocabulary(), fitted.config(), fitted.needs()), (loaded.vocabulary(), loaded.config(), ALL));
    let [a, b] = [fitted, loaded].map(|tokenizers| Dataset::load(&[generated(80)], &tokenizers).unwrap());
    for at in 0..a.train.len() {
        assert_eq!(a.train.document(at).unwrap(), b.train.document(at).unwrap());
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let made = [1, 3].map(|threads| {
        let dir = folder.path().join(threads.to_string());
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let tokenizers = fit(60, ALL);
            tokenizers.save(&dir).unwrap();
            Dataset::prepare(&[generated(60)], &tokenizers, &dir.join("tokens"), |_| {}).unwrap();
        });
        let contents = |path: &PathBuf| fs::read(dir.join(path)).unwrap();
        let files: Vec<_> = files_below(&dir).into_iter().map(|path| (path.clone(), contents(&path))).collect();
        assert_eq!(files.len(), 4 + 2, "tokenizers; a unit and the catalogue");
        files
    });
    assert!(made[0] == made[1]);
}

#[test]
fn tokens_decode_to_what_was_encoded() {
    let tokenizers = fit(80, ALL);
    let vocabulary = *tokenizers.vocabulary();
    assert_eq!(vocabulary.size(), 6 + 300 + 32 + 32);
    for text in ["a red circle sits above two stars.", "Grüße, 世界!", " tabs\tand\nlines "] {
        assert_eq!(tokenizers.text().decode(&tokenizers.text().encode(text).unwrap()).unwrap(), text);
    }
    let data = Dataset::load(&[generated(80)], &tokenizers).unwrap();
    let mut errors = 0.0;
    for at in 0..data.train.len() {
        let document = data.train.document(at).unwrap();
        let scene = SceneConfig { image_size: 16, ..SceneConfig::default() };
        let sample = scenes::document(5, document.key.parse().unwrap(), &scene);
        let [Content::Text(text), Content::ImageCodes(codes), Content::Speech(units)] = &document.parts[..] else {
            panic!("{:?}", document.parts)
        };
        assert_eq!(tokenizers.text().decode(text).unwrap(), sample.caption);
        assert_eq!(codes.len(), 16);
        let decoded = tokenizers.image_codebook().unwrap().decode(codes).unwrap();
        let error: f64 =
            decoded.pixels.iter().zip(&sample.image.pixels).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum();
        errors += (error / sample.image.pixels.len() as f64).sqrt();
        // Merged units: no neighbour is the same; at most 25 a second.
        assert!(units.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(units.len() <= sample.speech.len().div_ceil(320));
    }
    let (speech, range) = (tokenizers.speech_codebook().unwrap(), vocabulary.range(Modality::Speech));
    let units = speech.encode(&scenes::document(5, 0, &SceneConfig::default()).speech);
    let tokens: Vec<u32> = units.iter().map(|unit| range.start + unit).collect();
    assert_eq!(speech.encode(&tokenizers.decode_speech(&tokens).unwrap()), units);
    for wrong in [range.start - 1, range.end] {
        assert!(matches!(tokenizers.decode_speech(&[tokens[0], wrong]), Err(DataError::Token { .. })));
    }
    // A codebook of the mean colour alone would be off by 60 or more.
    let mean_error = errors / data.train.len() as f64;
    assert!(mean_error < 35.0, "{mean_error}");
    let frame = tokenizers.speech_codebook().unwrap().decode(0).unwrap();
    assert!(frame.len() == 40 && frame.iter().all(|v| v.is_finite()));
}

#[test]
fn kept_repeats_have_one_unit_per_frame() {
    let mut config = config();
    config.speech.repeats = Repeats::Kept;
    let tokenizers = Tokenizers::fit(&[generated(30)], &config, ALL, |_| {}).unwrap();
    let wave = scenes::document(5, 0, &SceneConfig::default()).speech;
    assert_eq!(tokenizers.speech_codebook().unwrap().encode(&wave).len(), wave.len().div_ceil(320));
}

#[test]
fn a_vocabulary_that_is_smaller_than_asked_for_is_told() {
    let mut config = config();
    config.text.vocab_size = 32_000;
    let tokenizers = Tokenizers::fit(&[generated(80)], &config, Needs::PATCHES, |_| {}).unwrap();
    let note = tokenizers.notes().join("; ");
    assert!(tokenizers.text().n_tokens() < 32_000 && note.contains("instead of 32000"), "{note}");
    assert!(fit(80, Needs::PATCHES).notes().is_empty());
}

#[test]
fn a_word_of_a_million_letters_is_no_matter() {
    let folder = tempfile::tempdir().unwrap();
    let long: String = (0..1_000_000u32).map(|i| char::from(b'a' + (i * i % 23) as u8)).collect();
    fs::write(folder.path().join("long.txt"), &long).unwrap();
    fs::write(folder.path().join("other.txt"), "a red circle above a star, a red circle below a star").unwrap();
    let mut config = config();
    (config.text.vocab_size, config.held_out) = (32_000, 0.0);
    let start = std::time::Instant::now();
    let tokenizers = Tokenizers::fit(&[SourceConfig::at(folder.path())], &config, Needs::default(), |_| {}).unwrap();
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    assert_eq!(tokenizers.text().decode(&tokenizers.text().encode(&long[..1000]).unwrap()).unwrap(), long[..1000]);
}

#[test]
fn only_the_training_split_is_fitted() {
    let folder = tempfile::tempdir().unwrap();
    // Samples are held out by their group, here by what they say: a word that no other has.
    let lines: String = (0..200)
        .map(|index| {
            let (group, text) = if index % 4 == 0 { HELD_OUT } else { TRAINED };
            format!("{{\"group\": {group:?}, \"text\": {text:?}}}\n")
        })
        .collect();
    fs::write(folder.path().join("a.jsonl"), lines).unwrap();
    let source = SourceConfig { group: Some("group".to_owned()), ..SourceConfig::at(folder.path()) };
    let tokenizers = Tokenizers::fit(std::slice::from_ref(&source), &config(), Needs::default(), |_| {}).unwrap();
    assert_eq!(tokenizers.text().encode(" circle").unwrap().len(), 1);
    assert!(tokenizers.text().encode("xylophone").unwrap().len() > 6);
    let data = Dataset::load(&[source], &tokenizers).unwrap();
    assert_eq!((data.train.len(), data.held_out.len()), (150, 50));
}

/// The group "a" is held out at a fifth, "b" is not.
const HELD_OUT: (&str, &str) = ("a", "xylophone xylophone xylophone");
const TRAINED: (&str, &str) = ("b", "a red circle above a star");

#[test]
fn a_users_tokenizer_is_taken_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let theirs = folder.path().join("theirs.json");
    let words = r#"{"version":"1.0","truncation":{"direction":"Right","max_length":2,"strategy":"LongestFirst","stride":0},
        "padding":null,"added_tokens":[],"normalizer":null,"pre_tokenizer":{"type":"Whitespace"},"post_processor":null,
        "decoder":null,"model":{"type":"WordLevel","vocab":{"[UNK]":0,"a":1,"circle":9},"unk_token":"[UNK]"}}"#;
    fs::write(&theirs, words).unwrap();
    let mut config = config();
    config.text.tokenizer = Some(theirs.clone());
    let tokenizers = Tokenizers::fit(&[generated(30)], &config, Needs::default(), |_| {}).unwrap();
    assert_eq!(tokenizers.vocabulary().n_tokens(Modality::Text), 10);
    // Whole captions, though the file says to cut after two tokens.
    assert_eq!(tokenizers.text().encode("a red circle a").unwrap(), [1, 0, 9, 1]);
    tokenizers.save(folder.path().join("saved")).unwrap();
    fs::remove_file(&theirs).unwrap();
    let loaded = Tokenizers::load(folder.path().join("saved")).unwrap();
    assert_eq!(loaded.text().encode("circle").unwrap(), [9]);
    for (name, contents) in [
        ("empty", words.replace(r#"{"[UNK]":0,"a":1,"circle":9}"#, "{}")),
        ("torn", words[..90].into()),
        ("one id for two tokens", words.replace(r#""circle":9"#, r#""circle":1"#)),
        ("an id that no vocabulary has", words.replace(r#""circle":9"#, r#""circle":4294967200"#)),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, contents).unwrap();
        config.text.tokenizer = Some(path.clone());
        let error = Tokenizers::fit(&[generated(30)], &config, Needs::default(), |_| {}).unwrap_err();
        assert!(matches!(&error, DataError::TextTokenizer { path: Some(p), .. } if *p == path), "{error}");
    }
}

#[test]
fn damaged_folders_are_errors_that_name_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("saved");
    fit(30, ALL).save(&dir).unwrap();
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
    let tokenizers = fit(30, Needs::default());
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
    let rejected = |change: &dyn Fn(&mut TokenizerConfig), field: &str| {
        let mut config = config();
        change(&mut config);
        let error = Tokenizers::fit(&[generated(3)], &config, ALL, |_| {}).unwrap_err();
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

/// Tokenizers of the kinds that people bring, in small: byte-level BPE with added tokens as GPT-2, Llama 3 and Qwen have it,
/// Unigram and WordPiece.
#[test]
fn the_usual_kinds_of_tokenizers_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let byte_level = r#"{"version":"1.0","truncation":null,"padding":null,
        "added_tokens":[{"id":6,"content":"<|end|>","single_word":false,"lstrip":false,"rstrip":false,
            "normalized":false,"special":true}],
        "normalizer":{"type":"NFC"},
        "pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":
            "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
            "behavior":"Isolated","invert":false},{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,
            "use_regex":false}]},
        "post_processor":null,"decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true},
        "model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,
            "fuse_unk":false,"byte_fallback":false,"ignore_merges":true,
            "vocab":{"a":0,"b":1,"\u0120":2,"c":3,"ab":4,"\u0120c":5},"merges":[["a","b"],["\u0120","c"]]}}"#;
    let unigram = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":{"type":"Metaspace","replacement":"\u2581","prepend_scheme":"always","split":true},
        "post_processor":null,"decoder":{"type":"Metaspace","replacement":"\u2581","prepend_scheme":"always","split":true},
        "model":{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0.0],["\u2581a",-1.0],["b",-2.0],["\u2581",-3.0]],
            "byte_fallback":false}}"#;
    let word_piece = r###"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],
        "normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,
            "lowercase":true},"pre_tokenizer":{"type":"BertPreTokenizer"},"post_processor":null,
        "decoder":{"type":"WordPiece","prefix":"##","cleanup":true},
        "model":{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":100,
            "vocab":{"[UNK]":0,"star":1,"##s":2,"red":3}}}"###;
    for (name, json, text, expected, decoded) in [
        ("byte-level", byte_level, "ab c<|end|>", &[4, 5, 6][..], "ab c<|end|>"),
        ("unigram", unigram, "ab a", &[1, 2, 1], "ab a"),
        ("wordpiece", word_piece, "Red stars", &[3, 1, 2], "red stars"),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, json).unwrap();
        let mut config = config();
        config.text.tokenizer = Some(path);
        let tokenizers = Tokenizers::fit(&[generated(3)], &config, Needs::default(), |_| {}).unwrap();
        assert_eq!(tokenizers.text().encode(text).unwrap(), expected, "{name}");
        assert_eq!(tokenizers.text().decode(expected).unwrap(), decoded, "{name}");
        assert_eq!(tokenizers.text().n_bytes(expected).unwrap(), Some(decoded.len() as u64), "{name}");
    }
}

#[test]
fn tokens_stand_for_the_bytes_of_their_text_wherever_they_are_cut() {
    let tokenizers = fit(30, Needs::default());
    let text = "a red star, één rode ster, 赤い星 🌟";
    let tokens = tokenizers.text().encode(text).unwrap();
    let n_bytes = |tokens: &[u32]| tokenizers.text().n_bytes(tokens).unwrap().unwrap();
    assert_eq!(n_bytes(&tokens), text.len() as u64);
    for at in 0..tokens.len() {
        assert_eq!(n_bytes(&tokens[..at]) + n_bytes(&tokens[at..]), text.len() as u64, "cut at {at}");
    }
    let error = tokenizers.text().n_bytes(&[u32::MAX]).unwrap_err();
    assert!(matches!(error, DataError::Token { token: u32::MAX, .. }), "{error}");
    // Of targets special tokens stand for none, nor do those of other modalities or what is no target.
    let vocabulary = tokenizers.vocabulary();
    let mut targets: Vec<u32> = tokens.iter().map(|&token| vocabulary.token(Modality::Text, token).unwrap()).collect();
    targets.extend([Special::BeginDocument.token(), NO_TARGET, Special::Pad.token()]);
    let batch = Batch { targets, ..Batch::default() };
    assert_eq!(tokenizers.target_bytes(&batch).unwrap(), Some(text.len() as u64));
}

#[test]
fn a_text_that_the_tokenizer_refuses_costs_its_sample_alone() {
    let folder = tempfile::tempdir().unwrap();
    let theirs = folder.path().join("theirs.json");
    // No token for what is unknown.
    let words = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,
        "model":{"type":"WordLevel","vocab":{"a":0,"star":1},"unk_token":"[UNK]"}}"#;
    fs::write(&theirs, words).unwrap();
    let lines: String = (0..40)
        .map(|i| format!("{{\"id\": {i}, \"text\": {:?}}}\n", if i == 7 { "a comet" } else { "a star" }))
        .collect();
    fs::write(folder.path().join("a.jsonl"), lines).unwrap();
    let mut config = config();
    config.text.tokenizer = Some(theirs);
    let sources = [SourceConfig::at(folder.path().join("a.jsonl"))];
    let tokenizers = Tokenizers::fit(&sources, &config, Needs::default(), |_| {}).unwrap();
    let tally = &Dataset::load(&sources, &tokenizers).unwrap().tallies["a.jsonl"];
    assert_eq!((tally.used, tally.skipped[&mom_data::readers::SkipReason::UnknownText]), (39, 1), "{tally}");
}

/// Files at which the reader of the format panics, or asks for all memory: cut within a decoder, merges that do not fit the vocabulary, tables
/// that are longer than they are.
#[test]
fn a_tokenizer_that_cannot_be_used_is_an_error_that_names_it() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cases/tokenizers");
    let mut n_files = 0;
    for file in files_below(&folder) {
        let name = file.file_name().unwrap().to_str().unwrap();
        let error = TextTokenizer::load(&file).map(drop).expect_err(name).to_string();
        assert!(error.contains(name), "{error}");
        n_files += 1;
    }
    assert_eq!(n_files, 7);
}
