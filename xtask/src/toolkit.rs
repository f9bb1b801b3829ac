//! What a build for the GPU needs beside Rust: candle compiles its kernels with nvcc, and links CUDA's libraries.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::wheels::{COMPILER, CUDA, install, run};

/// What candle links, beside the compiler.
const LIBRARIES: &[&str] = &["nvidia-cuda-nvrtc==13.0.88", "nvidia-cublas==13.0.2.14", "nvidia-curand==10.4.0.35"];

/// Version of CUDA that the wheels are of, and oldest driver that takes what they compile.
const VERSION: (u32, u32) = (13, 0);

/// The environment of a build and a run, where this machine has no toolkit of its own: one is then installed under `target`.
/// Nothing where it has.
pub fn environment(target: &Path) -> Result<Vec<(&'static str, OsString)>> {
    if own_nvcc().is_some() {
        return Ok(Vec::new());
    }
    let driver = driver()?;
    ensure!(
        driver >= VERSION,
        "no nvcc in $NVCC, $CUDA_HOME, $CUDA_PATH, PATH or /usr/local/cuda, and the driver is of CUDA {}.{}: install a toolkit \
         of CUDA 12.4 to {}.{} and set CUDA_HOME (only one of {}.{} can be installed here, which needs driver 580)",
        driver.0,
        driver.1,
        driver.0,
        driver.1,
        VERSION.0,
        VERSION.1
    );
    let folder = target.join("cuda-toolkit");
    let home = folder.join(CUDA);
    if !home.join("complete").is_file() {
        eprintln!(
            "no nvcc here: installing CUDA {}.{}'s from PyPI into {} (1.2 GB, once)",
            VERSION.0,
            VERSION.1,
            folder.display()
        );
        install(&folder, &[COMPILER, LIBRARIES].concat())?;
        name_libraries(&home)?;
        fs::write(home.join("complete"), "").with_context(|| format!("writing into {}", home.display()))?;
    }
    let mut libraries = home.join("lib").into_os_string();
    if let Some(more) = std::env::var_os("LD_LIBRARY_PATH") {
        libraries.push(":");
        libraries.push(more);
    }
    let nvcc = home.join("bin/nvcc").into_os_string();
    Ok(vec![
        ("CUDA_HOME", home.clone().into()),
        ("CUDA_PATH", home.into()),
        ("NVCC", nvcc),
        ("LD_LIBRARY_PATH", libraries),
    ])
}

/// The compiler of a toolkit that is installed.
fn own_nvcc() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let mut candidates: Vec<PathBuf> = variable("NVCC").into_iter().collect();
    candidates.extend(["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(variable).map(|home| home.join("bin/nvcc")));
    candidates.extend(std::env::split_paths(&variable("PATH").unwrap_or_default()).map(|folder| folder.join("nvcc")));
    candidates.push("/usr/local/cuda/bin/nvcc".into());
    candidates.into_iter().find(|nvcc| nvcc.is_file())
}

/// The driver's version of CUDA, as nvidia-smi tells it.
fn driver() -> Result<(u32, u32)> {
    let text =
        run(&mut Command::new("nvidia-smi")).context("no NVIDIA driver on this machine? `--device cpu` needs none")?;
    version_in(&text).context("nvidia-smi names no CUDA version")
}

fn version_in(text: &str) -> Option<(u32, u32)> {
    let (_, rest) = text.split_once("CUDA Version:")?;
    let (major, minor) = rest.split_whitespace().next()?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The names that a linker looks for: wheels have libraries by their version alone, and not the driver's.
fn name_libraries(home: &Path) -> Result<()> {
    let lib = home.join("lib");
    for entry in fs::read_dir(&lib).with_context(|| format!("listing {}", lib.display()))? {
        let file = entry?.file_name().to_string_lossy().into_owned();
        if let Some((name, _)) = file.split_once(".so.")
            && !name.ends_with(".alt")
        {
            link(&file, &lib.join(format!("{name}.so")))?;
        }
    }
    link("lib", &home.join("lib64"))?;
    let stubs = lib.join("stubs");
    fs::create_dir_all(&stubs).with_context(|| format!("creating {}", stubs.display()))?;
    link(&driver_library()?.to_string_lossy(), &stubs.join("libcuda.so"))
}

/// Where the driver's own library is.
fn driver_library() -> Result<PathBuf> {
    let listed = run(Command::new("/sbin/ldconfig").arg("-p")).or_else(|_| run(Command::new("ldconfig").arg("-p")));
    let listed = listed.unwrap_or_default();
    let found = listed.lines().find(|line| line.contains("libcuda.so.1")).and_then(|line| line.split_once("=> "));
    if let Some((_, path)) = found {
        return Ok(path.trim().into());
    }
    for folder in std::env::split_paths(&std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default()) {
        let file = folder.join("libcuda.so.1");
        if file.is_file() {
            return Ok(file);
        }
    }
    bail!("libcuda.so.1 is neither in ldconfig's list nor in LD_LIBRARY_PATH, though nvidia-smi runs")
}

#[cfg(unix)]
fn link(to: &str, from: &Path) -> Result<()> {
    if fs::symlink_metadata(from).is_ok() {
        return Ok(());
    }
    std::os::unix::fs::symlink(to, from).with_context(|| format!("linking {}", from.display()))
}

#[cfg(not(unix))]
fn link(_: &str, from: &Path) -> Result<()> {
    bail!("{}: a toolkit can be installed on Linux alone; install NVIDIA's and set CUDA_HOME", from.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_s_version_is_read_from_nvidia_smi() {
        let text = "| NVIDIA-SMI 550.54.14    Driver Version: 550.54.14    CUDA Version: 12.4     |\n|---";
        assert_eq!(version_in(text), Some((12, 4)));
        assert_eq!(version_in("| CUDA Version: 13.0  |"), Some((13, 0)));
        assert_eq!(version_in("| CUDA Version: N/A |"), None);
    }
}
