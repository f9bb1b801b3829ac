//! Losses and gradients on a GPU against those of the CPU, for batches that lack something.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, clippy::explicit_write, reason = "a helper of a test may fail as the test does")]

mod common;

use std::io::Write as _;

use candle_core::{DType, Device, Tensor};
use common::{Owned, PATCH_DIM, config};
use mom_models::decode::{Decoder, Guidance};
use mom_models::{ModalityLoss, Model, NO_TARGET, Normaliser, Setting, Variant};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// The GPU; where there is none, says so on stderr.
fn gpu(test: &str) -> Option<Device> {
    let error = match mom_core::cuda_device(0) {
        Ok(device) => return Some(device),
        Err(error) => error,
    };
    writeln!(std::io::stderr(), "SKIPPED {test}: {error}").unwrap();
    assert!(std::env::var_os("MOM_REQUIRE_GPU").is_none(), "MOM_REQUIRE_GPU is set, but {error}");
    None
}

/// One sequence of patches alone.
fn patches_alone(n: usize) -> Owned {
    Owned {
        modality_ids: vec![1; n],
        tokens: vec![0; n],
        targets: vec![NO_TARGET; n],
        target_modality_ids: vec![0; n],
        values: (0..n * PATCH_DIM).map(|i| (i as f32).sin()).collect(),
        positions: (0..n as u32).collect(),
        images: vec![0; n],
        ..Owned::new(Setting::Transfusion, 1, n)
    }
}

struct Outcome {
    loss: f32,
    parts: Vec<ModalityLoss>,
    /// By name; zero where the loss does not depend on a parameter.
    gradients: Vec<(String, Vec<f32>)>,
}

fn of((setting, variant): (Setting, Variant), batch: &Owned, device: &Device) -> Outcome {
    let (model, parameters) = Model::seeded(&config(setting, variant), 5, DType::F32, device).unwrap();
    let noise = batch.noise();
    let losses = model.loss(&batch.view(), noise.as_ref(), Normaliser::of(&batch.view())).unwrap();
    let store = losses.total.backward().unwrap();
    let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let gradients = parameters.iter().map(|(name, variable)| {
        let gradient = store.get(variable).map_or_else(|| vec![0.0; variable.elem_count()], values);
        (name.to_owned(), gradient)
    });
    let gradients = gradients.collect();
    Outcome { loss: losses.total.to_vec1::<f32>().unwrap()[0], parts: losses.by_modality().unwrap(), gradients }
}

#[test]
fn batches_that_lack_targets_or_patches_or_text_have_the_losses_of_the_cpu() {
    let Some(device) = gpu("batches_that_lack_targets_or_patches_or_text_have_the_losses_of_the_cpu") else { return };
    let without_targets = |setting, seqlen| {
        let mut batch = Owned::new(setting, 2, seqlen);
        batch.targets.fill(NO_TARGET);
        batch
    };
    // Three positions of Transfusion's documents are text alone.
    let mut batches = vec![
        (Setting::Transfusion, Owned::new(Setting::Transfusion, 1, 3)),
        (Setting::Transfusion, without_targets(Setting::Transfusion, 3)),
        (Setting::Transfusion, patches_alone(7)),
    ];
    batches.extend(Setting::ALL.map(|setting| (setting, without_targets(setting, 13))));
    for (setting, batch) in batches {
        assert_the_same((setting, Variant::Mom), &batch, &device);
    }
}

/// Loss, parts and gradients on the device and on the CPU.
fn assert_the_same(model: (Setting, Variant), batch: &Owned, device: &Device) {
    let (got, want) = (of(model, batch, device), of(model, batch, &Device::Cpu));
    let (loss, expected) = (got.loss, want.loss);
    assert!((loss - expected).abs() <= 1e-5 * expected.abs(), "{model:?}: {loss} against {expected}");
    let counts = |outcome: &Outcome| outcome.parts.iter().map(|part| part.count).collect::<Vec<_>>();
    assert_eq!(counts(&got), counts(&want), "{model:?}");
    for ((name, got), (_, want)) in got.gradients.iter().zip(&want.gradients) {
        let scale = want.iter().fold(0f32, |max, x| max.max(x.abs()));
        let off = got.iter().zip(want).fold(0f32, |max, (a, b)| max.max((a - b).abs()));
        assert!(off <= 1e-4 * scale, "{model:?} {name}: {off:.1e} of {scale:.1e}");
    }
}

