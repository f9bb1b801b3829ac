//! Packing: every document once, whole where it fits, with the right targets, starts and modalities, for any sizes, seeds and
//! ranks.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

use common::{ALL, config, generated};
use mom_data::{
    Batch, Content, DataError, Dataset, Document, Documents, FormWeights, Forms, Loader, Modality, NO_TARGET, Needs,
    Order, Position, Share, SourceConfig, Special, Tokenizers, pixels,
};
use proptest::prelude::*;

/// Documents with image codes and speech units, and documents with continuous patches.
struct Sets {
    codes: Dataset,
    patches: Dataset,
}

static SETS: LazyLock<Sets> = LazyLock::new(|| {
    let load = |needs| {
        let tokenizers = Tokenizers::fit(&[generated(60)], &config(), needs, |_| {}).unwrap();
        Dataset::load(&[generated(60)], &tokenizers).unwrap()
    };
    Sets { codes: load(ALL), patches: load(Needs::PATCHES) }
});

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Codes,
    Patches,
}

fn documents(kind: Kind) -> Arc<Documents> {
    match kind {
        Kind::Codes => SETS.codes.train.clone(),
        Kind::Patches => SETS.patches.train.clone(),
    }
}

/// What stands at a position: a token, or a patch by its bits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Item {
    Token(u32),
    Patch(Vec<u32>),
}

const PAD: Item = Item::Token(0);

fn special(special: Special) -> Item {
    Item::Token(special.token())
}

/// The parts of a document as the items they become, with their markers.
fn parts_of(set: &Documents, document: &Document) -> Vec<Vec<Item>> {
    let tokens = |modality, codes: &[u32]| -> Vec<Item> {
        codes.iter().map(|&code| Item::Token(set.vocabulary().token(modality, code).unwrap())).collect()
    };
    let marked = |begin, items: Vec<Item>, end| [vec![special(begin)], items, vec![special(end)]].concat();
    let image = |items| marked(Special::BeginImage, items, Special::EndImage);
    let part = |content: &Content| match content {
        Content::Text(codes) => tokens(Modality::Text, codes),
        Content::ImageCodes(codes) => image(tokens(Modality::Image, codes)),
        Content::Speech(codes) => marked(Special::BeginSpeech, tokens(Modality::Speech, codes), Special::EndSpeech),
        Content::Pixels(bytes) => {
            let mut values = Vec::new();
            pixels::to_patches(bytes, 16, 4, &mut values).unwrap();
            let bits = |patch: &[f32]| Item::Patch(patch.iter().map(|v| v.to_bits()).collect());
            image(values.chunks(48).map(bits).collect())
        }
        Content::Patches(_) => unreachable!("no latents here"),
    };
    document.parts.iter().map(part).collect()
}

/// Checks one batch and gives the items of each sequence with their targets, padding left out.
fn sequences_of(batch: &Batch, set: &Documents) -> Vec<Vec<(Item, u32)>> {
    let n = batch.batch * batch.seqlen;
    assert!([batch.tokens.len(), batch.targets.len(), batch.modality_ids.len()].iter().all(|&len| len == n));
    assert!(batch.target_modality_ids.len() == n && batch.document_starts.len() == n);
    assert_eq!(batch.patches.len(), batch.n_patches() * batch.patch_dim);
    assert_eq!(batch.patch_images.len(), batch.n_patches());
    assert!(batch.patch_positions.windows(2).all(|pair| pair[0] < pair[1]));
    let patch_at: HashMap<u32, usize> = batch.patch_positions.iter().copied().zip(0..).collect();
    let mut sequences = Vec::new();
    for b in 0..batch.batch {
        let mut sequence: Vec<(Item, u32)> = Vec::new();
        let mut padded = false;
        for p in b * batch.seqlen..(b + 1) * batch.seqlen {
            let patch = patch_at.get(&(p as u32)).copied();
            let modality = match patch {
                Some(_) => Modality::Image,
                None => set.vocabulary().modality_of(batch.tokens[p]).unwrap(),
            };
            assert_eq!(batch.modality_ids[p], modality.id());
            match batch.targets[p] {
                NO_TARGET => assert_eq!(batch.target_modality_ids[p], 0),
                target => {
                    assert_eq!(batch.target_modality_ids[p], set.vocabulary().modality_of(target).unwrap().id());
                }
            }
            let item = match patch {
                Some(patch) => {
                    let values = &batch.patches[patch * batch.patch_dim..][..batch.patch_dim];
                    Item::Patch(values.iter().map(|v| v.to_bits()).collect())
                }
                None => Item::Token(batch.tokens[p]),
            };
            if item == PAD {
                assert!(batch.targets[p] == NO_TARGET);
                assert_eq!(batch.document_starts[p], !padded, "padding begins once, at {p}");
                padded = true;
                continue;
            }
            assert!(!padded, "nothing stands behind padding");
            let begins = item == special(Special::BeginDocument);
            assert!(batch.document_starts[p] || !begins, "{p}");
            sequence.push((item, batch.targets[p]));
        }
        assert!(batch.document_starts[b * batch.seqlen]);
        sequences.push(sequence);
    }
    check_images(batch);
    sequences
}

