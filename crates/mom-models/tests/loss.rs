//! Losses of the three settings: finite differences through the whole model, and what must not matter.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

mod common;

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, TensorId};
use common::{Owned, VOCAB, config};
use mom_core::autograd::Tape;
use mom_models::diffusion::Noise;
use mom_models::{Model, ModelConfig, NO_TARGET, Normaliser, Parameters, Setting, Variant};

fn model(config: &ModelConfig) -> (Model, Parameters) {
    Model::seeded(config, 5, DType::F64, &Device::Cpu).unwrap()
}

fn total(model: &Model, batch: &Owned, noise: Option<&Noise>) -> f64 {
    let losses = model.loss(&batch.view(), noise, Normaliser::of(&batch.view())).unwrap();
    losses.total.to_vec1::<f64>().unwrap()[0]
}

/// Gradients of all parameters by a tape of recorded functions alone.
fn by_tape(model: &Model, batch: &Owned, noise: Option<&Noise>) -> HashMap<TensorId, Tensor> {
    assert!(model.is_recorded());
    let tape = Tape::new();
    let losses = tape.scope(|| model.loss(&batch.view(), noise, Normaliser::of(&batch.view()))).unwrap();
    let mut gradients = HashMap::new();
    let seed = losses.total.ones_like().unwrap();
    let take = |id, gradient| {
        assert!(gradients.insert(id, gradient).is_none(), "handed out twice");
        Ok(())
    };
    tape.backward(&losses.total, seed, take).unwrap();
    gradients
}

#[test]
fn a_whole_model_of_every_setting_meets_finite_differences() {
    for (setting, variant) in [
        (Setting::Transfusion, Variant::Mom),
        (Setting::Chameleon, Variant::Dense),
        (Setting::ThreeModality, Variant::Mom),
        (Setting::ThreeModality, Variant::Published),
    ] {
        let config = ModelConfig { z_loss: 1e-2, ..config(setting, variant) };
        let (model, parameters) = model(&config);
        // Away from the patcher's zero start, where gradients of everything before it would be zero.
        for (name, variable) in parameters.iter() {
            if name.starts_with("patcher.patch_out") {
                let n = variable.elem_count();
                let values: Vec<f64> = (0..n).map(|i| (i as f64 * 0.9).sin() * 0.3).collect();
                variable.set(&Tensor::from_vec(values, variable.shape(), &Device::Cpu).unwrap()).unwrap();
            }
        }
        let batch = Owned::new(setting, 2, 13);
        let noise = batch.noise();
        let losses = model.loss(&batch.view(), noise.as_ref(), Normaliser::of(&batch.view())).unwrap();
        let grads = losses.total.backward().unwrap();
        let by_tape = by_tape(&model, &batch, noise.as_ref());
        for (name, variable) in parameters.iter() {
            let values = |gradient: &Tensor| gradient.flatten_all().unwrap().to_vec1::<f64>().unwrap();
            let grad = values(grads.get(variable).unwrap());
            assert_eq!(values(&by_tape[&variable.as_tensor().id()]), grad, "{setting} {variant} {name}: candle's tape");
            let start = variable.flatten_all().unwrap().to_vec1::<f64>().unwrap();
            for i in (0..start.len()).step_by(start.len().div_ceil(3)) {
                let at = |value: f64| {
                    let mut moved = start.clone();
                    moved[i] = value;
                    variable.set(&Tensor::from_vec(moved, variable.shape(), &Device::Cpu).unwrap()).unwrap();
                    total(&model, &batch, noise.as_ref())
                };
                let difference = (at(start[i] + 1e-5) - at(start[i] - 1e-5)) / 2e-5;
                at(start[i]);
                let error = (grad[i] - difference).abs();
                let what = format!("{setting} {variant} {name}[{i}]");
                assert!(error <= 1e-8 + 1e-6 * difference.abs(), "{what}: {} against {difference}", grad[i]);
            }
        }
    }
}

