//! Batches that cannot be trained on, gradients that stand out and runs that diverge: named, and skipped where that is asked for.

use std::fs;

use candle_core::{Device, Tensor};
use mom_models::Setting;
use mom_train::run::{Silent, train};
use mom_train::{Error, Prepared, RunConfig, Trainer};

use crate::common::{config, read};
use crate::killed::{Notes, kill_at, prepare, weights};

/// A trainer whose weights of speech are so large that their products are infinite: batches with speech cannot be trained on.
fn deaf(config: &RunConfig, prepared: &Prepared) -> Trainer {
    let trainer = Trainer::new(config, prepared).unwrap();
    let of_speech = |name: &str| name == "backbone.layers.0.mixer.local_experts_in_proj.2.weight";
    let (_, variable) = trainer.parameters().iter().find(|(name, _)| of_speech(name)).unwrap();
    variable.set(&Tensor::full(f32::MAX, variable.dims(), &Device::Cpu).unwrap()).unwrap();
    trainer
}

#[test]
fn batches_that_cannot_be_trained_on_are_named_and_skipped_where_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    // Speech in one document of five.
    let rare =
        "data.forms={ text_first = 0.5, weights = { triple = 0.2, text_image = 0.8, text_speech = 0, speech = 0 } }";
    let few = ["data.batch=1", "train.steps=300", rare];
    let with = |more: &[&'static str]| config(Setting::ThreeModality, &[&few[..], more].concat());
    let prepared = prepare(&with(&[]), folder.path());
    let mut stops = deaf(&with(&[]), &prepared);
    let error = loop {
        match stops.step() {
            Ok(report) => assert!(report.step < 300, "no batch has speech"),
            Err(error) => break error,
        }
    };
    let message = error.to_string();
    let Error::NonFinite { step, origin: Some(origin), .. } = error else { panic!("{message}") };
    assert_eq!(origin.operation.as_deref(), Some("backbone.layers.0.mixer.in_proj"), "{message}");
    assert!(message.contains("that is not finite is that of backbone.layers.0.mixer.in_proj"), "{message}");
    assert!(!origin.documents.is_empty() && message.contains(&origin.documents[0]), "{message}");
    assert!(origin.documents.iter().all(|key| key.starts_with("shards:")), "{:?}", origin.documents);
    // It fails again in the same place.
    assert_eq!(stops.step().unwrap_err().to_string(), message);

    let mut skips = deaf(&with(&["train.on_spike=skip"]), &prepared);
    while skips.steps_done() < step {
        skips.step().unwrap();
    }
    let skipped = skips.take_skipped();
    assert_eq!((skipped[0].step, &skipped[0].origin), (step, &*origin));
    assert!(skips.take_skipped().is_empty());

    // Where every batch is of that kind, it stops all the same.
    let none = "text = 0, image = 0, speech = 0, text_image = 0, text_speech = 0, image_speech = 0";
    let always = format!("data.forms={{ text_first = 0.5, weights = {{ triple = 1, {none} }} }}");
    let always = config(Setting::ThreeModality, &["data.batch=6", "train.on_spike=skip", &always]);
    let mut stuck = deaf(&always, &prepared);
    assert!(matches!(stuck.step(), Err(Error::NonFinite { step: 1, .. })));
    assert_eq!(stuck.take_skipped().len() as u32, Trainer::MOST_SKIPS);
}

#[test]
fn a_gradient_that_stands_out_is_stopped_at_or_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let strict = ["train.steps=60", "train.spike_factor=1.15", "train.keep_checkpoints=9"];
    let with = |more: &[&'static str]| config(Setting::ThreeModality, &[&strict[..], more].concat());
    let prepared = prepare(&with(&[]), folder.path());
    let run = |name: &str| folder.path().join(name);
    let error = train(&with(&[]), &run("stops"), &prepared, &mut Silent).unwrap_err();
    let message = error.to_string();
    let Error::Spike { step, norm, limit, checkpoint: Some(last), .. } = error else { panic!("{message}") };
    assert!(norm > limit && step > 32, "{message}");
    assert!(message.contains(last.to_str().unwrap()) && message.contains("Its documents: shards:"), "{message}");

    let skip = with(&["train.on_spike=skip"]);
    let mut notes = Notes::default();
    train(&skip, &run("skips"), &prepared, &mut notes).unwrap();
    assert!(notes.notes.iter().any(|note| note.starts_with(&format!("step {step}: the gradient's norm is"))));
    let metrics = read(run("skips").join("metrics.jsonl"));
    let lines = metrics.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let skipped: Vec<_> = lines.filter(|line| line["kind"] == "skipped").collect();
    assert_eq!(skipped.len(), notes.notes.len());
    assert_eq!((skipped[0]["step"].as_u64(), skipped[0]["value"].as_f64()), (Some(step), Some(norm)));
    // Stopped anywhere and gone on with, the same steps are skipped.
    for die_at in [step - 3, step + 2] {
        kill_at(die_at, &skip, &run("killed"), &prepared);
    }
    train(&skip, &run("killed"), &prepared, &mut Silent).unwrap();
    assert_eq!(read(run("killed").join("metrics.jsonl")), metrics);
    assert!(weights(&run("killed")) == weights(&run("skips")));
}

#[test]
fn a_diverging_run_stops_and_leaves_its_last_good_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let rising = ["optimizer.weight_decay=0.0", "train.checkpoint_every=1", "train.keep_checkpoints=1"];
    // The rate grows by 2e37 a step: the first steps stay finite in f32, and one of the next does not.
    let rate = ["optimizer.learning_rate=1e38", "optimizer.warmup_steps=9"];
    let config = config(Setting::Transfusion, &[rising, [rate[0], rate[1], "train.eval_every=100"]].concat());
    let run = folder.path().join("run");
    let prepared = prepare(&config, folder.path());
    let error = train(&config, &run, &prepared, &mut Silent).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("training stops"), "{message}");
    assert!(!run.join("result.json").exists());
    for entry in fs::read_dir(run.join("checkpoints")).into_iter().flatten() {
        let path = entry.unwrap().path();
        assert!(message.contains(path.to_str().unwrap()), "the checkpoint that is there is the one named: {message}");
        let weights = candle_core::safetensors::load(path.join("weights.safetensors"), &Device::Cpu).unwrap();
        for (name, tensor) in weights {
            let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert!(values.iter().all(|value| value.is_finite()), "{name}");
        }
    }
}