/// Each image is a run of positions in one sequence, between its markers.
fn check_images(batch: &Batch) {
    let mut runs: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (&image, &p) in batch.patch_images.iter().zip(&batch.patch_positions) {
        runs.entry(image).or_default().push(p);
    }
    assert_eq!(runs.len(), batch.n_images());
    for (index, (image, run)) in runs.iter().enumerate() {
        assert_eq!(*image as usize, index);
        let (first, last) = (run[0] as usize, run[run.len() - 1] as usize);
        assert_eq!((run.len(), last - first), (16, 15));
        assert_eq!((first - 1) / batch.seqlen, (last + 1) / batch.seqlen);
        assert_eq!(batch.tokens[first - 1], Special::BeginImage.token());
        assert_eq!(batch.tokens[last + 1], Special::EndImage.token());
    }
}

/// Targets of a whole document, or of one of its pieces with what follows.
fn check_targets(piece: &[(Item, u32)], next: Option<&Item>) {
    for (at, (item, target)) in piece.iter().enumerate() {
        let following = piece.get(at + 1).map(|(item, _)| item).or(next);
        let expected = match (item, following) {
            (Item::Token(_), Some(Item::Token(next))) => *next,
            (Item::Token(_), None) => Special::BeginDocument.token(),
            _ => NO_TARGET,
        };
        assert_eq!(*target, expected, "{at} of {}", piece.len());
    }
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Codes), Just(Kind::Patches)]
}

