//! Programs and libraries of CUDA from PyPI, for machines without a toolkit.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// What compiles CUDA C++.
pub const COMPILER: &[&str] = &[
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
];

/// Where wheels of CUDA 13 lie in the folder that they are installed to.
pub const CUDA: &str = "nvidia/cu13";

/// Installs wheels into a folder.
pub fn install(to: &Path, wheels: &[&str]) -> Result<()> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target"]).arg(to).args(wheels);
    run(&mut pip)?;
    // Wheels lose the permission to execute.
    for programs in [format!("{CUDA}/bin"), format!("{CUDA}/nvvm/bin"), "nvidia/cuda_nvcc/bin".to_owned()] {
        let programs = to.join(programs);
        if programs.is_dir() {
            run(Command::new("chmod").args(["-R", "+x"]).arg(programs))?;
        }
    }
    Ok(())
}

/// Runs a program and returns its output; its errors are the error.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed:\n{text}");
    Ok(text)
}
