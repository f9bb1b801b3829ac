//! Single runs: the same bytes every time, whole or stopped and resumed; and what ends one.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use common::{config, read};
use mom_data::{Batch, NO_TARGET};
use mom_models::Setting;
use mom_train::run::{FolderLock, Observer, Pace, RunFolder, Silent, train};
use mom_train::{Error, Prepared, RunConfig, Trainer};

fn prepare(config: &RunConfig, folder: &Path) -> Prepared {
    Prepared::new(config, folder, |_| {}).unwrap()
}

/// Panics at a step, as a killed process ends: nothing is cleaned up.
struct DieAt(u64);

impl Observer for DieAt {
    fn stepped(&mut self, step: u64, _: f64, _: &Pace) {
        assert!(step < self.0, "die");
    }
}

/// Trains up to a step and ends there without a word.
fn kill_at(step: u64, config: &RunConfig, run: &Path, prepared: &Prepared) {
    let die = std::panic::AssertUnwindSafe(|| train(config, run, prepared, &mut DieAt(step)));
    assert!(std::panic::catch_unwind(die).is_err());
}

/// Writes the checksums of a checkpoint anew, over files that a test has changed.
fn reseal(checkpoint: &Path) {
    let path = checkpoint.join("checksums.json");
    let mut seals: serde_json::Value = serde_json::from_str(&read(&path)).unwrap();
    for (name, seal) in seals.as_object_mut().unwrap() {
        let bytes = fs::read(checkpoint.join(name)).unwrap();
        seal["bytes"] = bytes.len().into();
        seal["crc32c"] = format!("{:08x}", crc32c::crc32c(&bytes)).into();
    }
    fs::write(path, seals.to_string()).unwrap();
}

fn weights(run: &Path) -> Vec<u8> {
    let checkpoints = run.join("checkpoints");
    let digits = |path: &PathBuf| path.to_str().unwrap().rsplit_once("step-").unwrap().1.parse::<u64>().is_ok();
    let newest = fs::read_dir(checkpoints).unwrap().map(|entry| entry.unwrap().path()).filter(digits).max().unwrap();
    [fs::read(newest.join("weights.safetensors")).unwrap(), fs::read(newest.join("optimizer.safetensors")).unwrap()]
        .concat()
}

#[test]
fn two_runs_and_a_stopped_and_resumed_one_write_the_same_bytes() {
    let of_settings = Setting::ALL.map(|setting| (setting, "model.patcher=linear"));
    for (setting, patcher) in of_settings.into_iter().chain([(Setting::Transfusion, "model.patcher=unet")]) {
        let folder = tempfile::tempdir().unwrap();
        let config = config(setting, &["train.accumulate=2", patcher]);
        let prepared = prepare(&config, folder.path());
        let runs = ["one", "two", "stopped"].map(|name| folder.path().join(name));
        let first = train(&config, &runs[0], &prepared, &mut Silent).unwrap();
        train(&config, &runs[1], &prepared, &mut Silent).unwrap();
        for die_at in [3, 7, 9] {
            kill_at(die_at, &config, &runs[2], &prepared);
        }
        let resumed = train(&config, &runs[2], &prepared, &mut Silent).unwrap();
        for other in &runs[1..] {
            assert_eq!(read(runs[0].join("metrics.jsonl")), read(other.join("metrics.jsonl")), "{setting}");
            assert!(weights(&runs[0]) == weights(other), "{setting}: weights and moments");
        }
        let losses = |result: &mom_train::telemetry::RunResult| {
            result.curve.iter().map(|point| (point.step, point.loss.clone())).collect::<Vec<_>>()
        };
        assert_eq!(losses(&first), losses(&resumed));
        assert_eq!(first.curve.len(), 3);
        assert_eq!((first.tokens, first.steps), (9 * 2 * 2 * 192, 9));
        assert_eq!(first.active_flops_per_token, resumed.active_flops_per_token);
        // Done is done: nothing is trained again.
        let again = train(&config, &runs[2], &prepared, &mut DieAt(0)).unwrap();
        assert_eq!(losses(&again), losses(&resumed));
        assert_eq!(fs::read_dir(runs[0].join("checkpoints")).unwrap().count(), 2, "the newest two are kept");
    }
}

