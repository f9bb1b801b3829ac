//! Packing: every token once, in order, with the right targets, starts and modalities, under any sizes and orders.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

use common::{ALL, config, options};
use mom_data::{
    Batch, Corpus, DataError, Dataset, DocumentSet, FormWeights, ImageNeed, Loader, Modality, NO_TARGET, Order,
    Position, Recipe, Special, Tokenizers, pixels,
};
use proptest::prelude::*;

/// Documents with image codes and speech units, and documents with continuous patches.
struct Sets {
    codes: Dataset,
    patches: Dataset,
}

static SETS: LazyLock<Sets> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let corpus = Corpus::open(common::write(folder.path(), &options(50))).unwrap();
    let tokenizers = Tokenizers::fit(&corpus, &config(), ALL).unwrap();
    let load = |recipe: &Recipe| Dataset::load(&corpus, &tokenizers, recipe).unwrap();
    Sets { codes: load(&Recipe::three_modality()), patches: load(&Recipe::transfusion()) }
});

fn documents(recipe: &Recipe) -> Arc<DocumentSet> {
    match recipe.needs().image {
        ImageNeed::Patches => SETS.patches.train.clone(),
        _ => SETS.codes.train.clone(),
    }
}

/// What stands at a position of a document: a token, or a patch by its bits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Item {
    Token(u32),
    Patch(Vec<u32>),
}

/// All forms a document can take, as items without the order of parts: the sorted parts.
fn forms(documents: &DocumentSet, recipe: &Recipe, document: usize) -> Vec<Vec<Vec<Item>>> {
    let tokens = |tokens: &[u32]| tokens.iter().map(|&token| Item::Token(token)).collect::<Vec<_>>();
    let marked = |begin: Special, items: Vec<Item>, end: Special| {
        [vec![Item::Token(begin.token())], items, vec![Item::Token(end.token())]].concat()
    };
    let text = tokens(documents.text(document));
    let codes = marked(Special::BeginImage, tokens(documents.image_codes(document)), Special::EndImage);
    let units = marked(Special::BeginSpeech, tokens(documents.speech_units(document)), Special::EndSpeech);
    let mut forms = match *recipe {
        Recipe::Transfusion { patch, .. } => {
            let mut values = Vec::new();
            pixels::to_patches(documents.pixels(document), documents.image_size(), patch, &mut values).unwrap();
            let patches = values.chunks(pixels::patch_dim(patch));
            let patches = patches.map(|patch| Item::Patch(patch.iter().map(|v| v.to_bits()).collect())).collect();
            vec![vec![text, marked(Special::BeginImage, patches, Special::EndImage)]]
        }
        Recipe::Chameleon { .. } => vec![vec![text, codes]],
        _ => vec![
            vec![text.clone(), codes.clone(), units.clone()],
            vec![text.clone(), codes],
            vec![text, units.clone()],
            vec![units],
        ],
    };
    forms.iter_mut().for_each(|parts| parts.sort());
    forms
}

/// Splits the items of a document, without begin-of-document, into sorted parts.
fn parts(items: &[Item]) -> Vec<Vec<Item>> {
    let token = |item: &Item| if let Item::Token(token) = item { *token } else { u32::MAX };
    let mut parts: Vec<Vec<Item>> = Vec::new();
    let mut marked = false;
    for item in items {
        let begins = [Special::BeginImage.token(), Special::BeginSpeech.token()].contains(&token(item));
        if begins || parts.is_empty() || (!marked && parts.last().is_some_and(|part| token(&part[0]) < 6)) {
            parts.push(Vec::new());
        }
        marked = begins || (marked && ![Special::EndImage.token(), Special::EndSpeech.token()].contains(&token(item)));
        parts.last_mut().unwrap().push(item.clone());
    }
    parts.sort();
    parts
}

/// Checks one batch of the stream and appends its items; returns the number of padding positions.
fn check_batch(batch: &Batch, set: &DocumentSet, stream: &mut Vec<(Item, u32)>) -> usize {
    let n = batch.batch * batch.seqlen;
    assert!([batch.tokens.len(), batch.targets.len(), batch.modality_ids.len()].iter().all(|&len| len == n));
    assert!(batch.target_modality_ids.len() == n && batch.document_starts.len() == n);
    assert_eq!(batch.patches.len(), batch.n_patches() * batch.patch_dim);
    assert_eq!(batch.patch_images.len(), batch.n_patches());
    assert!(batch.patch_positions.windows(2).all(|pair| pair[0] < pair[1]));
    let patch_at: HashMap<u32, usize> = batch.patch_positions.iter().copied().zip(0..).collect();
    let mut padding = 0;
    for p in 0..n {
        let patch = patch_at.get(&(p as u32)).copied();
        let pad = batch.tokens[p] == Special::Pad.token() && patch.is_none();
        let begins = pad && (p % batch.seqlen == 0 || stream.last().is_some_and(|(item, _)| *item != PAD));
        let starts = p % batch.seqlen == 0 || batch.tokens[p] == Special::BeginDocument.token() || begins;
        assert_eq!(batch.document_starts[p], starts, "position {p}");
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
                assert_eq!(batch.tokens[p], 0);
                let values = &batch.patches[patch * batch.patch_dim..][..batch.patch_dim];
                Item::Patch(values.iter().map(|v| v.to_bits()).collect())
            }
            None => Item::Token(batch.tokens[p]),
        };
        padding += usize::from(pad);
        stream.push((item, batch.targets[p]));
    }
    check_images(batch);
    padding
}

