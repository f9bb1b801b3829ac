//! n ranks are one.

use std::fs;
use std::path::Path;

use mom_models::Setting;
use mom_train::run::{Observer, Pace, Silent, train as train_alone};
use mom_train::{Error, Prepared, RunConfig, Trained};

use crate::common::{config, read};
use crate::threads::{curve, train};

/// 24 sequences a step: shared out evenly over 1, 2, 3 and 8 ranks, by whole batches and by parts of them.
const STEP: [&str; 3] = ["data.batch=4", "train.accumulate=6", "train.steps=8"];

fn prepare(config: &RunConfig, folder: &Path) -> Prepared {
    Prepared::new(config, folder, |_| {}).unwrap()
}

pub fn furthest(got: &[(f64, f64)], want: &[(f64, f64)]) -> f64 {
    let off = |got: f64, want: f64| (got / want - 1.0).abs();
    got.iter().zip(want).map(|(got, want)| off(got.0, want.0).max(off(got.1, want.1))).fold(0.0, f64::max)
}

#[test]
fn any_number_of_ranks_has_the_losses_of_one() {
    let of_settings = Setting::ALL.map(|setting| (setting, ["model.patcher=linear", "optimizer.eps=1e-8"]));
    // Most gradients of a U-Net begin near zero, where AdamW makes a whole step of what two orders of a sum differ by: with a
    // larger eps it does not.
    let unet = (Setting::Transfusion, ["model.patcher=unet", "optimizer.eps=1e-3"]);
    for (setting, of_setting) in of_settings.into_iter().chain([unet]) {
        let folder = tempfile::tempdir().unwrap();
        // Small buckets, so that there are several of them and parameters lie over their ends.
        let config = config(setting, &[&STEP[..], &["train.dist.bucket_mib=1"], &of_setting].concat());
        let prepared = prepare(&config, folder.path());
        let alone = curve(1, &config, &prepared);
        for size in [2, 3, 8] {
            let off = furthest(&curve(size, &config, &prepared), &alone);
            println!("{setting}, {size} ranks: {off:.1e}");
            // f32 sums in another order.
            assert!(off < 1e-6, "{setting}: {size} ranks are {off:.1e} off");
        }
    }
}

#[test]
fn two_runs_of_one_number_of_ranks_have_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(Setting::Transfusion, &STEP);
    let prepared = prepare(&config, folder.path());
    assert_eq!(curve(3, &config, &prepared), curve(3, &config, &prepared));
}

/// Lets a rank end after a step.
pub struct StopAfter {
    pub step: u64,
    pub done: u64,
}

impl Observer for StopAfter {
    fn stepped(&mut self, step: u64, _: f64, _: &Pace) {
        self.done = step;
    }
    fn goes_on(&mut self) -> bool {
        self.done < self.step
    }
}

/// Validation losses and positions seen, by step.
fn points(folder: &Path) -> Vec<(u64, u64, f64)> {
    let result: serde_json::Value = serde_json::from_str(&read(folder.join("result.json"))).unwrap();
    let point = |point: &serde_json::Value| {
        (point["step"].as_u64().unwrap(), point["tokens"].as_u64().unwrap(), point["joint"].as_f64().unwrap())
    };
    result["curve"].as_array().unwrap().iter().map(point).collect()
}

/// Checks that two runs have the same validation losses at the same steps and positions, to what f32 sums in another order differ by.
pub fn same_curve(alone: &Path, several: &Path) {
    let (want, got) = (points(alone), points(several));
    assert_eq!(want.len(), got.len());
    for (want, got) in want.iter().zip(&got) {
        assert_eq!((want.0, want.1), (got.0, got.1), "steps and positions");
        assert!((got.2 / want.2 - 1.0).abs() < 1e-5, "{got:?}, alone {want:?}");
    }
}

