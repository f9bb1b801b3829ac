//! From sources to tokens on disk: made once, added to, split by group, and every loss counted.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "common/files.rs"]
mod files;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use common::{ALL, config, generated, tar};
use files::files_below;
use mom_data::scenes::{self, SceneConfig};
use mom_data::{
    CodeKind, Content, DataError, Dataset, Documents, FirstTokens, Modality, Needs, OnDamaged, SourceConfig, SplitRule,
    TokenizerConfig, Tokenizers, encode,
};

/// Pairs, texts, recordings and triples: a shard of each.
fn mixed(folder: &Path) -> SourceConfig {
    let scene = SceneConfig { image_size: 16, ..SceneConfig::default() };
    for (kind, members) in [("pairs", "it"), ("texts", "t"), ("voices", "s"), ("triples", "its"), ("pictures", "i")] {
        let mut shard: Vec<(String, Vec<u8>)> = Vec::new();
        for index in 0..20 {
            let document = scenes::document(9, index, &scene);
            let key = format!("{kind}{index:04}");
            for member in members.chars() {
                shard.push(match member {
                    'i' => (format!("{key}.png"), encode::png(&document.image).unwrap()),
                    't' => (format!("{key}.txt"), document.caption.clone().into_bytes()),
                    _ => (format!("{key}.wav"), encode::wav(&document.speech, 8000).unwrap()),
                });
            }
        }
        let shard: Vec<(&str, Vec<u8>)> = shard.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
        tar(&folder.join(format!("{kind}.tar")), &shard);
    }
    SourceConfig::at(folder)
}

fn lens(documents: &Documents) -> BTreeMap<String, Vec<Modality>> {
    let modality = |content: &Content| match content {
        Content::Text(_) => Modality::Text,
        Content::Speech(_) => Modality::Speech,
        _ => Modality::Image,
    };
    (0..documents.len())
        .map(|at| documents.document(at).unwrap())
        .map(|document| (document.key, document.parts.iter().map(modality).collect()))
        .collect()
}

#[test]
fn a_document_is_made_of_what_its_sample_has() {
    let folder = tempfile::tempdir().unwrap();
    let source = mixed(folder.path());
    for (needs, n) in [(ALL, 100), (Needs::CODES, 80), (Needs::PATCHES, 80), (Needs::default(), 60)] {
        let tokenizers = Tokenizers::fit(std::slice::from_ref(&source), &config(), needs, |_| {}).unwrap();
        let data = Dataset::load(std::slice::from_ref(&source), &tokenizers).unwrap();
        assert_eq!(data.train.len() + data.held_out.len(), n, "{needs:?}");
        let tally = data.tallies.values().next().unwrap();
        assert_eq!((tally.used, tally.n_skipped()), (n, 100 - n), "{tally}");
        for counts in tally.items.values() {
            assert_eq!(counts.found, counts.used + counts.skipped + counts.ignored);
        }
        let mut lens = lens(&data.train);
        lens.extend(self::lens(&data.held_out));
        if needs == ALL {
            assert_eq!(lens["triples0003"], Modality::ALL);
            assert_eq!(lens["voices0003"], [Modality::Speech]);
            assert_eq!(lens["pairs0003"], [Modality::Text, Modality::Image]);
            assert_eq!(lens["texts0003"], [Modality::Text]);
        }
    }
    // What is not taken of a source is not asked for.
    let texts = SourceConfig { parts: vec![Modality::Text], ..source };
    let tokenizers = Tokenizers::fit(std::slice::from_ref(&texts), &config(), ALL, |_| {}).unwrap();
    assert!(tokenizers.notes().iter().any(|note| note.contains("no image codes")), "{:?}", tokenizers.notes());
    let data = Dataset::load(&[texts], &tokenizers).unwrap();
    assert_eq!(data.train.len() + data.held_out.len(), 60);
}

