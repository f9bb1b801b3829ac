//! Horizons are the ends of shorter runs, through kills and stops; those that cannot be are refused.

use std::fs;

use mom_models::Setting;
use mom_train::run::{Observer, Silent, train};
use mom_train::{Error, RunConfig};

use crate::common::{config, read};
use crate::killed::{kill_at, prepare, weights};

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