#[test]
fn every_arm_has_the_losses_and_gradients_of_the_cpu() {
    let Some(device) = gpu("every_arm_has_the_losses_and_gradients_of_the_cpu") else { return };
    for setting in Setting::ALL {
        for variant in Variant::BASELINES {
            assert_the_same((setting, variant), &Owned::new(setting, 2, 45), &device);
        }
    }
}

#[test]
fn every_arm_decodes_as_on_the_cpu() {
    let Some(device) = gpu("every_arm_decodes_as_on_the_cpu") else { return };
    let (setting, seqlen) = (Setting::ThreeModality, 14);
    let owned = Owned::new(setting, 2, seqlen);
    for variant in Variant::BASELINES {
        let logits = |device: &Device| {
            let (model, _) = Model::seeded(&config(setting, variant), 5, DType::F32, device).unwrap();
            let mut decoder = Decoder::new(&model, 2).unwrap();
            let (mut all, mut t) = (Vec::new(), 0);
            for n in [5, 1, 1, 7] {
                let of = |b: usize| b * seqlen + t..b * seqlen + t + n;
                let tokens: Vec<u32> = (0..2).flat_map(|b| owned.tokens[of(b)].to_vec()).collect();
                let ids: Vec<u8> = (0..2).flat_map(|b| owned.modality_ids[of(b)].to_vec()).collect();
                let logits = decoder.push(&tokens, &ids).unwrap().to_dtype(DType::F32).unwrap();
                all.extend(logits.flatten_all().unwrap().to_vec1::<f32>().unwrap());
                t += n;
            }
            all
        };
        let (got, want) = (logits(&device), logits(&Device::Cpu));
        let off = got.iter().zip(&want).fold(0f32, |max, (a, b)| max.max((a - b).abs()));
        assert!(off < 1e-4, "{variant}: {off:.1e}");
    }
}

#[test]
fn inputs_of_a_graph_have_the_loss_of_others_and_take_another_batch() {
    let Some(device) = gpu("inputs_of_a_graph_have_the_loss_of_others_and_take_another_batch") else { return };
    for setting in [Setting::Chameleon, Setting::ThreeModality] {
        let (model, parameters) = Model::seeded(&config(setting, Variant::Mom), 5, DType::F32, &device).unwrap();
        let batch = |turn: usize| {
            let mut batch = Owned::new(setting, 2, 13);
            batch.tokens.rotate_left(turn);
            batch.modality_ids.rotate_left(turn);
            batch.targets.iter_mut().skip(turn).step_by(5).for_each(|target| *target = NO_TARGET);
            batch
        };
        let counts = |batch: &Owned| Normaliser::of(&batch.view());
        let inputs = |batch: &Owned| model.inputs_for_graph(&batch.view(), counts(batch)).unwrap();
        let mut memory = inputs(&batch(0));
        for turn in 0..3 {
            let batch = batch(turn);
            memory.copy_from(&inputs(&batch)).unwrap();
            let got = model.loss_of(&memory, Normaliser::default()).unwrap();
            let want = model.loss(&batch.view(), None, counts(&batch)).unwrap();
            let value = |tensor: &Tensor| tensor.to_vec1::<f32>().unwrap()[0];
            assert!((value(&got.total) / value(&want.total) - 1.0).abs() < 1e-6, "{setting}, turn {turn}");
            for (got, want) in got.by_modality().unwrap().iter().zip(want.by_modality().unwrap()) {
                assert!(got.count == want.count && (got.sum - want.sum).abs() <= 1e-5 * want.sum, "{setting}");
            }
            let (got, want) = (got.total.backward().unwrap(), want.total.backward().unwrap());
            for (name, variable) in parameters.iter() {
                let values = |store: &candle_core::backprop::GradStore| -> Vec<f32> {
                    store.get(variable).unwrap().flatten_all().unwrap().to_vec1().unwrap()
                };
                let (got, want) = (values(&got), values(&want));
                let scale = want.iter().fold(0f32, |max, x| max.max(x.abs()));
                let off = got.iter().zip(&want).fold(0f32, |max, (a, b)| max.max((a - b).abs()));
                assert!(off <= 1e-5 * scale, "{setting} {name}: {off:.1e} of {scale:.1e}");
            }
        }
        let short = Owned::new(setting, 1, 13);
        let error = memory.copy_from(&inputs(&short)).unwrap_err().to_string();
        assert!(error.contains("batch"), "{error}");
        let error = memory.copy_from(&model.inputs(&short.view(), None).unwrap()).unwrap_err().to_string();
        assert!(error.contains("inputs_for_graph"), "{error}");
    }
}