/// Counts steps.
struct Count(u64);

impl Observer for Count {
    fn stepped(&mut self, step: u64, _: f64, _: &Pace) {
        self.0 = step;
    }
}

#[test]
fn a_checkpoint_that_cannot_be_written_ends_the_run_and_costs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(Setting::Chameleon, &[]);
    let prepared = prepare(&config, folder.path());
    let [whole, blocked] = ["whole", "blocked"].map(|name| folder.path().join(name));
    train(&config, &whole, &prepared, &mut Silent).unwrap();
    // A file stands where the second checkpoint is put together.
    let in_the_way = blocked.join("checkpoints/.step-00000008.partial");
    fs::create_dir_all(in_the_way.parent().unwrap()).unwrap();
    fs::write(&in_the_way, "").unwrap();
    let mut steps = Count(0);
    let message = train(&config, &blocked, &prepared, &mut steps).unwrap_err().to_string();
    assert!(message.contains(".step-00000008.partial"), "{message}");
    assert!((8..=9).contains(&steps.0), "at the next step, or at the end: {}", steps.0);
    assert!(!blocked.join("result.json").exists() && !blocked.join("checkpoints/step-00000009").exists());
    fs::remove_file(&in_the_way).unwrap();
    // What a killed process leaves is cleared away, whatever step it was of.
    fs::create_dir(blocked.join("checkpoints/.step-00000003.partial")).unwrap();
    train(&config, &blocked, &prepared, &mut Silent).unwrap();
    assert_eq!(read(whole.join("metrics.jsonl")), read(blocked.join("metrics.jsonl")));
    assert!(weights(&whole) == weights(&blocked));
    assert_eq!(fs::read_dir(blocked.join("checkpoints")).unwrap().count(), 2);
}

#[test]
fn the_time_that_checkpoints_take_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(Setting::Chameleon, &[]);
    let run = folder.path().join("run");
    train(&config, &run, &prepare(&config, folder.path()), &mut Silent).unwrap();
    let secs: Vec<f64> = read(run.join("timing.jsonl"))
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["checkpoint_secs"].as_f64().unwrap())
        .collect();
    assert_eq!(secs.len(), 9);
    for (i, secs) in secs.iter().enumerate() {
        assert_eq!(*secs > 0.0, matches!(i, 4 | 8), "after steps 4 and 8: step {} has {secs}", i + 1);
    }
}

/// Wants no more after a step.
struct EnoughAt(u64);

impl Observer for EnoughAt {
    fn stepped(&mut self, step: u64, _: f64, _: &Pace) {
        assert!(step < 6, "it was told to stop");
    }
    fn goes_on(&mut self) -> bool {
        self.0 -= 1;
        self.0 > 0
    }
}

#[test]
fn a_run_that_is_stopped_politely_goes_on_with_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(Setting::Transfusion, &[]);
    let prepared = prepare(&config, folder.path());
    let [whole, stopped] = ["whole", "stopped"].map(|name| folder.path().join(name));
    train(&config, &whole, &prepared, &mut Silent).unwrap();
    match train(&config, &stopped, &prepared, &mut EnoughAt(5)) {
        Err(Error::Stopped { step: 5 }) => {}
        other => panic!("{other:?}"),
    }
    assert!(stopped.join("checkpoints/step-00000005").is_dir(), "between the steps that have one anyway");
    train(&config, &stopped, &prepared, &mut Silent).unwrap();
    assert_eq!(read(whole.join("metrics.jsonl")), read(stopped.join("metrics.jsonl")));
    assert!(weights(&whole) == weights(&stopped));
    let event_files = |run: &Path| fs::read_dir(run.join("tensorboard")).unwrap().count();
    assert_eq!((event_files(&whole), event_files(&stopped)), (1, 2), "one for each process");
}

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