#[test]
fn accumulated_small_batches_are_one_large_batch() {
    for setting in Setting::ALL {
        let (model, parameters) = model(&config(setting, Variant::Mom));
        let whole = Owned::new(setting, 4, 13);
        let noise = whole.noise();
        let counts = Normaliser::of(&whole.view());
        let losses = model.loss(&whole.view(), noise.as_ref(), counts).unwrap();
        let want = losses.total.backward().unwrap();
        let mut sums: Vec<Tensor> = parameters.iter().map(|(_, v)| v.zeros_like().unwrap()).collect();
        let (mut images, mut values) = (0, 0);
        for part in [whole.sequences(0, 1), whole.sequences(1, 3)] {
            let n_images = part.images.last().map_or(0, |&last| last as usize + 1);
            let noise = noise.as_ref().map(|noise| Noise {
                timesteps: noise.timesteps[images..images + n_images].to_vec(),
                epsilon: noise.epsilon[values..values + part.values.len()].to_vec(),
            });
            (images, values) = (images + n_images, values + part.values.len());
            let grads = model.loss(&part.view(), noise.as_ref(), counts).unwrap().total.backward().unwrap();
            for (sum, (_, variable)) in sums.iter_mut().zip(parameters.iter()) {
                *sum = (&*sum + grads.get(variable).unwrap()).unwrap();
            }
        }
        for (sum, (name, variable)) in sums.iter().zip(parameters.iter()) {
            let error = (sum - want.get(variable).unwrap()).unwrap().abs().unwrap().max_all().unwrap();
            assert!(error.to_scalar::<f64>().unwrap() < 1e-12, "{setting} {name}");
        }
    }
}

#[test]
fn losses_are_reported_by_the_targets_modality() {
    let batch = Owned::new(Setting::ThreeModality, 3, 17);
    let (model, _) = model(&config(Setting::ThreeModality, Variant::Mom));
    let losses = model.loss(&batch.view(), None, Normaliser::of(&batch.view())).unwrap();
    for modality in 0..3 {
        let count = (0..batch.targets.len())
            .filter(|&p| batch.targets[p] != NO_TARGET && usize::from(batch.target_modality_ids[p]) == modality)
            .count();
        assert_eq!(losses.by_modality().unwrap()[modality].count, count);
        // A new model knows nothing: near log of the vocabulary.
        assert!((losses.by_modality().unwrap()[modality].mean() - (VOCAB as f64).ln()).abs() < 0.3);
    }
    let sum: f64 = losses.by_modality().unwrap().iter().map(|loss| loss.sum).sum();
    let count: usize = losses.by_modality().unwrap().iter().map(|loss| loss.count).sum();
    let total = losses.total.to_vec1::<f64>().unwrap()[0];
    assert!((total - sum / count as f64).abs() < 1e-12);
}

#[test]
fn the_diffusion_loss_starts_at_the_noises_variance_with_its_weight() {
    let batch = Owned::new(Setting::Transfusion, 3, 17);
    let (model, _) = model(&config(Setting::Transfusion, Variant::Mom));
    let noise = batch.noise().unwrap();
    let losses = model.loss(&batch.view(), Some(&noise), Normaliser::of(&batch.view())).unwrap();
    let square = noise.epsilon.iter().map(|&e| f64::from(e * e)).sum::<f64>() / noise.epsilon.len() as f64;
    assert!((losses.by_modality().unwrap()[1].mean() - square).abs() < 1e-6, "the first prediction is zero");
    let total = losses.total.to_vec1::<f64>().unwrap()[0];
    let want = losses.by_modality().unwrap()[0].mean() + 5.0 * losses.by_modality().unwrap()[1].mean();
    assert!((total - want).abs() < 1e-9);
}

#[test]
fn batches_without_images_or_without_targets_have_a_loss() {
    let (model, _) = model(&config(Setting::Transfusion, Variant::Mom));
    let mut batch = Owned::new(Setting::Transfusion, 1, 3);
    assert!(batch.values.is_empty());
    assert!(total(&model, &batch, None).is_finite());
    batch.targets.fill(NO_TARGET);
    assert_eq!(total(&model, &batch, None), 0.0);
}

