//! Image codes that are tokens of the user's text tokenizer, as in Chameleon's.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

use std::collections::BTreeMap;
use std::path::Path;

use mom_data::scenes::SceneSource;
use mom_data::{
    CodeKind, DataError, Dataset, Documents, Forms, ImageConfig, Loader, Modality, Needs, Order, SourceConfig, Special,
    TokenizerConfig, Tokenizers,
};

const N_CODES: u32 = 8192;

/// A code by its letters.
fn name(code: u32) -> String {
    format!("IMGIMG{}Z", code.to_string().chars().map(|digit| (b'A' + digit as u8 - b'0') as char).collect::<String>())
}

/// A tokenizer of words like Chameleon's: four special tokens, image codes, then text and what marks pictures.
fn vocabulary() -> BTreeMap<String, u32> {
    let special = ["<s>", "<pad>", "</s>", "<unk>"].map(str::to_owned);
    let words = ["<eoss>", "<racm3:break>", "a", "red", "star"].map(str::to_owned);
    special.into_iter().chain((0..N_CODES).map(name)).chain(words).zip(0..).collect()
}

fn fitted(folder: &Path, vocabulary: &BTreeMap<String, u32>, codes: usize) -> mom_data::Result<Tokenizers> {
    let path = folder.join("text_tokenizer.json");
    let json = serde_json::json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": { "type": "Whitespace" },
        "post_processor": null,
        "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>" },
    });
    std::fs::write(&path, json.to_string()).unwrap();
    let mut config = TokenizerConfig { held_out: 0.3, ..TokenizerConfig::default() };
    config.text.tokenizer = Some(path);
    config.image = ImageConfig { kind: CodeKind::Precomputed, codes, ..config.image };
    Tokenizers::fit(&[source()], &config, Needs::CODES, |_| {})
}

fn source() -> SourceConfig {
    SourceConfig::generated(SceneSource { documents: 24, ..SceneSource::default() })
}

#[test]
fn image_codes_are_the_tokens_of_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let names = vocabulary();
    let tokenizers = fitted(folder.path(), &names, N_CODES as usize).unwrap();
    let tokens = tokenizers.vocabulary();
    assert_eq!(tokens.size(), Special::COUNT as usize + names.len(), "image codes have no rows of their own");
    for (code, spelled) in [(0, "IMGIMGAZ"), (25, "IMGIMGCFZ"), (8191, "IMGIMGIBJBZ")] {
        let token = tokens.token(Modality::Image, code).unwrap();
        assert_eq!((token, name(code).as_str()), (Special::COUNT + names[spelled], spelled));
        assert_eq!(token, Special::COUNT + code + 4, "as in the published vocabulary");
        assert_eq!(tokens.code(Modality::Image, token).unwrap(), code);
        assert_eq!(tokens.modality_of(token).unwrap(), Modality::Image);
        assert!(tokens.token(Modality::Text, names[spelled]).is_err(), "an image code is no text");
    }
    assert!(tokens.token(Modality::Image, N_CODES).is_err());
    let star = tokens.token(Modality::Text, names["star"]).unwrap();
    let image = tokens.token(Modality::Image, 25).unwrap();
    assert_eq!(tokenizers.decode_text(&[star, image, star]).unwrap(), "star star");
    // Read again they are the same.
    tokenizers.save(folder.path().join("saved")).unwrap();
    let loaded = Tokenizers::load(folder.path().join("saved")).unwrap();
    assert_eq!(loaded.vocabulary(), tokens);
    assert_eq!(loaded.fingerprint().unwrap(), tokenizers.fingerprint().unwrap());
}

#[test]
fn texts_that_spell_an_image_code_are_skipped_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizers = fitted(folder.path(), &vocabulary(), N_CODES as usize).unwrap();
    let lines = (0..40).map(|i| format!("{{\"text\": \"a red star {}\"}}\n", if i == 7 { "IMGIMGCFZ" } else { "" }));
    let path = folder.path().join("texts.jsonl");
    std::fs::write(&path, lines.collect::<String>()).unwrap();
    let data = Dataset::load(&[SourceConfig::at(&path)], &tokenizers).unwrap();
    let tally = data.tallies.values().next().unwrap();
    assert_eq!((tally.used, tally.n_skipped()), (39, 1), "{tally}");
    assert!(tally.to_string().contains("but for image codes"), "{tally}");
    let documents: std::sync::Arc<Documents> = data.train;
    let mut loader = Loader::new(documents, Forms::default(), 1, 64, Order::Shuffled { seed: 0 }).unwrap();
    let batch = loader.next_batch().unwrap();
    assert!(batch.tokens.iter().all(|&token| tokenizers.vocabulary().modality_of(token).unwrap() == Modality::Text));
}

#[test]
fn names_that_are_missing_or_out_of_order_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |vocabulary: &BTreeMap<String, u32>, codes: usize| {
        let error = fitted(folder.path(), vocabulary, codes).unwrap_err();
        assert!(matches!(error, DataError::TextTokenizer { .. }), "{error}");
        error.to_string()
    };
    let mut swapped = vocabulary();
    let (a, b) = (swapped[&name(25)], swapped[&name(26)]);
    swapped.insert(name(25), b);
    swapped.insert(name(26), a);
    let message = refused(&swapped, N_CODES as usize);
    assert!(message.contains("image code 25 is the token IMGIMGCFZ") && message.contains("its id is 30"), "{message}");
    let message = refused(&vocabulary(), N_CODES as usize + 1);
    assert!(message.contains("image code 8192") && message.contains("no such token"), "{message}");
    // Fewer codes than names have theirs; a tokenizer without names has codes behind its text.
    let few = fitted(folder.path(), &vocabulary(), 300).unwrap();
    assert_eq!(few.vocabulary().token(Modality::Image, 299).unwrap(), Special::COUNT + 303);
    let mut plain = vocabulary();
    plain.retain(|name, _| !name.starts_with("IMGIMG"));
    let ids: BTreeMap<String, u32> = plain.into_keys().zip(0..).collect();
    let behind = fitted(folder.path(), &ids, 300).unwrap();
    assert_eq!(behind.vocabulary().token(Modality::Image, 0).unwrap(), Special::COUNT + ids.len() as u32);
}