#[test]
fn a_checkpoint_with_a_weight_that_is_not_a_number_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(Setting::Chameleon, &[]);
    let prepared = prepare(&config, folder.path());
    let run = folder.path().join("run");
    kill_at(6, &config, &run, &prepared);
    // A weight of the checkpoint goes bad: what a broken memory or a bug would do.
    let checkpoint = run.join("checkpoints/step-00000004");
    let path = checkpoint.join("weights.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let name = "backbone.layers.1.mixer.A_log";
    let poisoned = (tensors[name].ones_like().unwrap() * f64::NAN).unwrap();
    tensors.insert(name.to_owned(), poisoned);
    candle_core::safetensors::save(&tensors, &path).unwrap();
    reseal(&checkpoint);
    let before = read(run.join("metrics.jsonl"));
    let message = train(&config, &run, &prepared, &mut Silent).unwrap_err().to_string();
    assert!(message.contains("step-00000004/weights.safetensors"), "{message}");
    assert!(message.contains(&format!("{name} holds values that are not finite")), "{message}");
    assert_eq!(before, read(run.join("metrics.jsonl")));
}

#[test]
fn a_weight_that_goes_bad_while_training_is_named_with_the_step_and_the_last_good_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(Setting::Chameleon, &[]);
    let prepared = prepare(&config, folder.path());
    let mut trainer = Trainer::new(&config, &prepared).unwrap();
    for _ in 0..2 {
        trainer.step().unwrap();
    }
    let name = "backbone.layers.1.mixer.A_log";
    let variable = trainer.parameters().get(name).unwrap();
    variable.set(&(variable.ones_like().unwrap() * f64::NAN).unwrap()).unwrap();
    let other = trainer.parameters().get("lm_head.weight").unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let error = trainer.step().unwrap_err();
    assert!(matches!(&error, Error::NonFinite { step: 3, tensor, .. } if tensor == name), "{error}");
    let after = trainer.parameters().get("lm_head.weight").unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(other, after, "no weight was touched");
    assert!(trainer.validate().unwrap_err().to_string().contains(name));
}

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

#[test]
fn a_folder_knows_its_data() {
    let folder = tempfile::tempdir().unwrap();
    let first = config(Setting::Chameleon, &[]);
    let out = folder.path().join("run");
    RunFolder::open(&out, &first).unwrap();
    let shards = folder.path().join("shards");
    let options = mom_data::scenes::ShardOptions { documents: 60, seed: 9, ..Default::default() };
    mom_data::scenes::write_shards(&shards, &options, |_, _| {}).unwrap();
    let mut other = first.clone();
    other.data.shards = Some(shards.clone());
    let error = RunFolder::open(&out, &other).unwrap_err();
    assert!(error.to_string().contains("the files of the source shards are not those"), "{error}");
    // The same shards under another path are the same shards.
    let moved = folder.path().join("elsewhere/shards");
    fs::create_dir_all(&moved).unwrap();
    for entry in fs::read_dir(first.data.shards.as_ref().unwrap()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), moved.join(entry.file_name())).unwrap();
    }
    other.data.shards = Some(moved.clone());
    RunFolder::open(&out, &other).unwrap();
    // What is gone cannot be compared: its tokens are what is left.
    fs::remove_dir_all(moved).unwrap();
    RunFolder::open(&out, &other).unwrap();
}

#[test]
fn a_folder_of_another_configuration_or_other_data_is_refused_and_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let first = config(Setting::Chameleon, &[]);
    let prepared = prepare(&first, folder.path());
    let run = folder.path().join("run");
    kill_at(6, &first, &run, &prepared);
    let before = read(run.join("metrics.jsonl"));
    let heads = (read(run.join("config.toml")), read(run.join("model.json")));

    let wider = config(Setting::Chameleon, &["model.scale=tiny"]);
    let message = train(&wider, &run, &prepared, &mut Silent).unwrap_err().to_string();
    assert!(message.contains("was made with model.scale = \"nano\" (now \"tiny\")"), "{message}");

    // The same configuration over shards that have changed.
    let state = run.join("checkpoints/step-00000004/state.json");
    let changed = read(&state).replace(&format!("{:016x}", prepared.fingerprint()), "0000000000000000");
    fs::write(&state, changed).unwrap();
    reseal(&run.join("checkpoints/step-00000004"));
    let message = train(&first, &run, &prepared, &mut Silent).unwrap_err().to_string();
    assert!(message.contains("data (a hash of all documents)"), "{message}");
    assert_eq!(read(run.join("metrics.jsonl")), before);
    assert_eq!((read(run.join("config.toml")), read(run.join("model.json"))), heads);
}

