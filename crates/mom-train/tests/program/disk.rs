//! A disk that takes no more ends a run in the system's words, and costs no checkpoint.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::calls::{train, write_config};
use crate::common::{error_of, read, shards};

/// A file size limit stands for a full disk: the system refuses the write in the same place. The signal that comes with it,
/// which ends a process that does not say otherwise, is no reason to die in the middle of a file.
#[test]
fn a_disk_that_takes_no_more_ends_the_run_with_the_checkpoints_intact() {
    let folder = tempfile::tempdir().unwrap();
    let config = write_config(folder.path(), shards());
    let (out, fresh) = (folder.path().join("out"), folder.path().join("fresh"));
    assert!(train(&config, &out, &["train.steps=4"]).status.success());
    let size = |file: &str| fs::metadata(out.join("checkpoints/step-00000004").join(file)).unwrap().len();
    let limited = |bytes: u64, out: &Path, overrides: &[&str]| {
        Command::new("sh")
            .arg("-c")
            .arg(format!("ulimit -c 0; ulimit -f {}; exec \"$@\"", bytes / 512))
            .arg("sh")
            .arg(env!("CARGO_BIN_EXE_mom-train"))
            .args(["train", "--config", config.to_str().unwrap(), "--out", out.to_str().unwrap()])
            .args(overrides)
            .output()
            .unwrap()
    };
    // Weights fit, the moments beside them do not: the first checkpoint fails half-way.
    let between = (size("weights.safetensors") + size("optimizer.safetensors")) / 2;
    let message = error_of(&limited(between, &fresh, &[]));
    assert!(message.contains("cannot write") && message.contains("optimizer.safetensors"), "{message}");
    let checkpoints = || -> Vec<_> {
        let mut names: Vec<_> = fs::read_dir(fresh.join("checkpoints")).unwrap().map(|e| e.unwrap().path()).collect();
        names.sort();
        names
    };
    assert!(checkpoints().is_empty(), "nothing half-written stays: {:?}", checkpoints());

    // With a good checkpoint in place the next one fails: the good one stays, byte for byte.
    assert!(train(&config, &fresh, &[]).status.success());
    let last = fresh.join("checkpoints/step-00000004");
    fs::remove_dir_all(&last).unwrap();
    fs::remove_file(fresh.join("result.json")).unwrap();
    let good = fresh.join("checkpoints/step-00000002");
    let bytes =
        || ["weights.safetensors", "optimizer.safetensors", "state.json"].map(|f| fs::read(good.join(f)).unwrap());
    let before = bytes();
    let message = error_of(&limited(between, &fresh, &[]));
    assert!(message.contains("optimizer.safetensors"), "{message}");
    assert!(checkpoints() == [good.clone()] && bytes() == before);

    // With room again the run goes on and ends where an undisturbed one does.
    assert!(train(&config, &fresh, &[]).status.success());
    assert_eq!(read(out.join("metrics.jsonl")), read(fresh.join("metrics.jsonl")));
}

#[test]
fn a_full_device_is_reported_in_the_systems_words() {
    if !Path::new("/dev/full").exists() {
        eprintln!("skipped: no /dev/full on this system");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let config = write_config(folder.path(), shards());
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    // The partial file of the first head that a run writes.
    std::os::unix::fs::symlink("/dev/full", out.join(".identity.json.partial")).unwrap();
    let message = error_of(&train(&config, &out, &[]));
    assert!(message.contains("identity.json") && message.contains("No space left"), "{message}");
    assert!(!out.join("identity.json").exists());
}
