//! A rank that fails ends all of them, with its message, and the newest checkpoint is whole.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use mom_models::Setting;
use mom_train::dist::World;
use mom_train::{Error, Prepared, Trainer};
use rand::{RngExt, SeedableRng};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::common::{config, read};
use crate::processes::{Run, assert_alike, losses, outputs, text, wait_for};
use crate::threads::ranks;

/// All ranks end within this time.
const SOON: Duration = Duration::from_secs(30);

/// A run that takes long enough to be disturbed, and its folder once a checkpoint is there.
fn disturbed(size: usize, more: &[&str], change: impl Fn(usize, Command) -> Command) -> (Run, Vec<Child>) {
    let run = Run::new(&["train.steps=100000", "train.eval_every=100000", "train.checkpoint_every=5"]);
    let children = run.start(size, more, change);
    wait_for(&run.out().join("checkpoints/step-00000005/checksums.json"));
    (run, children)
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// The messages of all ranks, which end soon; one that was killed says nothing.
fn messages(children: Vec<Child>) -> Vec<String> {
    let start = Instant::now();
    let all = outputs(children);
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    all.iter()
        .map(|output| {
            assert!(!output.status.success());
            assert!(!text(output).contains("panicked"), "{}", text(output));
            text(output)
        })
        .collect()
}

/// What is left goes on, at another number of ranks.
fn goes_on(run: &Run) {
    let step = mom_train::Trained::open(&run.out()).unwrap().step();
    let steps = format!("train.steps={}", step + 2);
    for output in outputs(run.start(2, &[&steps], |_, command| command)) {
        assert!(output.status.success(), "{}", text(&output));
    }
}

#[test]
fn a_rank_that_is_killed_ends_all() {
    for victim in [0, 2] {
        let (run, children) = disturbed(3, &[], |_, command| command);
        signal(&children[victim], Signal::KILL);
        for (rank, message) in messages(children).iter().enumerate().filter(|(rank, _)| *rank != victim) {
            assert!(message.contains(&format!("rank {victim} failed: it ended without a word")), "{rank}: {message}");
        }
        goes_on(&run);
    }
}

#[test]
fn a_rank_that_hangs_ends_all() {
    for victim in [0, 1] {
        let (_run, mut children) = disturbed(3, &["train.dist.timeout_secs=2"], |_, command| command);
        signal(&children[victim], Signal::STOP);
        let hung = children.remove(victim);
        for message in messages(children) {
            assert!(message.contains(&format!("rank {victim} failed: no sign of life for 2 s")), "{message}");
        }
        signal(&hung, Signal::KILL);
        outputs(vec![hung]);
    }
}

#[test]
fn a_full_disk_of_one_rank_ends_all() {
    // As `ulimit -f` of the second rank's shell has it: what it writes may have 64 KiB.
    let limited = |rank: usize, command: Command| {
        if rank != 1 {
            return command;
        }
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -f 64; exec \"$0\" \"$@\""]).arg(command.get_program()).args(command.get_args());
        shell.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        shell
    };
    let run = Run::new(&["train.steps=40", "model.d_model=64"]);
    let all = messages(run.start(2, &[], limited));
    assert!(all[1].contains("File too large") && all[1].contains("rank-00001-of-00002.safetensors"), "{}", all[1]);
    assert!(all[0].contains("rank 1 failed: ") && all[0].contains("File too large"), "{}", all[0]);
    let checkpoints = std::fs::read_dir(run.out().join("checkpoints")).unwrap().count();
    assert_eq!(checkpoints, 0, "whole, or none");
}

#[test]
fn ranks_that_are_asked_to_end_or_whose_launcher_is_end_together() {
    let (run, children) = disturbed(3, &[], |_, command| command);
    signal(&children[1], Signal::TERM);
    for output in outputs(children) {
        assert_eq!(output.status.code(), Some(75), "{}", text(&output));
    }
    goes_on(&run);
    // And so do those of `--gpus`: where the launcher alone is asked, and where all are, as from a terminal.
    for whole_group in [false, true] {
        let run = Run::new(&["train.steps=100000", "train.eval_every=100000", "train.checkpoint_every=5"]);
        let launcher = run.command(&run.out(), &["--gpus", "2"]).process_group(0).spawn().unwrap();
        wait_for(&run.out().join("checkpoints/step-00000005/checksums.json"));
        if whole_group {
            kill_process_group(Pid::from_child(&launcher), Signal::INT).unwrap();
        } else {
            signal(&launcher, Signal::TERM);
        }
        let output = outputs(vec![launcher]).remove(0);
        assert_eq!(output.status.code(), Some(75), "{}", text(&output));
        goes_on(&run);
    }
}

