//! Training lowers the losses, whatever the number of batches in a step; every variant of a seed sees the same data.

use std::collections::BTreeMap;

use mom_data::{Batch, NO_TARGET};
use mom_models::Setting;
use mom_train::{Prepared, RunConfig, Trainer};

use crate::common::config;
use crate::killed::prepare;

#[test]
fn two_batches_make_a_step_as_one_of_twice_the_size() {
    let folder = tempfile::tempdir().unwrap();
    let with = |more: &[&'static str]| config(Setting::Chameleon, &[&["train.steps=10"], more].concat());
    let prepared = prepare(&with(&[]), folder.path());
    let curve = |config: &RunConfig| -> Vec<f64> {
        let mut trainer = Trainer::new(config, &prepared).unwrap();
        (0..10).map(|_| trainer.step().unwrap().loss).collect()
    };
    let one = curve(&with(&["data.batch=4"]));
    let two = curve(&with(&["data.batch=2", "train.accumulate=2"]));
    for (one, two) in one.iter().zip(&two) {
        assert!((two / one - 1.0).abs() < 1e-5, "{two} is not {one}");
    }
}

/// Cross-entropy of held-out targets, by modality, under how often each token is a target while training: the best that a model
/// can do that looks at nothing.
fn unigram(config: &RunConfig, prepared: &Prepared) -> [f64; 3] {
    let mut counts = [const { BTreeMap::<u32, f64>::new() }; 3];
    let mut loader = prepared.train_loader(config).unwrap();
    for _ in 0..60 {
        for (modality, target) in targets(&loader.next_batch().unwrap()) {
            *counts[modality].entry(target).or_default() += 1.0;
        }
    }
    let (mut sums, mut n) = ([0.0; 3], [0.0; 3]);
    let mut held_out = prepared.validation_loader(config).unwrap();
    for _ in 0..config.train.eval_batches {
        let Some(batch) = held_out.next_batch_of_pass().unwrap() else { break };
        for (modality, target) in targets(&batch) {
            // One more for each, so that none is impossible.
            let total = counts[modality].values().sum::<f64>() + counts[modality].len() as f64 + 1.0;
            sums[modality] -= ((counts[modality].get(&target).unwrap_or(&0.0) + 1.0) / total).ln();
            n[modality] += 1.0;
        }
    }
    std::array::from_fn(|modality| sums[modality] / n[modality])
}

fn targets(batch: &Batch) -> impl Iterator<Item = (usize, u32)> {
    let pairs = batch.target_modality_ids.iter().zip(&batch.targets);
    pairs.filter(|(_, target)| **target != NO_TARGET).map(|(&modality, &target)| (usize::from(modality), target))
}

/// A model that learns nothing but how frequent tokens are, or nothing of the noise but that its mean is 0, fails.
///
/// The variant `published` passes, here and with any margin: its delta starts near 0.69 instead of between 1e-3 and 1e-1, which is no
/// harm to two blocks over 192 positions. After 120 steps its losses over three seeds are among those of `in+x+out`, the same model
/// without the defect (text, image and speech with three modalities: 2.73 to 2.93, 1.82 to 1.94, 2.51 to 2.60 beside 2.74 to 2.93,
/// 1.82 to 1.93, 2.48 to 2.60); it falls behind in long runs (docs/reproduction.md). The defect itself is held by the published
/// code's own values, `mom-core/tests/golden.rs`.
#[test]
fn training_lowers_every_loss_below_what_a_model_without_context_reaches() {
    for setting in Setting::ALL {
        let folder = tempfile::tempdir().unwrap();
        for variant in ["model.variant=dense", "model.variant=mom"] {
            let config = config(setting, &[variant, "train.steps=120", "train.eval_every=60", "train.eval_batches=8"]);
            let prepared = prepare(&config, folder.path());
            let mut trainer = Trainer::new(&config, &prepared).unwrap();
            while trainer.steps_done() < 120 {
                trainer.step().unwrap();
            }
            let after = trainer.validate().unwrap();
            let unigram = unigram(&config, &prepared);
            for (modality, after) in after.by_modality.iter().enumerate() {
                let bound = match (setting, modality) {
                    // Noise has variance 1: what a prediction of 0 is wrong by.
                    (Setting::Transfusion, 1) => 0.8,
                    _ => 0.96 * unigram[modality],
                };
                assert!(after.mean() < bound, "{setting} {variant} {modality}: {} {bound}", after.mean());
            }
        }
    }
}

#[test]
fn every_variant_of_a_seed_sees_the_same_data() {
    let folder = tempfile::tempdir().unwrap();
    let dense = config(Setting::ThreeModality, &["model.variant=dense"]);
    let mom = config(Setting::ThreeModality, &["model.variant=mom"]);
    let prepared = prepare(&dense, folder.path());
    let (mut a, mut b) = (prepared.train_loader(&dense).unwrap(), prepared.train_loader(&mom).unwrap());
    for _ in 0..20 {
        assert_eq!(a.next_batch().unwrap(), b.next_batch().unwrap());
    }
    let other = config(Setting::ThreeModality, &["train.seed=1"]);
    let differs = prepared.train_loader(&other).unwrap().next_batch().unwrap();
    assert_ne!(differs, prepared.train_loader(&dense).unwrap().next_batch().unwrap());
}