const PAD: Item = Item::Token(0);

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
        assert_eq!(run.len(), 16);
        assert_eq!(last - first, 15);
        assert_eq!((first - 1) / batch.seqlen, (last + 1) / batch.seqlen);
        assert_eq!(batch.tokens[first - 1], Special::BeginImage.token());
        assert_eq!(batch.tokens[last + 1], Special::EndImage.token());
    }
}

/// Reads one epoch and checks that it is all documents, each once, with all their targets.
fn check_epoch(loader: &mut Loader, recipe: &Recipe) {
    let set = loader.documents().clone();
    assert_eq!(loader.batch(), 1);
    let mut stream = Vec::new();
    let mut padding = 0;
    for _ in 0..loader.n_sequences() {
        padding += check_batch(&loader.next_batch().unwrap(), &set, &mut stream);
    }
    assert_eq!(loader.position().sequence, 0);
    let n_images = if recipe.patch().is_some() { set.len() } else { 0 };
    assert!(padding < (n_images + 1) * loader.seqlen());
    stream.iter().filter(|(item, _)| *item == PAD).for_each(|(_, target)| assert_eq!(*target, NO_TARGET));
    stream.retain(|(item, _)| *item != PAD);

    let begin = Item::Token(Special::BeginDocument.token());
    let mut left: Vec<usize> = (0..set.len()).collect();
    let mut starts: Vec<usize> = (0..stream.len()).filter(|&at| stream[at].0 == begin).collect();
    assert_eq!((starts.first(), starts.len()), (Some(&0), set.len()));
    starts.push(stream.len());
    for bounds in starts.windows(2) {
        let document = &stream[bounds[0]..bounds[1]];
        for (at, (item, target)) in document.iter().enumerate() {
            let expected = match (item, document.get(at + 1)) {
                (Item::Token(_), Some((Item::Token(next), _))) => *next,
                (Item::Token(_), None) => Special::BeginDocument.token(),
                _ => NO_TARGET,
            };
            assert_eq!(*target, expected);
        }
        let items: Vec<Item> = document[1..].iter().map(|(item, _)| item.clone()).collect();
        let found = parts(&items);
        let which = left.iter().position(|&document| forms(&set, recipe, document).contains(&found));
        left.swap_remove(which.expect("a document of the set, not seen before"));
    }
    assert!(left.is_empty());
}

fn recipes() -> impl Strategy<Value = Recipe> {
    let weights = FormWeights { triple: 1.0, caption_image: 1.0, caption_speech: 0.5, speech: 0.5 };
    prop_oneof![
        (0.0..=1.0).prop_map(|caption_first| Recipe::Transfusion { caption_first, patch: 4 }),
        (0.0..=1.0).prop_map(|image_first| Recipe::Chameleon { image_first }),
        Just(Recipe::three_modality()),
        Just(Recipe::ThreeModality { weights }),
    ]
}

