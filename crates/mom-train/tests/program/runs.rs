//! A run from the outside: the files that it writes, what it says of itself and of damaged data.

use std::fs;
use std::path::{Path, PathBuf};

use crate::calls::{train, write_config};
use crate::common::{error_of, mom_train, read, shards};

fn files_of(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_of(&path) } else { vec![path] }).collect()
}

/// A copy that a test may change.
fn copy_of_shards(folder: &Path) -> PathBuf {
    let copy = folder.join("shards");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(shards()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    copy
}

#[test]
fn a_run_writes_its_folder_and_tells_its_losses() {
    let folder = tempfile::tempdir().unwrap();
    let config = write_config(folder.path(), shards());
    let out = folder.path().join("out");
    // The data may be made before; the run finds it.
    let prepare = ["data", "--config", config.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let output = mom_train(&prepare);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("training: ") && text.contains("% padding") && text.contains(" samples used"), "{text}");
    let part = files_of(&out.join("tokens")).into_iter().find(|path| path.extension().unwrap() == "tokens").unwrap();
    let made = part.metadata().unwrap().modified().unwrap();
    assert_eq!(String::from_utf8(mom_train(&prepare).stdout).unwrap(), text);
    let output = train(&config, &out, &["train.seed=3"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("speech: validation loss"), "{text}");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(!told.contains("tokenising") && !told.contains("fitting"), "all of that was done before: {told}");
    let resolved = read(out.join("config.toml"));
    assert!(resolved.contains("seed = 3") && resolved.contains("weight_decay = 0.1"), "{resolved}");
    assert!(read(out.join("model.json")).contains("vocab_size"));
    assert_eq!(part.metadata().unwrap().modified().unwrap(), made, "tokenised once");
    for file in ["tokenizers/tokenizers.json", "metrics.jsonl", "timing.jsonl", "result.json"] {
        assert!(out.join(file).is_file(), "{file}");
    }
    let message = error_of(&train(&config, &folder.path().join("other"), &["train.stepz=3"]));
    assert!(message.contains("run.toml") && message.contains("stepz"), "{message}");
}

#[test]
fn a_truncated_shard_is_named_and_a_bad_sample_is_skipped_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let copy = copy_of_shards(folder.path());
    let config = write_config(folder.path(), &copy);

    // One image does not decode: the sample is skipped, the run is not.
    let shard = copy.join("shard-000001.tar");
    let mut bytes = fs::read(&shard).unwrap();
    let at = bytes.windows(12).position(|window| window == b"00000050.png").unwrap();
    bytes[at + 512 + 20..at + 512 + 60].fill(0);
    fs::write(&shard, &bytes).unwrap();
    let output = train(&config, &folder.path().join("one"), &[]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("95 samples used, 1 skipped: 1 with image does not decode"), "{text}");

    fs::write(&shard, &bytes[..bytes.len() - 40_000]).unwrap();
    let message = error_of(&train(&config, &folder.path().join("two"), &[]));
    assert!(message.contains("shard-000001.tar") && message.contains("at byte"), "{message}");

    fs::remove_dir_all(&copy).unwrap();
    let message = error_of(&train(&config, &folder.path().join("three"), &[]));
    assert!(message.contains("shards"), "{message}");
}

#[test]
fn without_a_terminal_a_run_tells_its_course_in_lines() {
    let folder = tempfile::tempdir().unwrap();
    let config = write_config(folder.path(), shards());
    let more = ["train.steps=4", "train.eval_every=2", "train.checkpoint_every=2", "optimizer.warmup_steps=9"];
    let big = ["data.batch=400", "data.seqlen=512"];
    let text = |overrides: &[&str], out: &str| {
        let output = train(&config, &folder.path().join(out), overrides);
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let told = text(&more, "one");
    for part in [
        "M weights (",
        "positions a step, 4 steps, ",
        "warning: the warm-up (optimizer.warmup_steps = 9) is longer than the run (4 steps)",
        "step 2 of 4: validation speech ",
        "step 2 of 4: checkpoint",
        " k tokens/s",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!told.contains("more than a pass"), "{told}");
    let told = text(&[&["train.steps=1"][..], &big].concat(), "two");
    assert!(told.contains("warning: a step of 204800 positions is more than a pass over the data"), "{told}");
}

/// The contents of all files below a folder.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all: Vec<_> = files_of(folder).into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    all.sort();
    all
}

#[test]
fn an_evaluation_takes_nothing_from_a_run_and_tells_what_it_did_not_take() {
    let folder = tempfile::tempdir().unwrap();
    let copy = copy_of_shards(folder.path());
    let (config, out) = (write_config(folder.path(), &copy), folder.path().join("out"));
    assert!(train(&config, &out, &["train.steps=4", "train.checkpoint_every=2"]).status.success());
    let eval = || mom_train(&["eval", "--model", out.to_str().unwrap()]);
    assert!(eval().status.success());

    // Other documents are refused, and the tokens of the run's own stay.
    let tokens = contents(&out.join("tokens"));
    let shard = copy.join("shard-000001.tar");
    fs::rename(&shard, folder.path().join("away.tar")).unwrap();
    let message = error_of(&eval());
    assert!(message.contains("the source shards") && message.contains("--data"), "{message}");
    assert_eq!(contents(&out.join("tokens")), tokens);
    fs::rename(folder.path().join("away.tar"), &shard).unwrap();
    assert!(eval().status.success());

    // The newest checkpoint is damaged: the one before is taken, and that is told.
    let weights = out.join("checkpoints/step-00000004/weights.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let output = eval();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{told}");
    assert!(told.contains("step-00000004 is damaged") && told.contains("taking step 2"), "{told}");
}

/// Of several runs, such as those of a comparison.
#[test]
fn an_evaluation_takes_nothing_from_tokens_that_runs_share() {
    let folder = tempfile::tempdir().unwrap();
    let copy = copy_of_shards(folder.path());
    let (config, out, prepared) =
        (write_config(folder.path(), &copy), folder.path().join("out"), folder.path().join("prepared"));
    let shared = format!("data.prepared={}", prepared.display());
    assert!(train(&config, &out, &[&shared, "train.steps=2"]).status.success());
    let eval = || mom_train(&["eval", "--model", out.to_str().unwrap()]);
    let tokens = contents(&prepared);
    fs::remove_file(copy.join("shard-000001.tar")).unwrap();
    assert!(error_of(&eval()).contains("--data"));
    assert_eq!(contents(&prepared), tokens);
    // They lie elsewhere now: nothing is made in their place.
    fs::rename(&prepared, folder.path().join("away")).unwrap();
    let message = error_of(&eval());
    assert!(message.contains("is not here") && message.contains("data.prepared"), "{message}");
    assert!(!prepared.exists());
}

#[test]
fn what_a_run_is_better_not_begun_with_is_told_before() {
    let folder = tempfile::tempdir().unwrap();
    let config = write_config(folder.path(), shards());
    let inside = shards().join("out");
    let message = error_of(&train(&config, &inside, &[]));
    assert!(message.contains("outside of the source shards"), "{message}");
    assert!(!inside.exists());
    let (data, out) = (shards().to_str().unwrap(), inside.to_str().unwrap());
    let message = error_of(&mom_train(&["ablate", "--data", data, "--out", out, "--scale", "nano"]));
    assert!(message.contains("outside of the source shards") && !inside.exists(), "{message}");
    let output = train(&config, &folder.path().join("short"), &["data.seqlen=24"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && told.contains("every image is cut"), "{told}");
}
