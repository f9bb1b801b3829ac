//! The compilers: their versions are part of what the kernels are made of.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::wheels::{COMPILER, CUDA, install, run};

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
        let nvcc = folder.join("cu13").join(CUDA).join("bin/nvcc");
        if !nvcc.is_file() {
            println!("installing the compilers into {} (0.6 GB, once)", folder.display());
            install(&folder.join("cu13"), COMPILER)?;
        }
        let ptxas = |name: &str, wheel: &str| {
            let to = folder.join(name).join("nvidia/cuda_nvcc/bin/ptxas");
            if !to.is_file() {
                install(&folder.join(name), &[wheel])?;
            }
            ensure!(to.is_file(), "{} is not there after the installation", to.display());
            Ok(to)
        };
        let toolkit = Self {
            fatbinary: nvcc.with_file_name("fatbinary"),
            ptxas: ptxas("ptxas12.9", ASSEMBLER)?,
            oldest_ptxas: ptxas("ptxas12.4", OLDEST)?,
            compiler: format!("nvcc {}, ptxas {}, {}", version(&nvcc)?, tail(ASSEMBLER), tail(OLDEST)),
            nvcc,
        };
        ensure!(toolkit.fatbinary.is_file(), "{} is not there after the installation", toolkit.fatbinary.display());
        Ok(toolkit)
    }
}

fn tail(wheel: &str) -> &str {
    wheel.split("==").last().unwrap_or(wheel)
}

fn version(nvcc: &Path) -> Result<String> {
    let text = run(Command::new(nvcc).arg("--version"))?;
    let version = text.lines().find_map(|line| line.split_once(", V")).map(|(_, version)| version.trim().to_owned());
    version.context("nvcc --version names no version")
}
