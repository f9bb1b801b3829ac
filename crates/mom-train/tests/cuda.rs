//! Training on a GPU against training on the CPU, and against itself.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

mod common;

use std::path::Path;

use candle_core::Tensor;
use common::{config, gpu, read};
use mom_models::Setting;
use mom_models::decode::Sampling;
use mom_train::run::{Observer, Pace, Silent, train};
use mom_train::{DeviceKind, Error, GenerateOptions, Generator, Precision, Prepared, RunConfig, Trainer};

fn prepare(config: &RunConfig, folder: &Path) -> Prepared {
    Prepared::new(config, folder, |_| {}).unwrap()
}

/// Losses of every step.
fn curve(config: &RunConfig, prepared: &Prepared) -> Vec<f64> {
    let mut trainer = Trainer::new(config, prepared).unwrap();
    (0..config.train.steps).map(|_| trainer.step().unwrap().loss).collect()
}

fn furthest(got: &[f64], want: &[f64]) -> f64 {
    got.iter().zip(want).map(|(got, want)| (got / want - 1.0).abs()).fold(0.0, f64::max)
}

#[test]
fn fifty_steps_follow_the_cpu() {
    let Some(_gpu) = gpu("fifty_steps_follow_the_cpu") else { return };
    for setting in Setting::ALL {
        let folder = tempfile::tempdir().unwrap();
        let base = ["train.steps=50", "optimizer.learning_rate=2e-3", "data.batch=4"];
        let with = |more: &[&'static str]| config(setting, &[&base, more].concat());
        let prepared = prepare(&with(&[]), folder.path());
        let on_cpu = curve(&with(&[]), &prepared);
        let f32 = curve(&with(&["train.device=cuda", "train.dtype=f32"]), &prepared);
        let bf16 = curve(&with(&["train.device=cuda"]), &prepared);
        let (f32, bf16) = (furthest(&f32, &on_cpu), furthest(&bf16, &on_cpu));
        println!("{setting}: loss {:.4} to {:.4}, f32 {f32:.1e}, bf16 {bf16:.1e}", on_cpu[0], on_cpu[49]);
        assert!(f32 < 1e-4, "{setting}: f32 is {f32:.1e} off");
        assert!(bf16 < 1e-2, "{setting}: bf16 is {bf16:.1e} off");
    }
}

#[test]
fn two_batches_make_a_step_as_one_of_twice_the_size() {
    let Some(_gpu) = gpu("two_batches_make_a_step_as_one_of_twice_the_size") else { return };
    let folder = tempfile::tempdir().unwrap();
    let base = ["train.device=cuda", "train.steps=20", "optimizer.learning_rate=2e-3"];
    let with = |more: &[&'static str]| config(Setting::Chameleon, &[&base, more].concat());
    let prepared = prepare(&with(&[]), folder.path());
    let one = curve(&with(&["data.batch=4"]), &prepared);
    let two = curve(&with(&["data.batch=2", "train.accumulate=2"]), &prepared);
    let off = furthest(&two, &one);
    assert!(off < 5e-3, "{off:.1e} off");
}

/// Panics at a step, as a killed process ends: nothing is cleaned up.
struct DieAt(u64);

impl Observer for DieAt {
    fn stepped(&mut self, step: u64, _: f64, _: &Pace) {
        assert!(step < self.0, "die");
    }
}

#[test]
fn a_stopped_run_goes_on_with_the_same_bytes() {
    let Some(_gpu) = gpu("a_stopped_run_goes_on_with_the_same_bytes") else { return };
    for setting in Setting::ALL {
        let folder = tempfile::tempdir().unwrap();
        for overrides in
            [&["train.device=cuda"][..], &["train.device=cuda", "train.recompute=block", "train.accumulate=2"]]
        {
            let config = config(setting, overrides);
            let prepared = prepare(&config, folder.path());
            let runs = ["whole", "stopped"].map(|name| folder.path().join(format!("{name}-{}", overrides.len())));
            train(&config, &runs[0], &prepared, &mut Silent).unwrap();
            for die_at in [3, 7] {
                let die = std::panic::AssertUnwindSafe(|| train(&config, &runs[1], &prepared, &mut DieAt(die_at)));
                assert!(std::panic::catch_unwind(die).is_err());
            }
            train(&config, &runs[1], &prepared, &mut Silent).unwrap();
            assert_eq!(read(runs[0].join("metrics.jsonl")), read(runs[1].join("metrics.jsonl")), "{setting}");
        }
    }
}

#[test]
fn recompute_changes_no_loss() {
    let Some(_gpu) = gpu("recompute_changes_no_loss") else { return };
    let folder = tempfile::tempdir().unwrap();
    let with = |more: &[&'static str]| config(Setting::ThreeModality, &[&["train.device=cuda"], more].concat());
    let prepared = prepare(&with(&[]), folder.path());
    assert_eq!(curve(&with(&[]), &prepared), curve(&with(&["train.recompute=block"]), &prepared));
}

#[test]
fn two_threads_train_as_one_does_or_are_told() {
    let Some(_gpu) = gpu("two_threads_train_as_one_does_or_are_told") else { return };
    let folder = tempfile::tempdir().unwrap();
    let with = |more: &[&'static str]| {
        config(Setting::Chameleon, &[&["train.device=cuda", "train.steps=30"][..], more].concat())
    };
    let prepared = &prepare(&with(&[]), folder.path());
    let one = &with(&["train.graph=never"]);
    let other = &with(&["train.graph=never", "train.seed=1"]);
    let alone = [curve(one, prepared), curve(other, prepared)];
    let together = std::thread::scope(|scope| {
        let threads = [one, other].map(|config| scope.spawn(|| curve(config, prepared)));
        threads.map(|thread| thread.join().unwrap())
    });
    assert_eq!(together, alone);
    let mut captures = Trainer::new(&with(&["train.graph=always"]), prepared).unwrap();
    let refused = std::thread::scope(|scope| scope.spawn(|| Trainer::new(one, prepared).unwrap_err()).join().unwrap());
    assert!(refused.to_string().contains("train.graph"), "{refused}");
    captures.step().unwrap();
}

#[test]
fn a_step_that_is_not_finite_writes_nothing() {
    let Some(_gpu) = gpu("a_step_that_is_not_finite_writes_nothing") else { return };
    let folder = tempfile::tempdir().unwrap();
    let config = config(Setting::Chameleon, &["train.device=cuda"]);
    let prepared = prepare(&config, folder.path());
    // Among the steps that are launched one by one, and behind the first ones of the captured graph.
    for bad in [2, 6] {
        let mut trainer = Trainer::new(&config, &prepared).unwrap();
        for _ in 1..bad {
            trainer.step().unwrap();
        }
        let name = "backbone.layers.0.mixer.D";
        let variable = trainer.parameters().get(name).unwrap().clone();
        let good = variable.as_tensor().copy().unwrap();
        let others = |trainer: &Trainer| -> Vec<f32> {
            let weight = trainer.parameters().get("lm_head.weight").unwrap();
            weight.to_dtype(candle_core::DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
        };
        let before = others(&trainer);
        let put = |value: &Tensor| variable.slice_set(value, 0, 0).unwrap();
        put(&(good.zeros_like().unwrap() / 0.0).unwrap());
        match trainer.step() {
            Err(Error::NonFinite { step, tensor, .. }) => assert_eq!((step, tensor.as_str()), (bad, name)),
            other => panic!("{other:?}"),
        }
        let after = others(&trainer);
        assert_eq!(before, after, "no weight was touched");
        put(&good);
        assert_eq!(trainer.step().unwrap().step, bad, "and it goes on from there");
    }
}

#[test]
fn a_gradient_that_stands_out_is_skipped_launched_or_captured() {
    let Some(_gpu) = gpu("a_gradient_that_stands_out_is_skipped_launched_or_captured") else { return };
    for graph in ["train.graph=never", "train.graph=always"] {
        let folder = tempfile::tempdir().unwrap();
        let strict = ["train.device=cuda", "train.steps=60", "train.spike_factor=1.15", graph];
        let with = |more: &[&'static str]| config(Setting::ThreeModality, &[&strict[..], more].concat());
        let prepared = prepare(&with(&[]), folder.path());
        let mut stops = Trainer::new(&with(&[]), &prepared).unwrap();
        let head = |trainer: &Trainer| -> Vec<f32> {
            let weight = trainer.parameters().get("lm_head.weight").unwrap();
            weight.to_dtype(candle_core::DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
        };
        let mut before = head(&stops);
        let message = loop {
            match stops.step() {
                Ok(_) => before = head(&stops),
                Err(error @ Error::Spike { .. }) => break error.to_string(),
                Err(error) => panic!("{error}"),
            }
        };
        assert!(message.contains("Its documents: shards:"), "{message}");
        assert_eq!(before, head(&stops), "no weight was touched");
        assert_eq!(stops.step().unwrap_err().to_string(), message, "and it fails again in the same place");

        let skip = with(&["train.on_spike=skip"]);
        let run = |name: &str| folder.path().join(format!("{name}-{graph}"));
        train(&skip, &run("whole"), &prepared, &mut Silent).unwrap();
        let die = std::panic::AssertUnwindSafe(|| train(&skip, &run("killed"), &prepared, &mut DieAt(45)));
        assert!(std::panic::catch_unwind(die).is_err());
        train(&skip, &run("killed"), &prepared, &mut Silent).unwrap();
        let metrics = read(run("whole").join("metrics.jsonl"));
        assert!(metrics.contains("\"kind\":\"skipped\""));
        assert_eq!(metrics, read(run("killed").join("metrics.jsonl")));
    }
}

#[test]
fn a_captured_step_is_asked_for_where_it_can_be() {
    let with = |setting, more: &[&'static str]| -> Result<(), Error> {
        let good = config(setting, &["train.device=cuda"]);
        let text = good.to_toml().unwrap();
        RunConfig::from_toml(&text, &more.iter().map(|&text| text.to_owned()).collect::<Vec<_>>()).map(drop)
    };
    let always = ["train.graph=always"];
    with(Setting::Chameleon, &always).unwrap();
    let refused = with(Setting::Transfusion, &always).unwrap_err().to_string();
    assert!(refused.contains("model.setting") && refused.contains("transfusion"), "{refused}");
    let refused = with(Setting::Chameleon, &[&always[..], &["train.accumulate=2"]].concat()).unwrap_err().to_string();
    assert!(refused.contains("train.accumulate") && refused.contains('2'), "{refused}");
    let refused = with(Setting::Chameleon, &["train.device=cpu", "train.graph=always"]).unwrap_err().to_string();
    assert!(refused.contains("train.device") && refused.contains("cpu"), "{refused}");
}

#[test]
fn a_run_generates_on_either_device() {
    let Some(_gpu) = gpu("a_run_generates_on_either_device") else { return };
    for setting in Setting::ALL {
        let folder = tempfile::tempdir().unwrap();
        // With samples on the way, a captured step or not, and an average of the weights.
        let more =
            ["train.device=cuda", "train.steps=6", "train.sample_every=3", "train.ema=0.5", "train.eval_every=3"];
        let config = config(setting, &more);
        let prepared = prepare(&config, folder.path());
        let run = folder.path().join("run");
        train(&config, &run, &prepared, &mut Silent).unwrap();
        assert!(run.join("samples/step-00000006/samples.json").is_file());
        prepared.tokenizers.save(run.join("tokenizers")).unwrap();
        // The likeliest token each time: a draw would show a difference in the last bit.
        let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
        let options = GenerateOptions { sampling, n_steps: 5, max_tokens: 12, ..GenerateOptions::default() };
        let results = [(DeviceKind::Cpu, None), (DeviceKind::Cuda, Some(Precision::F32)), (DeviceKind::Cuda, None)]
            .map(|(device, precision)| {
                let generator = Generator::open(&run, device, precision).unwrap();
                let image = generator.image("a red star.", &options).unwrap();
                let spoken =
                    (setting == Setting::ThreeModality).then(|| generator.speech("a red star.", &options).unwrap());
                // Several documents at once, of several lengths.
                let draft = |prompt: &str| {
                    let mut draft = generator.draft(&options).unwrap();
                    draft.push_text(prompt).unwrap();
                    draft
                };
                let mut drafts = [draft("a"), draft("two blue rings"), draft("a red")];
                let texts = mom_train::draw(&mut drafts, mom_data::Modality::Text).unwrap();
                ((generator.caption(&image, &options).unwrap(), spoken, texts), image)
            });
        // The average of the weights is that of the trained weights: the checkpoint's own, to the last bit of rounding.
        let loaded = |name: &str| {
            let path = run.join("checkpoints/step-00000006").join(name);
            candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap()
        };
        let (weights, averages) = (loaded("weights.safetensors"), loaded("ema.safetensors"));
        let mut moved = 0.0f32;
        for (name, weight) in &weights {
            let apart = (weight - &averages[name]).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
            moved = moved.max(apart.to_scalar::<f32>().unwrap());
        }
        assert!(moved > 0.0 && moved < 0.1, "{setting}: the average is {moved} behind");
        let [(of_cpu, image_of_cpu), (of_gpu, image_of_gpu), _] = &results;
        assert_eq!(of_gpu, of_cpu, "{setting}");
        let apart = |(a, b): (&u8, &u8)| a.abs_diff(*b);
        let furthest = image_of_gpu.pixels.iter().zip(&image_of_cpu.pixels).map(apart).max().unwrap();
        assert!(furthest <= 1, "{setting}: pixels {furthest} apart");
    }
}
