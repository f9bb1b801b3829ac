//! Runs that are killed, told to stop, left by their terminal or started twice: nothing is lost, and the rest is the same.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use crate::calls::{spawn, train, write_config};
use crate::common::{SMALL, mom_train, read, shards};

/// At random moments, and while a checkpoint is being written.
#[test]
fn ten_kills_at_any_moment_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let config = write_config(folder.path(), shards());
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    let overrides = ["train.steps=240", "train.eval_every=7", "train.checkpoint_every=1", "train.keep_checkpoints=2"];
    assert!(train(&config, &whole, &overrides).status.success());
    let writing = || {
        let entries = fs::read_dir(killed.join("checkpoints")).into_iter().flatten();
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().ends_with(".partial"))
    };
    let (mut state, mut while_writing, mut kills) = (9u64, 0, 0);
    while kills < 10 {
        let words = ["train", "--config", config.to_str().unwrap(), "--out", killed.to_str().unwrap()];
        let mut child = spawn(&[&words[..], &overrides].concat(), Stdio::null);
        // Half of them at a moment that has nothing to do with what the run does; the others inside of a checkpoint.
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        std::thread::sleep(Duration::from_millis(20 + (state >> 33) % 200));
        while kills % 2 == 1 && !writing() && child.try_wait().unwrap().is_none() {}
        while_writing += u32::from(writing());
        if child.try_wait().unwrap().is_some() {
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    assert!(kills >= 5 && while_writing > 0, "{kills} kills, {while_writing} inside of a checkpoint");
    assert!(train(&config, &killed, &overrides).status.success());
    assert_eq!(read(whole.join("metrics.jsonl")), read(killed.join("metrics.jsonl")));
    let checkpoint = |out: &Path, file: &str| fs::read(out.join("checkpoints/step-00000240").join(file)).unwrap();
    for file in ["weights.safetensors", "optimizer.safetensors"] {
        assert!(checkpoint(&whole, file) == checkpoint(&killed, file), "{file}");
    }
    assert!(!writing(), "nothing half-written stays");
}

/// A run that takes a while, in a folder.
fn long_run(folder: &Path) -> (Vec<String>, PathBuf) {
    let config = folder.join("run.toml");
    let text = format!(
        "model = {{ setting = \"chameleon\", variant = \"mom\", scale = \"nano\" }}\n\
         data = {{ shards = {:?}, batch = 2, seqlen = 192 }}\n\
         train = {{ steps = 400, eval_every = 100, checkpoint_every = 1000 }}\n",
        shards()
    );
    fs::write(&config, text).unwrap();
    let out = folder.join("run");
    let words = ["train", "--config", config.to_str().unwrap(), "--out", out.to_str().unwrap()];
    (words.iter().chain(&SMALL).map(|&word| word.to_owned()).collect(), out)
}

/// Starts the program and waits until it has done some steps of a run.
fn started(arguments: &[String], out: &Path) -> Child {
    let mut child = spawn(arguments, Stdio::piped);
    let metrics = out.join("metrics.jsonl");
    let before = fs::metadata(&metrics).map_or(0, |data| data.len());
    while fs::metadata(&metrics).map_or(0, |data| data.len()) <= before + 500 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was stopped");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

#[test]
fn a_signal_ends_a_run_politely_and_it_goes_on_with_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (arguments, out) = long_run(folder.path());
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    assert!(mom_train(&words).status.success());
    let (metrics, whole) = (read(out.join("metrics.jsonl")), folder.path().join("whole"));
    fs::rename(&out, whole).unwrap();
    for signal in ["TERM", "INT", "USR1"] {
        let child = started(&arguments, &out);
        let kill = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
        assert!(kill.success());
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(75), "{signal}: {text}");
        assert!(text.contains("stopped after step") && text.contains("the same command goes on"), "{signal}: {text}");
        assert!(fs::read_dir(out.join("checkpoints")).unwrap().count() > 0, "{signal}");
    }
    assert!(mom_train(&words).status.success());
    assert_eq!(read(out.join("metrics.jsonl")), metrics);
}

#[test]
fn a_run_outlives_its_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let (arguments, out) = long_run(folder.path());
    let mut child = started(&arguments, &out);
    // The terminal is closed, and nobody reads what is said.
    drop((child.stdout.take(), child.stderr.take()));
    assert!(Command::new("kill").args(["-HUP", &child.id().to_string()]).status().unwrap().success());
    assert!(child.wait().unwrap().success());
    assert!(out.join("result.json").is_file());
}

#[test]
fn what_nobody_reads_ends_quietly() {
    let script = format!("{:?} sizes | head -1; echo \"${{PIPESTATUS[0]}}\"", env!("CARGO_BIN_EXE_mom-train"));
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    let (text, errors) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(text.starts_with("scale") && text.ends_with("\n0\n"), "{text}");
    assert!(errors.is_empty(), "{errors}");
}

#[test]
fn of_starts_at_once_one_runs_and_the_others_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let (arguments, out) = long_run(folder.path());
    let start = || spawn(&arguments, Stdio::piped);
    let outputs: Vec<_> = [start(), start(), start()].map(|child| child.wait_with_output().unwrap()).into();
    let refused = |output: &&Output| String::from_utf8_lossy(&output.stderr).contains("is in use by another process");
    assert_eq!(outputs.iter().filter(|output| output.status.success()).count(), 1);
    assert_eq!(outputs.iter().filter(refused).count(), 2);
    assert!(out.join("result.json").is_file());
}