/// Collects what a run tells.
#[derive(Default)]
struct Notes {
    from_step: u64,
    notes: Vec<String>,
}

impl Observer for Notes {
    fn started(&mut self, from_step: u64, _: u64) {
        self.from_step = from_step;
    }
    fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }
}

#[test]
fn a_run_goes_on_from_its_newest_whole_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(Setting::Chameleon, &["train.checkpoint_every=2", "train.keep_checkpoints=3"]);
    let prepared = prepare(&config, folder.path());
    let whole = folder.path().join("whole");
    train(&config, &whole, &prepared, &mut Silent).unwrap();
    // Half of the weights are zeros, as after a power cut; a flipped bit in the state; a file is gone.
    let zeros = |path: &Path| {
        let mut bytes = fs::read(path.join("weights.safetensors")).unwrap();
        let half = bytes.len() / 2;
        bytes[half..].fill(0);
        fs::write(path.join("weights.safetensors"), bytes).unwrap();
    };
    let flip = |path: &Path| {
        let mut bytes = fs::read(path.join("state.json")).unwrap();
        let at = bytes.iter().position(u8::is_ascii_digit).unwrap();
        bytes[at] ^= 1;
        fs::write(path.join("state.json"), bytes).unwrap();
    };
    let remove = |path: &Path| fs::remove_file(path.join("optimizer.safetensors")).unwrap();
    let cut = |path: &Path| fs::write(path.join("checksums.json"), "{").unwrap();
    let damages = [
        (&zeros as &dyn Fn(&Path), "weights.safetensors has the checksum"),
        (&flip, "state.json has the checksum"),
        (&remove, "optimizer.safetensors is missing"),
        (&cut, "checksums.json cannot be read"),
    ];
    for (i, (damage, what)) in damages.iter().enumerate() {
        let run = folder.path().join(format!("run-{i}"));
        kill_at(8, &config, &run, &prepared);
        let checkpoints = run.join("checkpoints");
        damage(&checkpoints.join("step-00000006"));
        // What is no checkpoint of this run's stays as it is.
        for other in ["step-best", "step-00000002.keep"] {
            fs::create_dir(checkpoints.join(other)).unwrap();
        }
        fs::write(checkpoints.join("step-notes.txt"), "a note").unwrap();
        let mut notes = Notes::default();
        train(&config, &run, &prepared, &mut notes).unwrap();
        assert_eq!(notes.from_step, 4);
        assert!(notes.notes.iter().any(|note| note.contains(what) && note.contains("set aside")), "{:?}", notes.notes);
        assert_eq!(read(whole.join("metrics.jsonl")), read(run.join("metrics.jsonl")), "{what}");
        assert!(weights(&whole) == weights(&run));
        let mut names: Vec<_> = fs::read_dir(&checkpoints)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let kept = ["step-00000002.keep", "step-00000006", "step-00000006.damaged-1", "step-00000008", "step-00000009"];
        assert_eq!(names, [&kept[..], &["step-best", "step-notes.txt"]].concat());
    }
}

#[test]
fn where_no_checkpoint_is_whole_each_is_named_and_nothing_is_touched() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(Setting::Chameleon, &["train.checkpoint_every=2"]);
    let prepared = prepare(&config, folder.path());
    let run = folder.path().join("run");
    kill_at(6, &config, &run, &prepared);
    for step in [2, 4] {
        fs::write(run.join(format!("checkpoints/step-{step:08}/weights.safetensors")), "").unwrap();
    }
    let before = read(run.join("metrics.jsonl"));
    let message = train(&config, &run, &prepared, &mut Silent).unwrap_err().to_string();
    assert!(message.contains("no checkpoint is whole"), "{message}");
    assert!(message.contains("step-00000004: weights.safetensors has 0 bytes"), "{message}");
    assert!(message.contains("step-00000002: weights.safetensors has 0 bytes"), "{message}");
    assert_eq!(before, read(run.join("metrics.jsonl")));
    assert!(run.join("checkpoints/step-00000004").is_dir());
}

