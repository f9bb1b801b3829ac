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
    let build = Command::new(cargo)
        .args(["build", "--release", "--package", "mom-train", "--manifest-path"])
        .arg(root.join("Cargo.toml"))
        .status()
        .context("cannot start cargo")?;
    if !build.success() {
        bail!("mom-train does not build: {build}");
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    let program = target.join("release").join(format!("mom-train{}", std::env::consts::EXE_SUFFIX));
    let words: Vec<String> = args.arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let status = Command::new(&program)
        .arg(command)
        .args(&args.arguments)
        // The report prints the command that a reader can repeat.
        .env("MOM_COMMAND", format!("cargo xtask {command} {}", words.join(" ")).trim_end())
        .status()
        .with_context(|| format!("cannot start {}", program.display()))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