#[test]
fn a_loss_has_one_backward_pass() {
    let Some(device) = gpu("a_loss_has_one_backward_pass") else { return };
    let batch = Owned::new(Setting::Chameleon, 1, 13);
    let (model, _) = Model::seeded(&config(Setting::Chameleon, Variant::Mom), 5, DType::F32, &device).unwrap();
    let loss = model.loss(&batch.view(), None, Normaliser::of(&batch.view())).unwrap().total;
    loss.backward().unwrap();
    let error = loss.backward().unwrap_err().to_string();
    assert!(error.contains("one backward pass"), "{error}");
}

#[test]
fn decoding_gives_what_it_gives_on_the_cpu() {
    let Some(device) = gpu("decoding_gives_what_it_gives_on_the_cpu") else { return };
    let furthest = |got: &[f32], want: &[f32]| {
        let scale = want.iter().fold(0f32, |max, x| max.max(x.abs()));
        got.iter().zip(want).fold(0f32, |max, (a, b)| max.max((a - b).abs())) / scale
    };
    let tokens = |device: &Device, dtype| -> Vec<Vec<f32>> {
        let (model, _) = Model::seeded(&config(Setting::ThreeModality, Variant::Mom), 5, dtype, device).unwrap();
        let mut decoder = Decoder::new(&model, 2).unwrap();
        let mut logits = vec![decoder.push(&[1, 2, 9, 1, 3, 17], &[0, 0, 1, 0, 0, 2]).unwrap()];
        let branch = decoder.clone();
        logits.push(decoder.push(&[10, 18], &[1, 2]).unwrap());
        logits.push(decoder.push(&[4, 5], &[0, 0]).unwrap());
        // A refused push and a branch leave the decoder as it was.
        assert!(decoder.push(&[99, 1], &[0, 0]).is_err());
        logits.push(branch.clone().push(&[10, 18], &[1, 2]).unwrap());
        let host = |logits: Tensor| logits.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        logits.into_iter().map(host).collect()
    };
    let want = tokens(&Device::Cpu, DType::F32);
    for (dtype, bound) in [(DType::F32, 1e-5), (DType::BF16, 3e-2)] {
        let got = tokens(&device, dtype);
        assert_eq!(got[1], got[3], "a clone is a snapshot");
        for (push, (got, want)) in got.iter().zip(&want).enumerate() {
            let off = furthest(got, want);
            assert!(off < bound, "{dtype:?}, push {push}: {off:.1e} off");
        }
    }
    let image = |device: &Device| {
        let (model, _) = Model::seeded(&config(Setting::Transfusion, Variant::Mom), 5, DType::F32, device).unwrap();
        let mut decoder = Decoder::new(&model, 2).unwrap();
        let mut free = decoder.clone();
        decoder.push(&[1, 7, 2, 1, 8, 2], &[0; 6]).unwrap();
        free.push(&[1, 2, 1, 2], &[0; 4]).unwrap();
        let guidance = Some(Guidance { free: &free, weight: 3.0 });
        decoder.sample_image(4, 20, guidance, &mut [3, 4].map(ChaCha8Rng::seed_from_u64)).unwrap()
    };
    let off = furthest(&image(&device), &image(&Device::Cpu));
    assert!(off < 1e-4, "an image is {off:.1e} off");
}

