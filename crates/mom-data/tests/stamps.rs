//! Tux Paint's stamps through the whole way: one picture has many languages and voices, and is never on both sides.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use common::{ALL, config};
use mom_data::{Dataset, Documents, SourceConfig, TokenizerConfig, Tokenizers};

/// Pictures of a split: keys are `PICTURE#LANGUAGE`.
fn pictures(documents: &Documents) -> (BTreeSet<String>, usize) {
    let n_documents = (0..documents.len()).count();
    let key = |at| documents.document(at).unwrap().key;
    let picture = |key: String| key.split('#').next().unwrap_or_default().to_owned();
    ((0..documents.len()).map(|at| picture(key(at))).collect(), n_documents)
}

#[test]
fn one_stamp_is_never_on_both_sides() {
    let source = SourceConfig::at(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/tuxpaint"));
    let mut both = 0;
    for held_out in [0.2, 0.35, 0.5, 0.65] {
        let config = TokenizerConfig { held_out, ..config() };
        let Ok(tokenizers) = Tokenizers::fit(std::slice::from_ref(&source), &config, ALL, |_| {}) else { continue };
        let Ok(data) = Dataset::load(std::slice::from_ref(&source), &tokenizers) else { continue };
        let ((train, n_train), (held_out, n_held_out)) = (pictures(&data.train), pictures(&data.held_out));
        assert!(train.is_disjoint(&held_out), "{train:?} {held_out:?}");
        // There are several documents of a picture: the split is one of pictures, not of documents.
        assert!(n_train > train.len(), "{n_train} documents of {train:?}");
        both += usize::from(n_held_out > held_out.len());
    }
    assert!(both > 0, "no share of held-out samples made two sides");
}