#[test]
fn ranks_that_differ_are_refused_at_the_start() {
    let run = Run::new(&[]);
    let other = |rank: usize, mut command: Command| {
        if rank == 1 {
            command.arg("optimizer.learning_rate=3e-3");
        }
        command
    };
    for message in messages(run.start(2, &[], other)) {
        assert!(message.contains("ranks differ in configuration"), "{message}");
    }
    assert!(!run.out().join("checkpoints").exists());
}

#[test]
fn a_rank_that_never_comes_or_belongs_to_another_run_is_waited_for_no_longer_than_asked() {
    let run = Run::new(&["train.dist.start_secs=1"]);
    let mut children = run.start(3, &[], |_, command| command);
    let mut late = children.remove(2);
    late.kill().unwrap();
    late.wait().unwrap();
    let all = messages(children);
    assert!(all[0].contains("no word from rank 2 within 1 s"), "{}", all[0]);
}

/// What is not finite on one rank ends the step of all, and is told of the rank that it comes from.
#[test]
fn a_rank_that_meets_a_nan_ends_all_and_no_weight_is_touched() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(Setting::Chameleon, &["data.batch=4"]);
    let prepared = Prepared::new(&config, folder.path(), |_| {}).unwrap();
    let outcomes = ranks(2, folder.path(), &config, |world: std::sync::Arc<World>| {
        let mut trainer = Trainer::in_world(&config, &prepared, world.clone()).unwrap();
        trainer.step().unwrap();
        if world.rank() == 1 {
            let variable = trainer.parameters().get("backbone.layers.0.mixer.D").unwrap();
            variable.set(&(variable.as_tensor() * f64::NAN).unwrap()).unwrap();
        }
        let outcome = trainer.step();
        assert_eq!(trainer.steps_done(), 1);
        world.settle(outcome)
    });
    for outcome in outcomes {
        let Err(error) = outcome else { panic!("{outcome:?}") };
        assert!(matches!(error, Error::NonFinite { step: 2, .. } | Error::Rank { .. }), "{error}");
        let message = error.to_string();
        assert!(
            message.contains("step 2") && message.contains("first output that is not finite is that of"),
            "{message}"
        );
    }
}

/// Random ranks are killed at random moments, and what is left goes on at other numbers of ranks: in the end it is the undisturbed run.
#[test]
fn a_run_survives_kills_at_any_moment() {
    let n_kills: usize = std::env::var("MOM_KILLS").map_or(8, |text| text.parse().unwrap());
    // The rate of a step does not depend on the end, which is chosen once all kills are over; and it is low, so that many steps do not
    // drift apart by the order of their sums.
    let run = Run::new(&[
        "train.eval_every=20",
        "train.checkpoint_every=2",
        "data.seqlen=96",
        "optimizer.schedule=constant",
        "optimizer.learning_rate=1e-4",
        "train.dist.start_secs=3",
    ]);
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(17);
    for kill in 0..n_kills {
        let size = rng.random_range(1..=3);
        let children = run.start(size, &["train.steps=1000000"], |_, command| command);
        std::thread::sleep(Duration::from_millis(rng.random_range(20..900)));
        signal(&children[rng.random_range(0..size)], Signal::KILL);
        for output in outputs(children) {
            assert!(!output.status.success(), "nothing was done");
            assert!(!text(&output).contains("panicked"), "kill {kill}: {}", text(&output));
        }
    }
    let done = mom_train::Trained::open(&run.out()).unwrap().step();
    println!("{done} steps by {n_kills} kills");
    assert!(done >= 20, "{done} steps");
    let steps = format!("train.steps={}", done + 10);
    for output in outputs(run.start(3, &[&steps], |_, command| command)) {
        assert!(output.status.success(), "{}", text(&output));
    }
    let alone = run.folder.path().join("alone");
    let output = run.command(&alone, &[&steps]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert_alike(&losses(&run.out()), &losses(&alone));
    // No sample was passed over, none came twice.
    let place = |out: &std::path::Path| {
        let newest = format!("checkpoints/step-{:08}/state.json", done + 10);
        let state: serde_json::Value = serde_json::from_str(&read(out.join(newest))).unwrap();
        (state["position"].clone(), state["counters"].clone())
    };
    assert_eq!(place(&run.out()), place(&alone));
}