/// Files of a store, and when they were changed.
fn changes(folder: &Path) -> BTreeMap<PathBuf, SystemTime> {
    let changed = |path: &PathBuf| path.metadata().unwrap().modified().unwrap();
    files_below(folder).iter().map(|path| folder.join(path)).map(|path| (path.clone(), changed(&path))).collect()
}

#[test]
fn tokens_are_made_once_and_a_source_that_grows_is_added_to() {
    let folder = tempfile::tempdir().unwrap();
    let source = mixed(&folder.path().join("shards"));
    let sources = [source.clone()];
    let tokenizers = Tokenizers::fit(&sources, &config(), ALL, |_| {}).unwrap();
    let store = folder.path().join("tokens");
    let prepare = |sources: &[SourceConfig]| Dataset::prepare(sources, &tokenizers, &store, |_| {});
    let first = prepare(&sources).unwrap();
    let made = changes(&store);
    let again = prepare(&sources).unwrap();
    assert_eq!(changes(&store), made);
    assert_eq!(again.fingerprint(), first.fingerprint());
    assert_eq!(again.tallies, first.tallies);

    // One more shard: one more unit.
    let more = folder.path().join("shards/texts2.tar");
    tar(&more, &[("new.txt", b"a story".to_vec())]);
    let grown = prepare(&sources).unwrap();
    let now = changes(&store);
    let of_units = |files: &BTreeMap<PathBuf, SystemTime>| -> BTreeMap<PathBuf, SystemTime> {
        files
            .iter()
            .filter(|(path, _)| path.extension().is_some_and(|e| e == "tokens"))
            .map(|(a, b)| (a.clone(), *b))
            .collect()
    };
    let (before, after) = (of_units(&made), of_units(&now));
    assert_eq!(after.len(), before.len() + 1);
    assert!(before.iter().all(|(path, changed)| after[path] == *changed), "none was made again");
    assert_ne!(grown.fingerprint(), first.fingerprint());
    assert_eq!(grown.tallies["shards"].used, 101);

    // One more source touches nothing of the first.
    let both = [source, generated(30)];
    prepare(&both).unwrap();
    assert!(
        of_units(&changes(&store))
            .iter()
            .filter(|(path, _)| after.contains_key(*path))
            .all(|(path, t)| after[path] == *t)
    );

    // The shards are gone: the tokens are what is left.
    fs::remove_dir_all(folder.path().join("shards")).unwrap();
    let without = prepare(&sources).unwrap();
    assert_eq!(without.fingerprint(), grown.fingerprint());
    assert_eq!(without.train.document(3).unwrap(), grown.train.document(3).unwrap());
}

#[test]
fn another_fraction_held_out_tokenises_nothing_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config();
    config.text.tokenizer = None;
    let sources = [generated(200)];
    let tokenizers = Tokenizers::fit(&sources, &config, Needs::PATCHES, |_| {}).unwrap();
    let data = Dataset::prepare(&sources, &tokenizers, folder.path(), |_| {}).unwrap();
    let keys = |set: &Documents| set.keys().unwrap();
    let held: Vec<String> = keys(&data.held_out);
    assert!((20..60).contains(&held.len()), "{}", held.len());
    // The rule looks at a hash alone: all that is held out at a fifth is held out at three fifths too.
    let all =
        [SourceConfig { split: SplitRule::Validation, name: Some("held".into()), ..generated(200) }, generated(10)];
    let whole = Dataset::load(&all, &tokenizers).unwrap();
    assert_eq!(whole.held_out.by_source().next(), Some(("held", 200)));
    assert_eq!(keys(&whole.held_out)[..held.len()], held, "documents lie in the order of their hashes");
}