/// What a captured token gives, against tokens pushed together and the same on the CPU; with a shift of modalities, clones,
/// and pushes that no graph has.
#[test]
fn captured_tokens_are_those_of_whole_sequences() {
    let Some(device) = gpu("captured_tokens_are_those_of_whole_sequences") else { return };
    const N: usize = 12;
    let setting = Setting::ThreeModality;
    let furthest = |got: &[f32], want: &[f32]| {
        let scale = want.iter().fold(0f32, |max, x| max.max(x.abs()));
        got.iter().zip(want).fold(0f32, |max, (a, b)| max.max((a - b).abs())) / scale
    };
    let host =
        |logits: Tensor| -> Vec<f32> { logits.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap() };
    for (dtype, bound) in [(DType::F32, 1e-5), (DType::BF16, 3e-2), (DType::F16, 1e-2)] {
        if dtype == DType::F16 && !cfg!(feature = "f16") {
            continue;
        }
        // Sizes that have captured steps, and with nine sequences some that have not.
        for batch in [1, 3, 8, 9] {
            let of =
                |device: &Device, dtype| Model::seeded(&config(setting, Variant::Mom), 5, dtype, device).unwrap().0;
            let (model, on_cpu) = (of(&device, dtype), of(&Device::Cpu, DType::F32));
            let modality = |t: usize| (t / 2 % 3) as u8;
            let token = |b: usize, t: usize| ((3 * b + 5 * t) % 20) as u32;
            let column = |t: usize| -> Vec<u32> { (0..batch).map(|b| token(b, t)).collect() };
            let whole = |model: &Model, n: usize| {
                let tokens: Vec<u32> = (0..batch).flat_map(|b| (0..n).map(move |t| token(b, t))).collect();
                let ids: Vec<u8> = (0..batch).flat_map(|_| (0..n).map(modality)).collect();
                host(Decoder::new(model, batch).unwrap().push(&tokens, &ids).unwrap())
            };
            let mut decoder = Decoder::new(&model, batch).unwrap();
            let mut snapshots = Vec::new();
            for t in 0..N {
                let got = host(decoder.push(&column(t), &vec![modality(t); batch]).unwrap());
                let (launched, want) = (whole(&model, t + 1), whole(&on_cpu, t + 1));
                let off = furthest(&got, &launched).max(furthest(&got, &want));
                assert!(off < bound, "{dtype:?}, batch {batch}, token {t}: {off:.1e} off");
                snapshots.push(decoder.clone());
                // A refused push leaves the sequences as they were.
                assert!(decoder.push(&vec![1000; batch], &vec![0; batch]).is_err());
            }
            // Each snapshot is where it was taken, whatever the decoder and the others did since: one token, and two at once.
            for (t, snapshot) in snapshots.iter().enumerate().take(N - 1).step_by(3) {
                for mut branch in [snapshot.clone(), snapshot.clone().clone()] {
                    let got = host(branch.push(&column(t + 1), &vec![modality(t + 1); batch]).unwrap());
                    let off = furthest(&got, &whole(&model, t + 2));
                    assert!(off < bound, "{dtype:?}, batch {batch}, branch at {t}: {off:.1e} off");
                }
                let mut branch = snapshot.clone();
                let tokens: Vec<u32> = (0..batch).flat_map(|b| [token(b, t + 1), token(b, t + 2)]).collect();
                let ids: Vec<u8> = (0..batch).flat_map(|_| [modality(t + 1), modality(t + 2)]).collect();
                if t + 2 < N {
                    let got = host(branch.push(&tokens, &ids).unwrap());
                    let off = furthest(&got, &whole(&model, t + 3));
                    assert!(off < bound, "{dtype:?}, batch {batch}, two behind {t}: {off:.1e} off");
                }
                // And one again, behind a push of several.
                if t + 3 < N {
                    let got = host(branch.push(&column(t + 3), &vec![modality(t + 3); batch]).unwrap());
                    let off = furthest(&got, &whole(&model, t + 4));
                    assert!(off < bound, "{dtype:?}, batch {batch}, one behind two at {t}: {off:.1e} off");
                }
            }
        }
    }
}
