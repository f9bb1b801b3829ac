//! `cargo xtask kernels`: compiles `kernels/` to the PTX that mom-kernels embeds, and keeps its manifest.
//!
//! The manifest holds, for each module, a hash of everything that its PTX is made from (source, headers, flags), a hash
//! of the PTX and what the assembler reports for the kernels on an H100. `--check` compares hashes and needs no compiler.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// Module name and source, below `kernels/`.
const MODULES: &[(&str, &str)] = &[
    ("adamw", "adamw/adamw.cu"),
    ("causal_conv1d", "causal_conv1d/causal_conv1d.cu"),
    ("column_sums", "column_sums/column_sums.cu"),
    ("cross_entropy", "cross_entropy/cross_entropy.cu"),
    ("embedding", "embedding/embedding.cu"),
    ("grouped_gemm_bf16", "grouped_gemm/bf16.cu"),
    ("grouped_gemm_f16", "grouped_gemm/f16.cu"),
    ("grouped_gemm_f32", "grouped_gemm/f32.cu"),
    ("grouped_gemm_sm90_bf16", "grouped_gemm/sm90_bf16.cu"),
    ("grouped_gemm_sm90_f16", "grouped_gemm/sm90_f16.cu"),
    ("mixer", "mixer/mixer.cu"),
    ("mixer_step_bf16", "mixer_step/bf16.cu"),
    ("mixer_step_f16", "mixer_step/f16.cu"),
    ("mixer_step_f32", "mixer_step/f32.cu"),
    ("mixer_step_sm90_bf16", "mixer_step/sm90_bf16.cu"),
    ("mixer_step_sm90_f16", "mixer_step/sm90_f16.cu"),
    ("modality_plan", "modality_plan/modality_plan.cu"),
    ("rms_norm", "rms_norm/rms_norm.cu"),
    ("selective_scan_backward_bf16", "selective_scan/backward_bf16.cu"),
    ("selective_scan_backward_f16", "selective_scan/backward_f16.cu"),
    ("selective_scan_backward_f32", "selective_scan/backward_f32.cu"),
    ("selective_scan_forward_bf16", "selective_scan/forward_bf16.cu"),
    ("selective_scan_forward_f16", "selective_scan/forward_f16.cu"),
    ("selective_scan_forward_f32", "selective_scan/forward_f32.cu"),
    ("selective_scan_step", "selective_scan/step.cu"),
    ("weight_average", "weight_average/weight_average.cu"),
];

/// Every module's flags. compute_80: what Ampere and later have; the driver compiles it for the card.
const FLAGS: [&str; 3] = ["-std=c++17", "-O3", "--generate-code=arch=compute_80,code=compute_80"];

/// The flags of a source: `sm90_*.cu` holds instructions of compute capability 9.0 alone.
fn flags(source: &str) -> [&'static str; 3] {
    let [standard, optimise, generate] = FLAGS;
    let generate =
        if source.contains("/sm90_") { "--generate-code=arch=compute_90a,code=compute_90a" } else { generate };
    [standard, optimise, generate]
}

/// The newest PTX that a driver of CUDA 13.0 takes.
const PTX_ISA: &str = "9.0";

/// What is reported about registers and spills is for this card.
const REPORT_ARCH: &str = "sm_90";

/// Packages of a toolkit that compiles, for `--fetch`.
const WHEELS: &[&str] = &[
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
];

/// Compile the GPU kernels to the PTX inside of mom-kernels.
#[derive(Debug, clap::Args)]
pub struct KernelsArgs {
    /// Only compare hashes: fails where a source, a header or a flag has changed since the PTX was written, or the PTX
    /// itself. Needs no compiler.
    #[arg(long, conflicts_with_all = ["assemble", "fetch"])]
    check: bool,
    /// Compile and assemble everything, and write nothing.
    #[arg(long)]
    assemble: bool,
    /// The compiler; else $NVCC, $CUDA_HOME, $CUDA_PATH, PATH, /usr/local/cuda.
    #[arg(long, value_name = "NVCC")]
    nvcc: Option<PathBuf>,
    /// Without a toolkit: install one of CUDA 13.0 from PyPI into this folder (1 GB) and use it.
    #[arg(long, value_name = "DIR", conflicts_with = "nvcc")]
    fetch: Option<PathBuf>,
}