#[test]
fn what_does_not_fit_is_named() {
    let (model, _) = model(&config(Setting::Transfusion, Variant::Mom));
    let good = Owned::new(Setting::Transfusion, 2, 13);
    let noise = good.noise().unwrap();
    let message = |change: &dyn Fn(&mut Owned)| {
        let mut batch = good.clone();
        change(&mut batch);
        model.loss(&batch.view(), Some(&noise), Normaliser::default()).unwrap_err().to_string()
    };
    assert_eq!(message(&|b| b.tokens[4] = 24), "batch: tokens[4] is 24, expected below the vocabulary's 24");
    assert_eq!(message(&|b| b.targets[0] = 99), "batch: targets[0] is 99, expected below the vocabulary's 24");
    assert_eq!(message(&|b| b.modality_ids[2] = 2), "modality_ids[2] = 2, but there are 2 modalities (ids 0..2)");
    assert_eq!(message(&|b| b.target_modality_ids[1] = 7), "batch: target_modality_ids[1] is 7, expected below 2");
    assert_eq!(message(&|b| b.values[5] = f32::NAN), "batch: patches.values[5] is NaN, expected finite");
    assert!(message(&|b| b.modality_ids[3] = 0).contains("patches.positions"));
    assert!(message(&|b| b.images[1] = 5).contains("patches.images"));
    assert!(message(&|b| b.tokens.truncate(3)).contains("tokens is 3 entries, expected 26 entries"));
    let without = model.loss(&good.view(), None, Normaliser::default()).unwrap_err().to_string();
    assert!(without.contains("noise is absent"), "{without}");
    let short = Noise { timesteps: vec![1], ..noise.clone() };
    let error = model.loss(&good.view(), Some(&short), Normaliser::default()).unwrap_err().to_string();
    assert!(error.contains("noise.timesteps is 1, expected"), "{error}");
    assert!(Model::seeded(model.config(), 1, DType::BF16, &Device::Cpu).unwrap_err().to_string().contains("bf16"));
}

#[test]
fn single_precision_agrees_with_double() {
    for setting in Setting::ALL {
        let config = config(setting, Variant::Mom);
        let batch = Owned::new(setting, 2, 13);
        let noise = batch.noise();
        let want = total(&model(&config).0, &batch, noise.as_ref());
        let (single, _) = Model::seeded(&config, 5, DType::F32, &Device::Cpu).unwrap();
        let losses = single.loss(&batch.view(), noise.as_ref(), Normaliser::of(&batch.view())).unwrap();
        let got = f64::from(losses.total.to_vec1::<f32>().unwrap()[0]);
        assert!((got - want).abs() < 1e-5 * want, "{setting}: {got} {want}");
    }
}

#[test]
fn experts_that_start_alike_start_as_the_dense_model() {
    for setting in Setting::ALL {
        let batch = Owned::new(setting, 2, 13);
        let noise = batch.noise();
        let loss = |variant| total(&model(&config(setting, variant)).0, &batch, noise.as_ref());
        let [dense, alike, apart] = [Variant::Dense, Variant::MomAlike, Variant::Mom].map(loss);
        assert!((alike / dense - 1.0).abs() < 1e-14, "{setting}: {alike}, {dense}");
        // A transfusion model predicts no noise at its start, whatever its blocks do: its text tells them apart.
        assert!((apart / dense - 1.0).abs() > 1e-5, "{setting}: {apart}, {dense}");
    }
}

#[test]
fn parameter_counts_are_those_of_the_configuration() {
    for setting in Setting::ALL {
        for variant in [Variant::Dense, Variant::Mom, Variant::Published, "in+dt".parse().unwrap()] {
            let config = config(setting, variant);
            let (_, parameters) = model(&config);
            assert_eq!(
                parameters.n_elements(),
                config.total_parameters() + config.patcher_parameters(),
                "{setting} {variant}"
            );
        }
    }
}
