//! The compilers, from PyPI: their versions are part of what the kernels are made of.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// What makes PTX of C++, and fat binaries of its parts.
const COMPILER: &[&str] = &[
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
];
/// What makes machine code of PTX: the newest assembler whose output every driver of CUDA 12 loads.
const ASSEMBLER: &str = "nvidia-cuda-nvcc-cu12==12.9.86";
/// The assembler of the oldest driver that the kernels are for: what it takes, that driver takes.
const OLDEST: &str = "nvidia-cuda-nvcc-cu12==12.4.131";

/// Programs that compile, assemble and pack.
pub struct Toolkit {
    pub nvcc: PathBuf,
    pub fatbinary: PathBuf,
    pub ptxas: PathBuf,
    /// Of [`OLDEST`].
    pub oldest_ptxas: PathBuf,
    /// Versions, for the manifest.
    pub compiler: String,
}

impl Toolkit {
    /// Installs what is missing into `folder`.
    pub fn fetch(folder: &Path) -> Result<Self> {
        let nvcc = folder.join("cu13/nvidia/cu13/bin/nvcc");
        if !nvcc.is_file() {
            println!("installing the compilers into {} (1.2 GB, once)", folder.display());
            install(&folder.join("cu13"), COMPILER)?;
            // Wheels lose the permission to execute.
            for programs in ["nvidia/cu13/bin", "nvidia/cu13/nvvm/bin"] {
                run(Command::new("chmod").args(["-R", "+x"]).arg(folder.join("cu13").join(programs)))?;
            }
        }
        let ptxas = |name: &str, wheel: &str| {
            let to = folder.join(name).join("nvidia/cuda_nvcc/bin/ptxas");
            if !to.is_file() {
                install(&folder.join(name), &[wheel])?;
                run(Command::new("chmod").arg("+x").arg(&to))?;
            }
            Ok::<_, anyhow::Error>(to)
        };
        let toolkit = Self {
            fatbinary: nvcc.with_file_name("fatbinary"),
            ptxas: ptxas("ptxas12.9", ASSEMBLER)?,
            oldest_ptxas: ptxas("ptxas12.4", OLDEST)?,
            compiler: format!("nvcc {}, ptxas {}, {}", version(&nvcc)?, tail(ASSEMBLER), tail(OLDEST)),
            nvcc,
        };
        for program in [&toolkit.nvcc, &toolkit.fatbinary] {
            ensure!(program.is_file(), "{} is not there after the installation", program.display());
        }
        Ok(toolkit)
    }
}

fn install(to: &Path, wheels: &[&str]) -> Result<()> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target"]).arg(to).args(wheels);
    run(&mut pip).map(drop)
}

fn tail(wheel: &str) -> &str {
    wheel.split("==").last().unwrap_or(wheel)
}

fn version(nvcc: &Path) -> Result<String> {
    let text = run(Command::new(nvcc).arg("--version"))?;
    let version = text.lines().find_map(|line| line.split_once(", V")).map(|(_, version)| version.trim().to_owned());
    version.context("nvcc --version names no version")
}

/// Runs a program and returns its output; its errors are the error.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed:\n{text}");
    Ok(text)
}