/// Any one rank's wish ends all of them, with a checkpoint; any other number of ranks goes on with the same samples.
#[test]
fn a_run_goes_on_at_any_number_of_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let more = [
        "train.steps=12",
        "train.ema=0.9",
        "train.checkpoint_every=3",
        "train.eval_every=4",
        "data.batch=4",
        "train.accumulate=6",
    ];
    let config = config(Setting::ThreeModality, &more);
    let prepared = prepare(&config, folder.path());
    let (alone, several) = (folder.path().join("alone"), folder.path().join("several"));
    train_alone(&config, &alone, &prepared, &mut Silent).unwrap();
    for (size, step, who) in [(3, 4, 2), (1, 7, 0), (2, 9, 1)] {
        let stopped = train(size, &config, &several, &prepared, |rank| StopAfter {
            step: if rank == who { step } else { u64::MAX },
            done: 0,
        });
        for outcome in stopped {
            let Err(Error::Stopped { step: at }) = outcome else { panic!("{outcome:?}") };
            assert!(at == step || at == step + 1, "{size} ranks stopped at {at}");
        }
    }
    let results = train(8, &config, &several, &prepared, |_| Silent);
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    same_curve(&alone, &several);
    // The average of the weights came along, and what lies there is a model like any other.
    let losses = |folder: &Path| {
        let (_, parameters) =
            Trained::open(folder).unwrap().with_ema().unwrap().model(Default::default(), None).unwrap();
        let tensor = parameters.get("backbone.embedding.weight").unwrap().flatten_all().unwrap();
        tensor.to_vec1::<f32>().unwrap()
    };
    let (want, got) = (losses(&alone), losses(&several));
    let off = want.iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off < 1e-4, "the averages are {off:.1e} apart");
    // Each start tells its ranks; one file of metrics, whole.
    let starts = read(several.join("starts.jsonl"));
    let ranks: Vec<u64> = starts
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["ranks"].as_u64().unwrap())
        .collect();
    assert_eq!(ranks, [3, 1, 2, 8]);
    let steps = |folder: &Path| {
        let metrics = read(folder.join("metrics.jsonl"));
        let lines = metrics.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(steps(&several), steps(&alone));
    let partial = fs::read_dir(several.join("checkpoints")).unwrap();
    assert!(partial.map(|entry| entry.unwrap().file_name()).all(|name| name.to_string_lossy().starts_with("step-")));
}

#[test]
fn a_step_that_cannot_be_shared_out_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(Setting::Chameleon, &[]);
    let prepared = prepare(&config, folder.path());
    let outcomes = train(3, &config, &folder.path().join("run"), &prepared, |_| Silent);
    for outcome in outcomes {
        let message = outcome.unwrap_err().to_string();
        assert!(message.contains("data.batch") && message.contains("3 ranks have equal shares"), "{message}");
    }
}

/// The horizons of a run are branches in memory: with several ranks too.
#[test]
fn branches_are_those_of_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let more = [&STEP[..], &["optimizer.schedule=wsd", "optimizer.decay_steps=2", "train.horizons=[4]"]].concat();
    let config = config(Setting::Chameleon, &more);
    let prepared = prepare(&config, folder.path());
    let horizons = |folder: &Path| {
        let result: serde_json::Value = serde_json::from_str(&read(folder.join("result.json"))).unwrap();
        let all = result["horizons"].as_array().unwrap().clone();
        all.iter().map(|point| point["joint"].as_f64().unwrap()).collect::<Vec<_>>()
    };
    let (alone, several) = (folder.path().join("alone"), folder.path().join("several"));
    train_alone(&config, &alone, &prepared, &mut Silent).unwrap();
    train(3, &config, &several, &prepared, |_| Silent).into_iter().for_each(|outcome| drop(outcome.unwrap()));
    let (want, got) = (horizons(&alone), horizons(&several));
    assert_eq!((want.len(), got.len()), (1, 1));
    assert!((got[0] / want[0] - 1.0).abs() < 1e-5, "{got:?} {want:?}");
}