#[test]
fn what_was_stopped_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let sources = [mixed(&folder.path().join("shards"))];
    let tokenizers = Tokenizers::fit(&sources, &config(), ALL, |_| {}).unwrap();
    let store = folder.path().join("tokens");
    let whole = Dataset::prepare(&sources, &tokenizers, &store, |_| {}).unwrap();
    let made = changes(&store);
    // As if it had been stopped while it wrote the fourth: no catalogue, a journal of three, the last line cut.
    let catalogue = made.keys().find(|path| path.ends_with("units.json")).unwrap();
    let entries: serde_json::Value = serde_json::from_slice(&fs::read(catalogue).unwrap()).unwrap();
    let lines: Vec<String> = entries["units"].as_array().unwrap().iter().map(ToString::to_string).collect();
    let journal = format!("{}\n{}\n{}", lines[0], lines[1], &lines[2][..40]);
    fs::remove_file(catalogue).unwrap();
    fs::write(catalogue.with_file_name("journal.jsonl"), journal).unwrap();
    let again = Dataset::prepare(&sources, &tokenizers, &store, |_| {}).unwrap();
    let now = changes(&store);
    assert_eq!(again.fingerprint(), whole.fingerprint());
    assert_eq!(now.keys().collect::<Vec<_>>(), made.keys().collect::<Vec<_>>());
    let units: Vec<_> = made.iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "tokens")).collect();
    assert_eq!(units.iter().filter(|(path, changed)| now[*path] == **changed).count(), 2);
}

#[test]
fn one_group_is_never_on_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let lines: String = (0..600)
        .map(|i| {
            format!("{{\"id\": \"k{i}\", \"text\": \"voice {i} of picture {}\", \"picture\": {}}}\n", i / 6, i / 6)
        })
        .collect();
    fs::write(folder.path().join("a.jsonl"), lines).unwrap();
    let source = SourceConfig { group: Some("picture".to_owned()), ..SourceConfig::at(folder.path()) };
    let tokenizers = Tokenizers::fit(std::slice::from_ref(&source), &config(), ALL, |_| {}).unwrap();
    let data = Dataset::load(&[source], &tokenizers).unwrap();
    let pictures = |set: &Documents| -> std::collections::BTreeSet<usize> {
        set.keys().unwrap().iter().map(|key| key[1..].parse::<usize>().unwrap() / 6).collect()
    };
    let (train, held_out) = (pictures(&data.train), pictures(&data.held_out));
    assert!(train.is_disjoint(&held_out));
    assert_eq!(train.len() + held_out.len(), 100);
    assert_eq!(data.held_out.len() % 6, 0);
    assert_eq!(data.tallies.values().next().unwrap().ungrouped, 0);
    // A field that no sample has: that is told.
    let source = SourceConfig { group: Some("pictures".to_owned()), ..SourceConfig::at(folder.path()) };
    let data = Dataset::load(&[source], &tokenizers).unwrap();
    let told = data.tallies.values().next().unwrap().to_string();
    assert!(told.contains("none has the field that group names: 600 are split by their own key"), "{told}");
}

#[test]
fn a_damaged_file_is_named_or_skipped_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let shards = folder.path().join("shards");
    let source = mixed(&shards);
    let tokenizers = Tokenizers::fit(std::slice::from_ref(&source), &config(), ALL, |_| {}).unwrap();
    let whole = fs::read(shards.join("texts.tar")).unwrap();
    // In the middle of the eleventh sample.
    fs::write(shards.join("texts.tar"), &whole[..10 * 1024 + 520]).unwrap();
    let error = Dataset::load(std::slice::from_ref(&source), &tokenizers).unwrap_err();
    assert!(matches!(&error, DataError::Damaged { path, .. } if path.ends_with("texts.tar")), "{error}");
    let skipping = SourceConfig { damaged: OnDamaged::Skip, ..source };
    let data = Dataset::load(&[skipping], &tokenizers).unwrap();
    let tally = &data.tallies["shards"];
    assert_eq!((tally.used, tally.n_skipped()), (90, 1), "{tally}");
    assert_eq!(tally.items["(damaged file)"].ignored, 1);
}