/// Runs the command in the workspace at `root`.
pub fn run(args: &KernelsArgs, root: &Path) -> Result<()> {
    let kernels = root.join("kernels");
    let ptx = root.join("crates/mom-kernels/ptx");
    if args.check {
        return check(&kernels, &ptx);
    }
    let nvcc = match &args.fetch {
        Some(dir) => fetch(dir)?,
        None => find_nvcc(args.nvcc.as_deref())?,
    };
    let compiler = compiler_version(&nvcc)?;
    println!("{} ({compiler})", nvcc.display());
    let scratch = std::env::temp_dir().join(format!("mom-kernels-{}", std::process::id()));
    fs::create_dir_all(&scratch).with_context(|| format!("creating {}", scratch.display()))?;
    let result = compile_all(args, &kernels, &ptx, &nvcc, &compiler, &scratch);
    fs::remove_dir_all(&scratch).with_context(|| format!("removing {}", scratch.display()))?;
    result
}

fn compile_all(
    args: &KernelsArgs,
    kernels: &Path,
    ptx: &Path,
    nvcc: &Path,
    compiler: &str,
    scratch: &Path,
) -> Result<()> {
    let mut manifest = String::from("# Written by `cargo xtask kernels`. Hashes are FNV-1a, 64 bits.\n");
    writeln!(manifest, "compiler = \"{compiler}\"\nflags = \"{}\"\nreport_arch = \"{REPORT_ARCH}\"", FLAGS.join(" "))?;
    let mut texts = Vec::new();
    for (name, source) in MODULES {
        let from = kernels.join(source);
        let to = scratch.join(format!("{name}.ptx"));
        let mut command = Command::new(nvcc);
        run_tool(command.args(flags(source)).arg("--ptx").arg("-o").arg(&to).arg(&from))?;
        let text = fs::read_to_string(&to).with_context(|| format!("reading {}", to.display()))?;
        let text = tidy_ptx(&text);
        let isa = text.lines().find_map(|line| line.strip_prefix(".version ")).unwrap_or("none");
        ensure!(
            isa.trim() == PTX_ISA,
            "{name}: {compiler} wrote PTX ISA {isa}; a driver of CUDA 13.0 takes {PTX_ISA}: use a toolkit of CUDA 13.0"
        );
        let kernels_of = report(nvcc, &from, scratch)?;
        writeln!(
            manifest,
            "\n[{name}]\nsource = \"{source}\"\ninputs = \"{}\"\nptx = \"{}\"",
            input_hash(kernels, source)?,
            hex(fnv1a(text.as_bytes()))
        )?;
        for (kernel, usage) in &kernels_of {
            writeln!(manifest, "{kernel} = \"{usage}\"")?;
            println!("{kernel:56} {usage}");
        }
        texts.push((name, text));
    }
    if args.assemble {
        println!("{} modules compile and assemble", MODULES.len());
        return Ok(());
    }
    fs::create_dir_all(ptx).with_context(|| format!("creating {}", ptx.display()))?;
    for (name, text) in texts {
        let to = ptx.join(format!("{name}.ptx"));
        fs::write(&to, text).with_context(|| format!("writing {}", to.display()))?;
    }
    let to = ptx.join("manifest.toml");
    fs::write(&to, manifest).with_context(|| format!("writing {}", to.display()))
}

/// Compares the hashes of the manifest with what is there.
fn check(kernels: &Path, ptx: &Path) -> Result<()> {
    let path = ptx.join("manifest.toml");
    let manifest = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let mut section = "";
    let mut entries = BTreeMap::new();
    for line in manifest.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name;
        } else if let Some((key, value)) = line.split_once(" = ") {
            entries.insert((section, key), value.trim_matches('"'));
        }
    }
    let mut stale = Vec::new();
    for (name, source) in MODULES {
        let file = ptx.join(format!("{name}.ptx"));
        let text = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
        let inputs = input_hash(kernels, source)?;
        if entries.get(&(*name, "inputs")) != Some(&inputs.as_str()) {
            stale.push(format!("{name}: sources, headers or flags have changed"));
        }
        if entries.get(&(*name, "ptx")) != Some(&hex(fnv1a(&text)).as_str()) {
            stale.push(format!("{name}: {} is not what was compiled", file.display()));
        }
    }
    for entry in fs::read_dir(ptx).with_context(|| format!("listing {}", ptx.display()))? {
        let file = entry?.path();
        let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if file.extension().is_some_and(|extension| extension == "ptx")
            && !MODULES.iter().any(|(name, _)| *name == stem)
        {
            stale.push(format!("{}: no module of that name", file.display()));
        }
    }
    ensure!(stale.is_empty(), "the PTX is out of date; run `cargo xtask kernels`:\n  {}", stale.join("\n  "));
    println!("{} modules are up to date", MODULES.len());
    Ok(())
}

