//! Single runs: the same bytes every time, whole or stopped and resumed; and what ends one.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

mod common;

use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use common::{config, read};
use mom_models::Setting;
use mom_train::run::{FolderLock, Observer, Pace, Silent, train};
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

fn weights(run: &Path) -> Vec<u8> {
    let checkpoints = run.join("checkpoints");
    let newest = fs::read_dir(checkpoints).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    [fs::read(newest.join("weights.safetensors")).unwrap(), fs::read(newest.join("optimizer.safetensors")).unwrap()]
        .concat()
}

#[test]
fn two_runs_and_a_stopped_and_resumed_one_write_the_same_bytes() {
    for setting in Setting::ALL {
        let folder = tempfile::tempdir().unwrap();
        let config = config(setting, &["train.accumulate=2"]);
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
        let losses = |result: &mom_train::report::RunResult| {
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

#[test]
fn training_lowers_every_loss() {
    for setting in Setting::ALL {
        let folder = tempfile::tempdir().unwrap();
        let config = config(setting, &["train.steps=60", "train.eval_every=30"]);
        let mut trainer = Trainer::new(&config, &prepare(&config, folder.path())).unwrap();
        let before = trainer.validate().unwrap();
        while trainer.steps_done() < 60 {
            trainer.step().unwrap();
        }
        let after = trainer.validate().unwrap();
        for (modality, (before, after)) in before.by_modality.iter().zip(&after.by_modality).enumerate() {
            assert!(after.mean() < 0.95 * before.mean(), "{setting} {modality}: {before:?} {after:?}");
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
    mom_train::run::same_data(&out, &first).unwrap();
    let shards = folder.path().join("shards");
    let options = mom_data::scenes::ShardOptions { documents: 60, seed: 9, ..Default::default() };
    mom_data::scenes::write_shards(&shards, &options, |_, _| {}).unwrap();
    let mut other = first.clone();
    other.data.shards = Some(shards.clone());
    let error = mom_train::run::same_data(&out, &other).unwrap_err();
    assert!(error.to_string().contains("the files of the source shards are not those"), "{error}");
    // The same shards under another path are the same shards.
    let moved = folder.path().join("elsewhere/shards");
    fs::create_dir_all(&moved).unwrap();
    for entry in fs::read_dir(first.data.shards.as_ref().unwrap()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), moved.join(entry.file_name())).unwrap();
    }
    other.data.shards = Some(moved.clone());
    mom_train::run::same_data(&out, &other).unwrap();
    // What is gone cannot be compared: its tokens are what is left.
    fs::remove_dir_all(moved).unwrap();
    mom_train::run::same_data(&out, &other).unwrap();
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
    let message = train(&first, &run, &prepared, &mut Silent).unwrap_err().to_string();
    assert!(message.contains("data (a hash of all documents)"), "{message}");
    assert_eq!(read(run.join("metrics.jsonl")), before);
    assert_eq!((read(run.join("config.toml")), read(run.join("model.json"))), heads);
}

#[test]
fn a_damaged_checkpoint_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(Setting::Chameleon, &[]);
    let prepared = prepare(&config, folder.path());
    let run = folder.path().join("run");
    kill_at(6, &config, &run, &prepared);
    let path = run.join("checkpoints/step-00000004/weights.safetensors");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let message = train(&config, &run, &prepared, &mut Silent).unwrap_err().to_string();
    assert!(message.contains("weights.safetensors"), "{message}");

    let mut tensors = candle_core::safetensors::load_buffer(&whole, &Device::Cpu).unwrap();
    let lm_head = tensors.remove("lm_head.weight").unwrap();
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let message = train(&config, &run, &prepared, &mut Silent).unwrap_err().to_string();
    assert!(message.contains("lm_head.weight is missing"), "{message}");
    tensors.insert("lm_head.weight".to_owned(), Tensor::cat(&[&lm_head, &lm_head], 0).unwrap());
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let message = train(&config, &run, &prepared, &mut Silent).unwrap_err().to_string();
    assert!(message.contains("lm_head.weight is F32"), "{message}");
}

#[test]
fn a_folder_has_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let held = FolderLock::new(folder.path()).unwrap();
    assert!(FolderLock::new(folder.path()).unwrap_err().to_string().contains("in use by another process"));
    drop(held);
    FolderLock::new(folder.path()).unwrap();
}