#[test]
fn tensors_of_another_model_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(Setting::Chameleon, &[]);
    let prepared = prepare(&config, folder.path());
    let run = folder.path().join("run");
    kill_at(6, &config, &run, &prepared);
    let checkpoint = run.join("checkpoints/step-00000004");
    let path = checkpoint.join("weights.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let lm_head = tensors.remove("lm_head.weight").unwrap();
    candle_core::safetensors::save(&tensors, &path).unwrap();
    reseal(&checkpoint);
    let message = train(&config, &run, &prepared, &mut Silent).unwrap_err().to_string();
    assert!(message.contains("lm_head.weight is missing"), "{message}");
    tensors.insert("lm_head.weight".to_owned(), Tensor::cat(&[&lm_head, &lm_head], 0).unwrap());
    candle_core::safetensors::save(&tensors, &path).unwrap();
    reseal(&checkpoint);
    let message = train(&config, &run, &prepared, &mut Silent).unwrap_err().to_string();
    assert!(message.contains("lm_head.weight is F32"), "{message}");
}

#[test]
fn checkpoints_are_kept_by_number_by_step_and_by_loss() {
    let folder = tempfile::tempdir().unwrap();
    let keep = ["train.steps=12", "train.eval_every=1", "train.checkpoint_every=2", "train.keep_checkpoints=1"];
    // The rate is so high behind the warm-up that losses rise.
    let rate =
        ["optimizer.learning_rate=3.0", "optimizer.warmup_steps=12", "train.keep_every=4", "train.keep_best=text"];
    let config = config(Setting::Chameleon, &[keep, rate].concat());
    let prepared = prepare(&config, folder.path());
    let run = folder.path().join("run");
    let result = train(&config, &run, &prepared, &mut Silent).unwrap();
    let best = result.curve.iter().min_by(|a, b| a.loss["text"].total_cmp(&b.loss["text"])).unwrap().step;
    assert!(best < 12, "{:?}", result.curve);
    let mut expected: Vec<String> = [best, 4, 8, 12].iter().map(|step| format!("step-{step:08}")).collect();
    expected.sort();
    expected.dedup();
    let mut names: Vec<_> = fs::read_dir(run.join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, expected);
}

#[test]
fn a_run_that_is_lengthened_is_the_longer_run() {
    let folder = tempfile::tempdir().unwrap();
    // A constant rate.
    let rate = ["optimizer.final_learning_rate=1e-2", "train.eval_every=5", "train.checkpoint_every=5"];
    let of = |steps: &'static str| config(Setting::Transfusion, &[&rate[..], &[steps]].concat());
    let (short, long) = (of("train.steps=10"), of("train.steps=20"));
    let prepared = prepare(&short, folder.path());
    let runs = ["whole", "lengthened"].map(|name| folder.path().join(name));
    train(&long, &runs[0], &prepared, &mut Silent).unwrap();
    assert_eq!(train(&short, &runs[1], &prepared, &mut Silent).unwrap().steps, 10);
    let mut notes = Notes::default();
    assert_eq!(train(&long, &runs[1], &prepared, &mut notes).unwrap().steps, 20);
    assert_eq!(
        (notes.from_step, &notes.notes[..]),
        (10, &["changed since the last start: train.steps = 10 (now 20)".to_owned()][..])
    );
    assert_eq!(read(runs[0].join("metrics.jsonl")), read(runs[1].join("metrics.jsonl")));
    assert!(weights(&runs[0]) == weights(&runs[1]));
    let starts = read(runs[1].join("starts.jsonl"));
    assert_eq!(starts.lines().count(), 2);
    assert!(starts.contains("train.steps = 10 (now 20)"), "{starts}");
    let message = train(&short, &runs[1], &prepared, &mut Silent).unwrap_err().to_string();
    assert!(message.contains("train.steps must be at least 20, which are done"), "{message}");
}