#[test]
fn ready_tokens_and_latents_are_taken_where_they_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let formats = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/megatron");
    let mut config = TokenizerConfig { held_out: 0.3, ..config() };
    let source = SourceConfig::at(formats.join("codes"));
    config.image.kind = CodeKind::Precomputed;
    config.image.codes = 512;
    config.speech.kind = CodeKind::Precomputed;
    config.speech.units = 500;
    let tokenizers = Tokenizers::fit(std::slice::from_ref(&source), &config, ALL, |_| {}).unwrap();
    tokenizers.save(folder.path().join("tokenizers")).unwrap();
    let loaded = Tokenizers::load(folder.path().join("tokenizers")).unwrap();
    assert_eq!(loaded.vocabulary(), tokenizers.vocabulary());
    let data = Dataset::load(std::slice::from_ref(&source), &loaded).unwrap();
    assert_eq!(data.train.len() + data.held_out.len(), 10, "{}", data.tallies["codes"]);
    // Of the codebook's own they would be nonsense: refused, sample by sample.
    config.image.kind = CodeKind::Fitted;
    let tokenizers = Tokenizers::fit(std::slice::from_ref(&source), &config, ALL, |_| {}).unwrap();
    // One sample has no image, and one document makes no two splits.
    let error = Dataset::load(std::slice::from_ref(&source), &tokenizers).unwrap_err();
    let DataError::EmptySplit { report, n_samples: 1, .. } = &error else { panic!("{error}") };
    assert_eq!((report.used, report.skipped[&mom_data::readers::SkipReason::UnknownToken]), (1, 9), "{report}");

    // Megatron's modes are modalities; its image codes begin at 8192.
    let mut config = TokenizerConfig { held_out: 0.3, ..self::config() };
    config.text = mom_data::TextConfig { kind: CodeKind::Precomputed, vocab_size: 8192, tokenizer: None };
    config.image.kind = CodeKind::Precomputed;
    config.image.codes = 1024;
    let source = SourceConfig {
        first_token: FirstTokens { image: 8192, ..FirstTokens::default() },
        split: SplitRule::Train,
        ..SourceConfig::at(formats.join("megatron/u16_modes_document.idx"))
    };
    let needs = Needs::CODES;
    let tokenizers = Tokenizers::fit(std::slice::from_ref(&source), &config, needs, |_| {}).unwrap();
    let both = [
        source,
        SourceConfig {
            split: SplitRule::Validation,
            ..SourceConfig::at(formats.join("megatron/u16_text_document.idx"))
        },
    ];
    let data = Dataset::load(&both, &tokenizers).unwrap();
    // One text holds the token 65535.
    assert_eq!((data.train.len(), data.held_out.len()), (5, 5), "{:?}", data.tallies);
    assert_eq!(data.tallies["u16_text_document.idx"].n_skipped(), 1);
}

#[test]
fn what_cannot_be_used_is_an_error_before_anything_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let fit = |sources: &[SourceConfig]| Tokenizers::fit(sources, &config(), ALL, |_| {}).unwrap_err().to_string();
    assert!(fit(&[]).contains("sources must be at least one"));
    let zero = SourceConfig { weight: 0.0, ..generated(3) };
    assert!(fit(&[zero]).contains("sources.weight must be positive"));
    assert!(fit(&[generated(3), generated(4)]).contains("another one for each source, got scenes"));
    let nowhere = folder.path().join("nowhere");
    assert!(fit(&[SourceConfig::at(&nowhere)]).contains("nowhere"));
    assert!(fit(&[SourceConfig::at(folder.path())]).contains("there is nothing"));
    fs::write(folder.path().join("a.xyz"), "?").unwrap();
    let message = fit(&[SourceConfig::at(folder.path())]);
    assert!(message.contains("xyz"), "{message}");
}

