//! Checkpoints: those that cannot be written, those that are damaged, those that are kept, and the time that they take.

use std::fs;
use std::path::Path;

use mom_models::Setting;
use mom_train::run::{Observer, Pace, Silent, train};

use crate::common::{config, read};
use crate::killed::{Killed, Notes, kill_at, names_in, prepare, weights};

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
        let kept = ["step-00000002.keep", "step-00000006", "step-00000006.damaged-1", "step-00000008", "step-00000009"];
        assert_eq!(names_in(&checkpoints), [&kept[..], &["step-best", "step-notes.txt"]].concat());
    }
}

#[test]
fn where_no_checkpoint_is_whole_each_is_named_and_nothing_is_touched() {
    let killed = Killed::new(&["train.checkpoint_every=2"]);
    for step in [2, 4] {
        fs::write(killed.checkpoint(step).join("weights.safetensors"), "").unwrap();
    }
    let message = killed.refused(&killed.config);
    assert!(message.contains("no checkpoint is whole"), "{message}");
    assert!(message.contains("step-00000004: weights.safetensors has 0 bytes"), "{message}");
    assert!(message.contains("step-00000002: weights.safetensors has 0 bytes"), "{message}");
    assert!(killed.checkpoint(4).is_dir());
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
    assert_eq!(names_in(&run.join("checkpoints")), expected);
}
