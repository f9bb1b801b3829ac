//! One sequence over several ranks (`train.dist.context`): n ranks are one.

use std::path::Path;

use mom_models::{Setting, Variant};
use mom_train::dist::World;
use mom_train::run::{Silent, train as train_alone};
use mom_train::{Error, Graph, Prepared, RunConfig};

use crate::common::config;
use crate::threads::{curve, train};
use crate::training::{StopAfter, furthest, same_curve};

const STEP: [&str; 3] = ["data.batch=2", "train.accumulate=2", "train.steps=6"];

fn prepare(config: &RunConfig, folder: &Path) -> Prepared {
    Prepared::new(config, folder, |_| {}).unwrap()
}

/// The same run with so many chunks of a sequence.
fn chunked(config: &RunConfig, context: usize) -> RunConfig {
    let mut config = config.clone();
    config.train.dist.context = context;
    config
}

#[test]
fn chunks_have_the_losses_of_whole_sequences() {
    for setting in Setting::ALL {
        let folder = tempfile::tempdir().unwrap();
        let config = config(setting, &STEP);
        let prepared = prepare(&config, folder.path());
        let alone = curve(1, &config, &prepared);
        for (size, context) in [(2, 2), (3, 3), (4, 2), (8, 8)] {
            let off = furthest(&curve(size, &chunked(&config, context), &prepared), &alone);
            println!("{setting}, {size} ranks, {context} chunks: {off:.1e}");
            assert!(off < 1e-6, "{setting}: {size} ranks with {context} chunks are {off:.1e} off");
        }
    }
}

#[test]
fn two_runs_of_the_same_chunks_have_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let config = chunked(&config(Setting::Transfusion, &STEP), 2);
    let prepared = prepare(&config, folder.path());
    assert_eq!(curve(4, &config, &prepared), curve(4, &config, &prepared));
}

/// A run that is stopped goes on with another number of chunks, and its validations are those of one process: three batches, which two
/// groups of ranks do not share out evenly.
#[test]
fn a_run_goes_on_at_any_number_of_chunks() {
    let folder = tempfile::tempdir().unwrap();
    let more =
        ["train.steps=10", "train.checkpoint_every=3", "train.eval_every=2", "train.eval_batches=3", "data.batch=4"];
    let config = config(Setting::Transfusion, &more);
    let prepared = prepare(&config, folder.path());
    let (alone, several) = (folder.path().join("alone"), folder.path().join("several"));
    train_alone(&config, &alone, &prepared, &mut Silent).unwrap();
    for (size, context, step) in [(2, 2, 3), (1, 1, 4), (4, 2, 6), (2, 1, 8)] {
        let config = chunked(&config, context);
        for outcome in train(size, &config, &several, &prepared, |_| StopAfter { step, done: 0 }) {
            assert!(matches!(outcome, Err(Error::Stopped { .. })), "{outcome:?}");
        }
    }
    let results = train(3, &chunked(&config, 3), &several, &prepared, |_| Silent);
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    same_curve(&alone, &several);
}

#[test]
fn what_cannot_be_cut_is_refused_before_anything_begins() {
    let refused = |size: usize, context: usize, change: &dyn Fn(&mut RunConfig)| {
        let mut config = chunked(&config(Setting::Chameleon, &[]), context);
        change(&mut config);
        config.validate().and_then(|()| World::check_step(&config, size)).unwrap_err().to_string()
    };
    for size in [1, 3] {
        let message = refused(size, 2, &|_| {});
        let expected = format!("train.dist.context must be a number that divides that of ranks, {size}");
        assert!(message.contains(&expected), "{message}");
    }
    let message = refused(5, 5, &|_| {});
    assert!(message.contains("data.seqlen must be a multiple of train.dist.context, 5"), "{message}");
    let message = refused(96, 96, &|_| {});
    assert!(message.contains("at least 3 positions for each"), "{message}");
    for variant in [Variant::Transformer, Variant::Mot, Variant::Router] {
        let message = refused(2, 2, &|config| config.model.variant = variant);
        assert!(message.contains("train.dist.context must be 1 for"), "{message}");
    }
    let message = refused(2, 2, &|config| config.train.graph = Graph::Always);
    assert!(message.contains("train.graph must be auto or never for chunks of sequences"), "{message}");
    // Half as many ranks share out the sequences of a step.
    let message = refused(6, 2, &|config| config.data.batch = 4);
    assert!(message.contains("3 ranks have equal shares"), "{message}");
    // A world that finds out by itself: every rank says so.
    let folder = tempfile::tempdir().unwrap();
    let config = chunked(&config(Setting::Chameleon, &[]), 2);
    let prepared = prepare(&config, folder.path());
    for outcome in train(3, &config, &folder.path().join("run"), &prepared, |_| Silent) {
        assert!(outcome.unwrap_err().to_string().contains("train.dist.context"));
    }
}
