//! How the tests call the program: sweeps and runs over a few shards, to their end or in the background.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::common::{SMALL, mom_train, shards};

pub fn sweep<'a>(out: &'a Path, steps: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["ablate", "--setting", "chameleon", "--variants", "dense,mom,in", "--scale", "nano"];
    arguments.extend(["--steps", steps, "--batch", "2", "--seqlen", "96", "--out", out.to_str().unwrap()]);
    arguments.extend(["--data", shards().to_str().unwrap()]);
    if !more.contains(&"--seeds") {
        arguments.extend(["--seeds", "0"]);
    }
    arguments.extend(more);
    arguments.extend(SMALL);
    arguments
}

/// Starts the program, with what it says going to `says`.
pub fn spawn(arguments: &[impl AsRef<OsStr>], says: fn() -> Stdio) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mom-train"));
    command.args(arguments).stdout(says()).stderr(says()).spawn().unwrap()
}

pub fn train(config: &Path, out: &Path, overrides: &[&str]) -> Output {
    let mut arguments = vec!["train", "--config", config.to_str().unwrap(), "--out", out.to_str().unwrap()];
    arguments.extend(overrides);
    mom_train(&arguments)
}

pub fn write_config(folder: &Path, shards: &Path) -> PathBuf {
    let path = folder.join("run.toml");
    let text = format!(
        r#"
        model = {{ setting = "three-modality", variant = "mom", scale = "nano" }}
        train = {{ steps = 4, eval_every = 2, checkpoint_every = 2, eval_batches = 1 }}
        [data]
        shards = {shards:?}
        batch = 2
        seqlen = 96
        [data.tokenizers]
        text = {{ vocab_size = 280 }}
        image = {{ codes = 24 }}
        speech = {{ units = 16 }}
        held_out = 0.2
        "#
    );
    fs::write(&path, text).unwrap();
    path
}