fn orders() -> impl Strategy<Value = Order> {
    prop_oneof![3 => any::<u64>().prop_map(|seed| Order::Shuffled { seed }), 1 => Just(Order::Sequential)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_epoch_is_all_documents_once(recipe in recipes(), order in orders(), seqlen in 18usize..300, epoch in 0u64..1000) {
        let mut loader = Loader::new(documents(&recipe), recipe, 1, seqlen, order).unwrap();
        loader.seek(Position { epoch, sequence: 0 }).unwrap();
        check_epoch(&mut loader, &recipe);
        prop_assert_eq!(loader.position(), Position { epoch: epoch + 1, sequence: 0 });
        check_epoch(&mut loader, &recipe);
    }

    #[test]
    fn seeking_continues_and_loaders_agree(
        recipe in recipes(), order in orders(), seqlen in 18usize..200, batch in 1usize..6, steps in 0usize..40,
    ) {
        let new = || Loader::new(documents(&recipe), recipe, batch, seqlen, order).unwrap();
        let (mut first, mut second) = (new(), new());
        for _ in 0..steps {
            prop_assert_eq!(first.next_batch().unwrap(), second.next_batch().unwrap());
        }
        let saved = serde_json::to_string(&first.position()).unwrap();
        let mut third = new();
        third.seek(serde_json::from_str(&saved).unwrap()).unwrap();
        let mut fourth = new();
        fourth.skip(steps * batch);
        for _ in 0..3 {
            let expected = first.next_batch().unwrap();
            prop_assert_eq!(&expected, &third.next_batch().unwrap());
            prop_assert_eq!(&expected, &fourth.next_batch().unwrap());
        }
        prop_assert_eq!(first.position(), third.position());
    }
}

#[test]
fn very_short_sequences_work_without_patches() {
    for seqlen in [1, 2, 3] {
        let recipe = Recipe::three_modality();
        let mut loader = Loader::new(documents(&recipe), recipe, 1, seqlen, Order::Shuffled { seed: 1 }).unwrap();
        check_epoch(&mut loader, &recipe);
    }
}

#[test]
fn epochs_differ_when_shuffled_and_repeat_when_sequential() {
    let recipe = Recipe::chameleon();
    let epochs = |order| {
        let mut loader = Loader::new(documents(&recipe), recipe, 1, 4096, order).unwrap();
        let first = loader.next_batch().unwrap();
        loader.seek(Position { epoch: 1, sequence: 0 }).unwrap();
        (first, loader.next_batch().unwrap())
    };
    let (a, b) = epochs(Order::Sequential);
    assert_eq!(a, b);
    let (c, d) = epochs(Order::Shuffled { seed: 1 });
    assert_ne!(c, d);
    assert_ne!(c, epochs(Order::Shuffled { seed: 2 }).0);
    assert_ne!(c, a);
}

#[test]
fn the_order_of_a_document_is_drawn_anew_every_epoch() {
    let recipe = Recipe::chameleon();
    let order = Order::Shuffled { seed: 3 };
    let mut loader = Loader::new(documents(&recipe), recipe, 1, 1 << 14, order).unwrap();
    assert_eq!(loader.n_sequences(), 1);
    let set = loader.documents().clone();
    let captions: Vec<&[u32]> = (0..set.len()).map(|document| set.text(document)).collect();
    let mut image_first = vec![0; set.len()];
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
    assert!(total.abs_diff(10 * set.len()) < 2 * set.len(), "{total}");
}

#[test]
fn the_splits_are_disjoint_and_do_not_move() {
    let keys = |set: &DocumentSet| (0..set.len()).map(|document| set.key(document).to_owned()).collect::<Vec<_>>();
    let (train, held_out) = (keys(&SETS.codes.train), keys(&SETS.codes.held_out));
    assert!(held_out.iter().all(|key| !train.contains(key)));
    assert_eq!(train.len() + held_out.len(), 50);
    assert_eq!(keys(&SETS.patches.held_out), held_out);
    assert_eq!(held_out[..4], ["00000000", "00000003", "00000004", "00000006"]);
}

#[test]
fn what_cannot_be_packed_is_refused() {
    let recipe = Recipe::transfusion();
    let new = |recipe: Recipe, set: &Dataset, batch, seqlen| {
        Loader::new(set.train.clone(), recipe, batch, seqlen, Order::Sequential).err().unwrap()
    };
    let error = new(recipe, &SETS.patches, 1, 17);
    assert!(matches!(error, DataError::ImageTooLong { n_positions: 18, seqlen: 17 }), "{error}");
    assert!(matches!(new(recipe, &SETS.codes, 1, 64), DataError::Missing { what: "images", .. }));
    assert!(matches!(new(Recipe::chameleon(), &SETS.patches, 1, 64), DataError::Missing { what: "image codes", .. }));
    assert!(matches!(new(Recipe::chameleon(), &SETS.codes, 0, 64), DataError::Config { field: "batch", .. }));
    assert!(matches!(new(Recipe::chameleon(), &SETS.codes, 1, 0), DataError::Config { field: "seqlen", .. }));
    assert!(matches!(new(Recipe::chameleon(), &SETS.codes, 1 << 20, 1 << 20), DataError::Config { .. }));
    assert!(matches!(
        new(Recipe::Transfusion { caption_first: 0.5, patch: 3 }, &SETS.patches, 1, 64),
        DataError::Config { field: "patch", .. }
    ));
    let mut loader = Loader::new(SETS.patches.train.clone(), recipe, 2, 64, Order::Sequential).unwrap();
    let position = loader.position();
    let error = loader.seek(Position { epoch: 3, sequence: 1 << 40 }).unwrap_err();
    assert!(matches!(error, DataError::Position { epoch: 3, .. }), "{error}");
    assert_eq!(loader.position(), position);
}