#[test]
fn many_units_need_few_open_files() {
    let folder = tempfile::tempdir().unwrap();
    for unit in 0..500 {
        let lines: String =
            (0..4).map(|i| format!("{{\"id\": \"{unit}-{i}\", \"text\": \"text {i} of {unit}\"}}\n")).collect();
        fs::write(folder.path().join(format!("{unit:03}.jsonl")), lines).unwrap();
    }
    let sources = [SourceConfig { split: SplitRule::Train, ..SourceConfig::at(folder.path()) }, {
        SourceConfig { split: SplitRule::Validation, ..generated(5) }
    }];
    let tokenizers = Tokenizers::fit(&sources, &config(), Needs::default(), |_| {}).unwrap();
    let data = Dataset::load(&sources, &tokenizers).unwrap();
    assert_eq!(data.train.len(), 2000);
    let order = mom_data::Order::Shuffled { seed: 1 };
    let mut loader = mom_data::Loader::new(data.train, mom_data::Forms::default(), 4, 64, order).unwrap();
    let (mut n, mut most) = (0, 0);
    while loader.position().window == 0 {
        n += loader.next_batch().unwrap().tokens.iter().filter(|&&token| token == 1).count();
        // Where the system shows them.
        most = most.max(fs::read_dir("/proc/self/fd").map_or(0, Iterator::count));
    }
    assert!(n >= 2000, "{n}");
    assert!(most < 400, "{most} files are open");
}

#[test]
fn a_removed_file_of_tokens_is_made_again_and_times_of_change_do_not_matter_to_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let sources = [mixed(&folder.path().join("shards"))];
    let tokenizers = Tokenizers::fit(&sources, &config(), ALL, |_| {}).unwrap();
    let store = folder.path().join("tokens");
    let prepare = || Dataset::prepare(&sources, &tokenizers, &store, |_| {});
    let whole = prepare().unwrap();
    let one = changes(&store).into_keys().find(|path| path.extension().is_some_and(|e| e == "tokens")).unwrap();
    fs::remove_file(&one).unwrap();
    assert_eq!(prepare().unwrap().fingerprint(), whole.fingerprint());
    assert!(one.is_file());
    // The same bytes, written anew.
    let shard = folder.path().join("shards/texts.tar");
    let bytes = fs::read(&shard).unwrap();
    fs::write(&shard, bytes).unwrap();
    assert_eq!(prepare().unwrap().fingerprint(), whole.fingerprint());
    // Without its source a file cannot be made again.
    fs::remove_dir_all(folder.path().join("shards")).unwrap();
    let tokens = changes(&store).into_keys().filter(|path| path.extension().is_some_and(|e| e == "tokens"));
    tokens.for_each(|path| fs::remove_file(path).unwrap());
    let message = prepare().unwrap_err().to_string();
    assert!(message.contains("is missing, and so is its source shards"), "{message}");
}

#[test]
fn a_picture_that_a_record_names_is_seen_when_it_comes() {
    let folder = tempfile::tempdir().unwrap();
    let lines: String =
        (0..20).map(|i| format!("{{\"id\": {i}, \"text\": \"picture {i}\", \"image\": \"{i}.png\"}}\n")).collect();
    fs::write(folder.path().join("a.jsonl"), lines).unwrap();
    let scene = SceneConfig { image_size: 16, ..SceneConfig::default() };
    let write = |i: u64| {
        let image = encode::png(&scenes::document(1, i, &scene).image).unwrap();
        fs::write(folder.path().join(format!("{i}.png")), image).unwrap();
    };
    (0..19).for_each(write);
    let sources = [SourceConfig { name: Some("records".to_owned()), ..SourceConfig::at(folder.path()) }];
    let tokenizers = Tokenizers::fit(&sources, &config(), Needs::CODES, |_| {}).unwrap();
    let store = tempfile::tempdir().unwrap();
    let tally = || Dataset::prepare(&sources, &tokenizers, store.path(), |_| {}).unwrap().tallies["records"].clone();
    assert_eq!((tally().used, tally().n_skipped()), (19, 1));
    write(19);
    assert_eq!((tally().used, tally().n_skipped()), (20, 0));
}