#[test]
fn what_does_not_matter_may_change_and_be_lost() {
    let folder = tempfile::tempdir().unwrap();
    let first = config(Setting::Chameleon, &[]);
    let prepared = prepare(&first, folder.path());
    let (whole, run) = (folder.path().join("whole"), folder.path().join("run"));
    train(&first, &whole, &prepared, &mut Silent).unwrap();
    kill_at(6, &first, &run, &prepared);
    fs::remove_file(run.join("metrics.jsonl")).unwrap();
    let other = config(Setting::Chameleon, &["train.keep_checkpoints=7", "train.checkpoint_every=1"]);
    let mut notes = Notes::default();
    train(&other, &run, &prepared, &mut notes).unwrap();
    assert!(notes.notes.iter().any(|note| note.contains("metrics.jsonl lacks")), "{:?}", notes.notes);
    assert!(weights(&whole) == weights(&run));
    assert!(read(whole.join("metrics.jsonl")).ends_with(&read(run.join("metrics.jsonl"))));
    assert!(read(run.join("config.toml")).contains("keep_checkpoints = 7"));
    for (change, name) in [("optimizer.beta1=0.8", "optimizer.beta1"), ("train.seed=4", "train.seed")] {
        let message = RunFolder::open(&run, &config(Setting::Chameleon, &[change])).unwrap_err().to_string();
        assert!(message.contains(&format!("was made with {name}")), "{message}");
    }
}

#[cfg(unix)]
#[test]
fn files_of_a_run_have_the_modes_that_others_have() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let config = config(Setting::Chameleon, &["train.steps=2"]);
    let run = folder.path().join("run");
    train(&config, &run, &prepare(&config, folder.path()), &mut Silent).unwrap();
    fs::write(folder.path().join("plain"), "").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    let plain = mode(&folder.path().join("plain"));
    let checkpoint = run.join("checkpoints/step-00000002");
    for path in fs::read_dir(&checkpoint).unwrap().chain(fs::read_dir(&run).unwrap()).map(|entry| entry.unwrap().path())
    {
        assert!(path.is_dir() || mode(&path) == plain, "{}: {:o}", path.display(), mode(&path));
    }
}

#[test]
fn a_folder_has_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let held = FolderLock::new(folder.path()).unwrap();
    assert!(FolderLock::new(folder.path()).unwrap_err().to_string().contains("in use by another process"));
    drop(held);
    FolderLock::new(folder.path()).unwrap();
}