fn forms() -> impl Strategy<Value = Forms> {
    let weights = FormWeights { triple: 1.0, text_image: 1.0, text_speech: 0.5, speech: 0.5, ..FormWeights::default() };
    let some = prop_oneof![Just(None), Just(Some(weights))];
    (0.0..=1.0, prop_oneof![Just(0.0), 0.0..=1.0], some).prop_map(|(text_first, caption_dropout, weights)| Forms {
        text_first,
        caption_dropout,
        weights,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_epoch_is_all_documents_once_and_whole(
        kind in kinds(), forms in forms(), seed in any::<u64>(), seqlen in 320usize..900, window in 0u64..1000,
    ) {
        let set = documents(kind);
        let mut loader = Loader::new(set.clone(), forms, 1, seqlen, Order::Shuffled { seed }).unwrap();
        loader.seek(Position { window, sequence: 0 }).unwrap();
        prop_assert_eq!(loader.n_cut(), 0);
        let mut left: Vec<Vec<Vec<Item>>> =
            (0..set.len()).map(|at| parts_of(&set, &set.document(at).unwrap())).collect();
        for _ in 0..loader.n_sequences() {
            for sequence in sequences_of(&loader.next_batch().unwrap(), &set) {
                let mut starts: Vec<usize> =
                    (0..sequence.len()).filter(|&at| sequence[at].0 == special(Special::BeginDocument)).collect();
                prop_assert!(sequence.is_empty() || starts[0] == 0, "no piece of a document stands alone");
                starts.push(sequence.len());
                for bounds in starts.windows(2) {
                    let document = &sequence[bounds[0]..bounds[1]];
                    check_targets(document, None);
                    let items: Vec<Item> = document[1..].iter().map(|(item, _)| item.clone()).collect();
                    // Some parts of one document of the set, in some order.
                    let is_of = |parts: &Vec<Vec<Item>>| {
                        let found: Vec<&Vec<Item>> =
                            parts.iter().filter(|part| items.windows(part.len()).any(|w| w == &part[..])).collect();
                        !found.is_empty() && found.iter().map(|part| part.len()).sum::<usize>() == items.len()
                    };
                    let which = left.iter().position(is_of);
                    left.swap_remove(which.expect("a document of the set, not seen before"));
                }
            }
        }
        prop_assert!(left.is_empty());
        prop_assert_eq!(loader.position(), Position { window: window + 1, sequence: 0 });
    }

    #[test]
    fn seeking_continues_and_loaders_agree(
        kind in kinds(), forms in forms(), seed in any::<u64>(), seqlen in 20usize..300, batch in 1usize..6,
        steps in 0usize..40,
    ) {
        let new = || Loader::new(documents(kind), forms, batch, seqlen, Order::Shuffled { seed }).unwrap();
        let (mut first, mut second) = (new(), new());
        for _ in 0..steps {
            prop_assert_eq!(first.next_batch().unwrap(), second.next_batch().unwrap());
        }
        let saved = serde_json::to_string(&first.position()).unwrap();
        let mut third = new();
        third.seek(serde_json::from_str(&saved).unwrap()).unwrap();
        let mut fourth = new();
        fourth.skip(steps * batch).unwrap();
        for _ in 0..3 {
            let expected = first.next_batch().unwrap();
            prop_assert_eq!(&expected, &third.next_batch().unwrap());
            prop_assert_eq!(&expected, &fourth.next_batch().unwrap());
        }
        prop_assert_eq!(first.position(), third.position());
    }

    #[test]
    fn what_ranks_see_together_does_not_depend_on_their_number(
        kind in kinds(), seed in any::<u64>(), seqlen in 20usize..300, steps in 1usize..8,
    ) {
        const GLOBAL: usize = 12;
        let new = |batch| {
            Loader::new(documents(kind), Forms::default(), batch, seqlen, Order::Shuffled { seed }).unwrap()
        };
        let mut whole = new(GLOBAL);
        let mut ranks: Vec<Vec<Loader>> = [2, 3, 4]
            .into_iter()
            .map(|of| (0..of).map(|rank| new(GLOBAL / of).shared(Share { rank, of }).unwrap()).collect())
            .collect();
        for _ in 0..steps {
            let batch = whole.next_batch().unwrap();
            for loaders in &mut ranks {
                let parts: Vec<Batch> = loaders.iter_mut().map(|loader| loader.next_batch().unwrap()).collect();
                let tokens: Vec<u32> = parts.iter().flat_map(|part| part.tokens.clone()).collect();
                let targets: Vec<u32> = parts.iter().flat_map(|part| part.targets.clone()).collect();
                let patches: Vec<f32> = parts.iter().flat_map(|part| part.patches.clone()).collect();
                prop_assert!(tokens == batch.tokens && targets == batch.targets && patches == batch.patches);
                prop_assert!(loaders.iter().all(|loader| loader.position() == whole.position()));
            }
        }
    }

    #[test]
    fn a_document_longer_than_a_sequence_is_cut_and_nothing_is_lost(seqlen in 18usize..60, seed in any::<u64>()) {
        let set = documents(Kind::Patches);
        let mut loader =
            Loader::new(set.clone(), Forms::default(), 1, seqlen, Order::Shuffled { seed }).unwrap();
        prop_assert!(loader.n_cut() > 0);
        let mut found: Vec<Item> = Vec::new();
        for _ in 0..loader.n_sequences() {
            let batch = loader.next_batch().unwrap();
            found.extend(sequences_of(&batch, &set).into_iter().flatten().map(|(item, _)| item));
        }
        let mut expected: Vec<Item> = (0..set.len())
            .flat_map(|at| {
                let parts = parts_of(&set, &set.document(at).unwrap());
                std::iter::once(special(Special::BeginDocument)).chain(parts.into_iter().flatten())
            })
            .collect();
        found.sort();
        expected.sort();
        prop_assert!(found == expected);
    }
}

#[test]
fn a_validation_is_one_pass_the_same_always() {
    let set = SETS.codes.held_out.clone();
    let pass = || {
        let mut loader = Loader::pass(set.clone(), Forms::default(), 3, 300).unwrap();
        let mut batches = Vec::new();
        while let Some(batch) = loader.next_batch_of_pass().unwrap() {
            batches.push(batch);
        }
        assert_eq!(batches.len(), loader.n_sequences().div_ceil(3));
        batches
    };
    let batches = pass();
    assert_eq!(batches, pass());
    let n: usize = batches.iter().flat_map(|batch| &batch.tokens).filter(|&&token| token == 1).count();
    assert_eq!(n as u64, set.len(), "each document once");
}

#[test]
fn the_order_of_a_document_is_drawn_anew_every_epoch() {
    let set = documents(Kind::Codes);
    let weights = FormWeights { text_image: 1.0, ..FormWeights::default() };
    let forms = Forms { weights: Some(weights), ..Forms::default() };
    let mut loader = Loader::new(set.clone(), forms, 1, 1 << 14, Order::Shuffled { seed: 3 }).unwrap();
    assert_eq!(loader.n_sequences(), 1);
    let captions: Vec<Vec<u32>> = (0..set.len())
        .map(|at| match &set.document(at).unwrap().parts[0] {
            Content::Text(codes) => {
                codes.iter().map(|&code| set.vocabulary().token(Modality::Text, code).unwrap()).collect()
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let mut image_first = vec![0; captions.len()];
    for _ in 0..20 {
        let batch = loader.next_batch().unwrap();
        for (document, caption) in captions.iter().enumerate() {
            let at = batch.tokens.windows(caption.len()).position(|tokens| tokens == *caption).unwrap();
            image_first[document] += usize::from(batch.tokens[at - 1] == Special::EndImage.token());
        }
    }
    // Twenty coins each: hardly any lands on one side always.
    assert!(image_first.iter().filter(|&&count| count == 0 || count == 20).count() <= 1, "{image_first:?}");
    let total: usize = image_first.iter().sum();
    assert!(total.abs_diff(10 * captions.len()) < 2 * captions.len(), "{total}");
}

#[test]
fn sources_come_in_the_shares_of_their_weights() {
    let folder = tempfile::tempdir().unwrap();
    let texts = folder.path().join("texts");
    std::fs::create_dir(&texts).unwrap();
    for i in 0..40 {
        let text = format!("story {i}: ").repeat(40 + i);
        std::fs::write(texts.join(format!("{i:03}.txt")), text).unwrap();
    }
    let sources = [
        SourceConfig { weight: 1.0, ..generated(50) },
        SourceConfig { weight: 6.0, name: Some("stories".to_owned()), ..SourceConfig::at(&texts) },
    ];
    let tokenizers = Tokenizers::fit(&sources, &config(), ALL, |_| {}).unwrap();
    let data = Dataset::load(&sources, &tokenizers).unwrap();
    let mut loader = Loader::new(data.train, Forms::default(), 4, 1024, Order::Shuffled { seed: 1 }).unwrap();
    let (mut images, mut text) = (0.0, 0.0);
    for _ in 0..200 {
        let batch = loader.next_batch().unwrap();
        for b in 0..4 {
            let row = &batch.tokens[b * 1024..][..1024];
            let starts: Vec<usize> = (0..1024).filter(|&t| batch.document_starts[b * 1024 + t]).collect();
            for (at, &start) in starts.iter().enumerate() {
                let piece = &row[start..starts.get(at + 1).copied().unwrap_or(1024)];
                let is_scene = piece.iter().any(|&token| (2..6).contains(&token));
                let n = piece.iter().filter(|&&token| token != 0).count() as f64;
                *(if is_scene { &mut images } else { &mut text }) += n;
            }
        }
    }
    let ratio = text / images;
    assert!((5.4..6.6).contains(&ratio), "{ratio}");
}

#[test]
fn what_cannot_be_packed_is_refused() {
    let new = |set: &Dataset, batch, seqlen| {
        Loader::new(set.train.clone(), Forms::default(), batch, seqlen, Order::Fixed).err().unwrap()
    };
    let error = new(&SETS.patches, 1, 17);
    assert!(matches!(error, DataError::ImageTooLong { n_positions: 18, seqlen: 17 }), "{error}");
    assert!(matches!(new(&SETS.codes, 0, 64), DataError::Config { field: "batch", .. }));
    assert!(matches!(new(&SETS.codes, 1, 0), DataError::Config { field: "seqlen", .. }));
    assert!(matches!(new(&SETS.codes, 1 << 20, 1 << 20), DataError::Config { .. }));
    let loader = || Loader::new(SETS.patches.train.clone(), Forms::default(), 2, 64, Order::Fixed).unwrap();
    assert!(matches!(loader().shared(Share { rank: 2, of: 2 }).unwrap_err(), DataError::Config { field: "rank", .. }));
    let mut loader = loader();
    let position = loader.position();
    let error = loader.seek(Position { window: 3, sequence: 1 << 40 }).unwrap_err();
    assert!(matches!(error, DataError::Position { window: 3, .. }), "{error}");
    assert_eq!(loader.position(), position);
}