/// Hash of a module's source, of the headers beside it and in `common/`, and of the flags.
fn input_hash(kernels: &Path, source: &str) -> Result<String> {
    let path = kernels.join(source);
    let folder = path.parent().context("a source lies in a folder")?;
    let mut files = vec![path.clone()];
    for folder in [folder, &kernels.join("common")] {
        for entry in fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
            let file = entry?.path();
            if file.extension().is_some_and(|extension| extension == "cuh" || extension == "h") {
                files.push(file);
            }
        }
    }
    files.sort();
    let mut all = flags(source).join(" ").into_bytes();
    for file in files {
        let relative = file.strip_prefix(kernels)?.to_string_lossy().replace('\\', "/");
        all.extend_from_slice(relative.as_bytes());
        let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        all.extend_from_slice(text.replace("\r\n", "\n").as_bytes());
    }
    Ok(hex(fnv1a(&all)))
}

/// Registers, shared memory and spills of each kernel, as the assembler reports them.
fn report(nvcc: &Path, source: &Path, scratch: &Path) -> Result<BTreeMap<String, String>> {
    let suffix =
        if source.file_name().is_some_and(|name| name.to_string_lossy().starts_with("sm90_")) { "a" } else { "" };
    let number = REPORT_ARCH.trim_start_matches("sm_");
    let mut command = Command::new(nvcc);
    command.args(["-std=c++17", "-O3", "-cubin", "-Xptxas", "-v"]);
    command.arg(format!("--generate-code=arch=compute_{number}{suffix},code={REPORT_ARCH}{suffix}"));
    let text = run_tool(command.arg("-o").arg(scratch.join("report.cubin")).arg(source))?;
    let mut usage = BTreeMap::new();
    let (mut kernel, mut spills) = (String::new(), String::new());
    for line in text.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            kernel = rest.split('\'').next().unwrap_or_default().to_owned();
        } else if let Some((_, rest)) = line.split_once("stack frame, ") {
            spills = rest.split(" bytes spill stores").next().unwrap_or_default().to_owned();
        } else if let Some((_, rest)) = line.split_once("Used ") {
            let registers = rest.split(" registers").next().unwrap_or_default();
            let shared = rest.split(", ").find_map(|part| part.strip_suffix(" bytes smem")).unwrap_or("0");
            usage
                .insert(kernel.clone(), format!("{registers} registers, {shared} B static shared, {spills} B spilled"));
        }
    }
    Ok(usage)
}

/// Without the lines that differ from one machine to the next.
fn tidy_ptx(text: &str) -> String {
    let mut kept: String =
        text.lines().filter(|line| !line.starts_with("//")).flat_map(|line| [line.trim_end(), "\n"]).collect();
    while kept.starts_with('\n') {
        kept.remove(0);
    }
    kept
}

fn find_nvcc(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(nvcc) = given {
        ensure!(nvcc.is_file(), "--nvcc {}: no such file", nvcc.display());
        return Ok(nvcc.to_owned());
    }
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let mut candidates: Vec<PathBuf> = variable("NVCC").into_iter().collect();
    candidates.extend(["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(variable).map(|home| home.join("bin/nvcc")));
    candidates.extend(std::env::split_paths(&variable("PATH").unwrap_or_default()).map(|folder| folder.join("nvcc")));
    candidates.push("/usr/local/cuda/bin/nvcc".into());
    match candidates.into_iter().find(|nvcc| nvcc.is_file()) {
        Some(nvcc) => Ok(nvcc),
        None => bail!("no nvcc in $NVCC, $CUDA_HOME, $CUDA_PATH, PATH or /usr/local/cuda; `--fetch DIR` installs one"),
    }
}

fn fetch(dir: &Path) -> Result<PathBuf> {
    let nvcc = dir.join("nvidia/cu13/bin/nvcc");
    if !nvcc.is_file() {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target"]).arg(dir).args(WHEELS);
        run_tool(&mut pip)?;
        // Wheels lose the permission to execute.
        for folder in ["nvidia/cu13/bin", "nvidia/cu13/nvvm/bin"] {
            run_tool(Command::new("chmod").args(["-R", "+x"]).arg(dir.join(folder)))?;
        }
    }
    ensure!(nvcc.is_file(), "{} is not there after the installation", nvcc.display());
    Ok(nvcc)
}

fn compiler_version(nvcc: &Path) -> Result<String> {
    let text = run_tool(Command::new(nvcc).arg("--version"))?;
    let version = text.lines().find_map(|line| line.split_once(", V")).map(|(_, version)| version.trim().to_owned());
    version.map(|version| format!("nvcc {version}")).context("nvcc --version names no version")
}

/// Runs a program and returns its output; its errors are the error.
fn run_tool(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed:\n{text}");
    Ok(text)
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn hex(hash: u64) -> String {
    format!("{hash:016x}")
}
