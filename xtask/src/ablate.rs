//! Builds mom-train and starts it. xtask links none of the project's crates, so that it is built in seconds.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

/// Arguments that are handed on as they are.
#[derive(Debug, clap::Args)]
pub struct AblateArgs {
    /// Flags of mom-train.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Runs `mom-train <command>` with the arguments, in the folder the user stands in.
pub fn run(root: &Path, command: &str, args: &AblateArgs) -> Result<ExitCode> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let words: Vec<String> = args.arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let on_gpu = asks_for_gpu(&words);
    let build = Command::new(cargo)
        .args(["build", "--release", "--package", "mom-train", "--manifest-path"])
        .arg(root.join("Cargo.toml"))
        .args(if on_gpu { &["--features", "cuda"][..] } else { &[] })
        .status()
        .context("cannot start cargo")?;
    if !build.success() {
        let hint = if on_gpu { "; a build for the GPU compiles candle's kernels with nvcc of CUDA 13.0" } else { "" };
        bail!("mom-train does not build: {build}{hint}");
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    let program = target.join("release").join(format!("mom-train{}", std::env::consts::EXE_SUFFIX));
    let status = Command::new(&program)
        .arg(command)
        .args(&args.arguments)
        // The report prints the command that a reader can repeat.
        .env("MOM_COMMAND", format!("cargo xtask {command} {}", words.join(" ")).trim_end())
        .status()
        .with_context(|| format!("cannot start {}", program.display()))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether the arguments say that something is to run on a GPU: `--device cuda`, or an override of a run's device.
fn asks_for_gpu(words: &[String]) -> bool {
    let pair = words.windows(2).any(|pair| pair[0] == "--device" && pair[1] == "cuda");
    pair || words.iter().any(|word| word == "--device=cuda" || word.replace([' ', '"'], "") == "train.device=cuda")
}
