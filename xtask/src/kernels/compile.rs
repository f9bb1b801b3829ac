//! A source becomes PTX, machine code for each card, and a fat binary of all of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail, ensure};

use super::manifest::{Kernel, Module};
use super::source::{FLAGS, Source, hash};
use super::toolkit::Toolkit;
use crate::wheels::run;

/// What the PTX says that it needs: the version that a driver of CUDA 12.4 takes. The compiler writes its own version there,
/// whatever the text uses; the assembler of CUDA 12.4 then shows that the text needs no more.
const PTX_ISA: &str = "8.4";

/// A module, compiled.
pub struct Compiled {
    pub name: String,
    pub source: String,
    pub inputs: String,
    pub binary: Vec<u8>,
    pub kernels: BTreeMap<String, Kernel>,
}

impl Compiled {
    /// What the manifest says of it.
    pub fn entry(&self) -> Module {
        Module {
            source: self.source.clone(),
            inputs: self.inputs.clone(),
            binary: hash(&self.binary),
            bytes: self.binary.len(),
            kernels: self.kernels.clone(),
        }
    }
}

/// Compiles sources, as many at once as there are processors.
pub fn all(sources: &[&Source], kernels: &Path, toolkit: &Toolkit, scratch: &Path) -> Result<Vec<Compiled>> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(source) = sources.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let compiled =
                        one(source, kernels, toolkit, scratch).with_context(|| format!("compiling {}", source.module));
                    let failed = compiled.is_err();
                    done.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(compiled);
                    if failed {
                        next.store(sources.len(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    done.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).into_iter().collect()
}

fn one(source: &Source, kernels: &Path, toolkit: &Toolkit, scratch: &Path) -> Result<Compiled> {
    let file = |suffix: &str| scratch.join(format!("{}{suffix}", source.module));
    let ptx = file(".ptx");
    let architecture = source.virtual_architecture();
    let generate = format!("--generate-code=arch=compute_{architecture},code=compute_{architecture}");
    run(Command::new(&toolkit.nvcc).args(FLAGS).arg(generate).arg("--ptx").arg("-o").arg(&ptx).arg(&source.path))?;
    let text = tidy(&fs::read_to_string(&ptx).with_context(|| format!("reading {}", ptx.display()))?)?;
    fs::write(&ptx, &text).with_context(|| format!("writing {}", ptx.display()))?;
    run(Command::new(&toolkit.oldest_ptxas)
        .arg(format!("-arch=sm_{architecture}"))
        .arg("-o")
        .arg(file(".oldest"))
        .arg(&ptx))?;

    let mut of_kernels = declared(&text)?;
    let mut pack = Command::new(&toolkit.fatbinary);
    let binary = file(".fatbin");
    pack.arg("-64").arg("--compress-all").arg("--compress-mode=size").arg(format!("--create={}", binary.display()));
    for architecture in source.architectures() {
        let code = file(&format!(".{architecture}"));
        let report = run(Command::new(&toolkit.ptxas)
            .args(["-v", &format!("-arch=sm_{architecture}"), "-o"])
            .arg(&code)
            .arg(&ptx))?;
        assembled(&report, architecture, &mut of_kernels)?;
        pack.arg(format!("--image3=kind=elf,sm={architecture},file={}", code.display()));
    }
    if !source.sm90 {
        // For cards to come; what is for one compute capability alone has none.
        pack.arg(format!("--image3=kind=ptx,sm={architecture},file={}", ptx.display()));
    }
    run(&mut pack)?;
    Ok(Compiled {
        name: source.module.clone(),
        source: source.path.strip_prefix(kernels)?.to_string_lossy().replace('\\', "/"),
        inputs: source.hash.clone(),
        binary: fs::read(&binary).with_context(|| format!("reading {}", binary.display()))?,
        kernels: of_kernels,
    })
}

/// PTX without the lines that differ from one machine to the next, of the version above.
fn tidy(text: &str) -> Result<String> {
    let mut lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("//")).map(str::trim_end).collect();
    let version = lines.iter_mut().find(|line| line.starts_with(".version ")).context("PTX without a version")?;
    let of_version = format!(".version {PTX_ISA}");
    *version = &of_version;
    let first = lines.iter().position(|line| !line.is_empty()).unwrap_or(0);
    Ok(lines[first..].join("\n") + "\n")
}

/// The kernels that PTX declares, with their threads and their dynamic shared memory: the constant `<kernel>_shared_bytes`.
fn declared(ptx: &str) -> Result<BTreeMap<String, Kernel>> {
    let mut kernels = BTreeMap::new();
    let mut bytes = BTreeMap::new();
    let mut last = String::new();
    for line in ptx.lines() {
        if let Some(rest) = line.split_once(".entry ").map(|(_, rest)| rest) {
            last = rest.trim_end_matches('(').trim().to_owned();
            kernels.insert(last.clone(), Kernel::default());
        } else if let Some(threads) = line.strip_prefix(".maxntid ") {
            let product = threads.split(',').map(|n| n.trim().parse::<u32>()).product::<Result<u32, _>>()?;
            kernels.entry(last.clone()).or_default().threads = product;
        } else if let Some((name, rest)) = line.split_once("_shared_bytes = ") {
            let name = name.rsplit(' ').next().unwrap_or_default();
            bytes.insert(name.to_owned(), rest.trim_end_matches(';').trim().parse::<u32>()?);
        }
    }
    for (name, bytes) in bytes {
        let Some(kernel) = kernels.get_mut(&name) else { bail!("{name}_shared_bytes belongs to no kernel") };
        kernel.dynamic_shared = bytes;
    }
    for (name, kernel) in &kernels {
        ensure!(kernel.threads > 0, "{name} has no __launch_bounds__");
    }
    Ok(kernels)
}

/// Adds registers, shared memory and spills of each kernel, as the assembler reports them.
fn assembled(report: &str, architecture: &str, kernels: &mut BTreeMap<String, Kernel>) -> Result<()> {
    let (mut kernel, mut spilled) = (String::new(), 0);
    for line in report.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            kernel = rest.split('\'').next().unwrap_or_default().to_owned();
        } else if let Some((_, rest)) = line.split_once("stack frame, ") {
            spilled = rest.split(" bytes spill stores").next().unwrap_or_default().trim().parse()?;
        } else if let Some((_, rest)) = line.split_once("Used ") {
            let registers = rest.split(" registers").next().unwrap_or_default().trim().parse()?;
            let shared = rest.split(", ").find_map(|part| part.strip_suffix(" bytes smem")).unwrap_or("0");
            let Some(of) = kernels.get_mut(&kernel) else { bail!("{kernel} is not in the PTX") };
            of.static_shared = of.static_shared.max(shared.parse()?);
            of.registers.insert(format!("sm_{architecture}"), registers);
            if spilled > 0 {
                of.spilled.insert(format!("sm_{architecture}"), spilled);
            }
        } else if line.contains("out of range") || line.contains("serialized") {
            bail!("the assembler complains: {line}");
        }
    }
    Ok(())
}
