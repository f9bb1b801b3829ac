//! Builds mom-train and starts it. xtask links none of the project's crates, so that it is built in seconds.

// The program's own file: what it takes is checked and explained here, before it is built.
#[path = "../../crates/mom-train/src/cli/arguments/mod.rs"]
pub mod arguments;

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::toolkit;

/// Runs `mom-train` with the arguments of this process, in the folder the user stands in.
pub fn run(root: &Path, command: &arguments::Command) -> Result<ExitCode> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(|word| word.to_string_lossy()).collect();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["run", "--release", "--package", "mom-train", "--manifest-path"]).arg(root.join("Cargo.toml"));
    if asks_for_gpu(command) {
        // candle compiles its kernels and links CUDA's libraries.
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
        cargo.args(["--features", "cuda"]).envs(toolkit::environment(&target)?);
    }
    // The report prints the command that a reader can repeat.
    cargo.arg("--").args(&arguments).env("MOM_COMMAND", format!("cargo xtask {}", words.join(" ")));
    become_it(cargo).context("cannot start cargo")
}

/// Signals and exit status are the program's own: it takes this process's place.
#[cfg(unix)]
fn become_it(mut command: Command) -> std::io::Result<ExitCode> {
    Err(std::os::unix::process::CommandExt::exec(&mut command))
}

#[cfg(not(unix))]
fn become_it(mut command: Command) -> std::io::Result<ExitCode> {
    let code = command.status()?.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Whether something is to run on a GPU: by a flag, by the run's file, or by an override of it.
fn asks_for_gpu(command: &arguments::Command) -> bool {
    use arguments::Command as C;
    let overridden = |overrides: &[String]| {
        let device = |text: &String| {
            let (key, value) = text.split_once('=')?;
            (key.trim() == "train.device").then(|| value.trim().trim_matches(['"', '\'']) == "cuda")
        };
        overrides.iter().filter_map(device).next_back()
    };
    match command {
        C::Ablate(arguments) => overridden(&arguments.overrides).unwrap_or(arguments.device == "cuda"),
        C::Train(arguments::TrainArguments { run: arguments, .. }) | C::Data(arguments) => {
            overridden(&arguments.overrides).unwrap_or_else(|| device_of(&arguments.config))
        }
        C::Eval(arguments) => arguments.device == "cuda",
        C::Generate(arguments) => arguments.device == "cuda",
        C::Speed(arguments) => arguments.device == "cuda",
        C::Export(_) | C::Inspect(_) | C::Shards(_) | C::Sizes => false,
    }
}

/// Whether a run's file says so; one that cannot be read is refused by the program, in its words.
fn device_of(config: &Path) -> bool {
    let text = std::fs::read_to_string(config).unwrap_or_default();
    let table: toml::Table = toml::from_str(&text).unwrap_or_default();
    let device = table.get("train").and_then(|train| train.get("device"));
    device.and_then(toml::Value::as_str) == Some("cuda")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Task {
        #[command(subcommand)]
        command: arguments::Command,
    }

    #[test]
    fn a_gpu_is_asked_for_by_flag_file_or_override() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("run.toml");
        let asks = |words: &[&str]| asks_for_gpu(&Task::parse_from([&["xtask"], words].concat()).command);
        let train = |file: &str, more: &[&str]| {
            std::fs::write(&config, file).unwrap();
            asks(&[&["train", "--out", "x", "--config", config.to_str().unwrap()], more].concat())
        };
        assert!(train("[train]\ndevice = \"cuda\"", &[]));
        assert!(train("train.device = 'cuda'", &[]));
        assert!(!train("[train]\ndevice = \"cuda\"", &["train.device=cpu"]));
        assert!(train("[train]\nsteps = 1", &["train.device = \"cuda\""]));
        assert!(!train("[train]\nsteps = 1", &["train.steps=2"]));
        assert!(asks(&["ablate", "--device", "cuda"]) && asks(&["speed", "--device=cuda"]));
        assert!(!asks(&["ablate"]) && !asks(&["sizes"]));
    }
}