#[test]
fn horizons_are_the_ends_of_shorter_runs_and_leave_no_trace() {
    let wsd = ["optimizer.schedule=wsd", "optimizer.decay_steps=3", "train.checkpoint_every=2", "train.ema=0.9"];
    for (setting, accumulate) in
        [(Setting::Chameleon, "train.accumulate=1"), (Setting::Transfusion, "train.accumulate=2")]
    {
        let folder = tempfile::tempdir().unwrap();
        let base = [&wsd[..], &[accumulate]].concat();
        let plain = config(setting, &base);
        let prepared = prepare(&plain, folder.path());
        let with = config(setting, &[&base[..], &["train.horizons=[3, 6]"]].concat());
        let run = |name: &str| folder.path().join(name);
        let result = train(&plain, &run("plain"), &prepared, &mut Silent).unwrap();
        let of_with = train(&with, &run("with"), &prepared, &mut Silent).unwrap();
        assert_eq!(weights(&run("plain")), weights(&run("with")), "the run itself, to the bit");
        let lines = |name: &str, horizon: bool| -> Vec<String> {
            let text = read(run(name).join("metrics.jsonl"));
            let is_horizon = |line: &&str| line.contains(r#""kind":"horizon""#) == horizon;
            text.lines().filter(is_horizon).map(str::to_owned).collect()
        };
        assert_eq!(lines("plain", false), lines("with", false));
        assert_eq!(lines("with", true).len(), 2);
        assert_eq!((result.horizons.len(), of_with.curve.len()), (0, result.curve.len()));
        assert_eq!(of_with.tokens, result.tokens);

        // Each end is that of a run of so many steps.
        for (point, (steps, decay)) in of_with.horizons.iter().zip([(3, 1), (6, 2)]) {
            let (steps, decay) = (format!("train.steps={steps}"), format!("optimizer.decay_steps={decay}"));
            let short = config(setting, &[&base[..], &[&steps, &decay]].concat());
            let alone = train(&short, &run(&steps), &prepared, &mut Silent).unwrap();
            let last = alone.curve.last().unwrap();
            assert_eq!((point.step, point.tokens, &point.loss), (last.step, last.tokens, &last.loss));
            assert_eq!((point.joint, point.bits_per_byte), (last.joint, last.bits_per_byte));
        }

        // Killed at any step, the same.
        for step in 2..9 {
            kill_at(step, &with, &run("killed"), &prepared);
        }
        let of_killed = train(&with, &run("killed"), &prepared, &mut Silent).unwrap();
        let losses = |result: &mom_train::telemetry::RunResult| {
            result.horizons.iter().map(|point| (point.step, point.tokens, point.loss.clone())).collect::<Vec<_>>()
        };
        assert_eq!(losses(&of_killed), losses(&of_with));
        assert_eq!(weights(&run("killed")), weights(&run("with")));
    }
}

/// Wants no more once a run has done a step, from the so many-th question on.
struct StopIn {
    questions: u64,
}

impl Observer for StopIn {
    fn goes_on(&mut self) -> bool {
        self.questions = self.questions.saturating_sub(1);
        self.questions > 0
    }
}

#[test]
fn a_run_that_is_stopped_on_its_way_to_a_horizon_goes_on_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let wsd = ["optimizer.schedule=wsd", "optimizer.decay_steps=4", "train.horizons=[6]", "train.checkpoint_every=100"];
    let config = config(Setting::Chameleon, &wsd);
    let prepared = prepare(&config, folder.path());
    let whole = train(&config, &folder.path().join("whole"), &prepared, &mut Silent).unwrap();
    for questions in 1..12 {
        let run = folder.path().join(format!("stopped-{questions}"));
        let stopped = train(&config, &run, &prepared, &mut StopIn { questions });
        assert!(matches!(stopped, Err(Error::Stopped { .. })), "{stopped:?}");
        let result = train(&config, &run, &prepared, &mut Silent).unwrap();
        assert_eq!(result.horizons.len(), 1);
        assert_eq!(result.horizons[0].loss, whole.horizons[0].loss, "stopped at question {questions}");
        assert_eq!(weights(&run), weights(&folder.path().join("whole")));
    }
}

#[test]
fn horizons_that_cannot_be_are_refused() {
    let wsd = &["optimizer.schedule=wsd", "optimizer.decay_steps=3"][..];
    for (more, expected) in [
        (&["train.horizons=[3]"][..], "train.horizons must be absent but for optimizer.schedule = \"wsd\""),
        (
            &[wsd[0], wsd[1], "train.horizons=[6, 3]"],
            "train.horizons must be ascending, and below train.steps (9), got 3",
        ),
        (&[wsd[0], wsd[1], "train.horizons=[9]"], "below train.steps (9), got 9"),
        (&[wsd[0], wsd[1], "train.horizons=[2]"], "behind the warm-up (2 steps)"),
    ] {
        let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/configs/chameleon-cpu.toml")).unwrap();
        let small = ["train.steps=9", "optimizer.warmup_steps=2", "data.shards=nowhere"];
        let overrides: Vec<String> = small.iter().chain(more).map(|&text| text.to_owned()).collect();
        let message =
            RunConfig::from_toml(&text, &overrides).map(|_| String::new()).unwrap_or_else(|error| error.to_string());
        assert!(message.contains(expected), "{more:?}: {message}");
    }
}
