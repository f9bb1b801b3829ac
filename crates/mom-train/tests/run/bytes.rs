//! A run writes the same bytes every time: whole, killed and resumed, stopped politely, lengthened.

use std::fs;
use std::path::Path;

use mom_models::Setting;
use mom_train::Error;
use mom_train::run::{Observer, Pace, Silent, train};

use crate::common::{config, read};
use crate::killed::{DieAt, Notes, kill_at, prepare, weights};

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
