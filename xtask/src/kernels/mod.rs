//! `cargo xtask kernels`: compiles `kernels/` to the fat binaries that mom-kernels embeds.
//!
//! Every source file becomes a module, and every module one fat binary: machine code for the cards below, and compressed
//! PTX behind it for those to come. Beside them lie a table of every kernel's needs, which Rust chooses by, and a manifest
//! with hashes of what went in and came out. `--check` compares hashes and needs no compiler.

mod compile;
mod manifest;
mod source;
mod table;
mod toolkit;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use manifest::Manifest;
use source::Source;
use toolkit::Toolkit;

/// Bytes that may be checked in, and that a build without `f16` may embed.
const LIMITS: [usize; 2] = [8_000_000, 6_000_000];

/// Compile the GPU kernels to the fat binaries inside of mom-kernels.
#[derive(Debug, clap::Args)]
pub struct KernelsArgs {
    /// Only compare hashes: fails where a source, a header or a flag has changed since the fat binaries were written, or one
    /// of them. Needs no compiler.
    #[arg(long, conflicts_with_all = ["assemble", "fetch", "only"])]
    check: bool,
    /// Compile everything, and write nothing.
    #[arg(long)]
    assemble: bool,
    /// Compile these modules alone, and leave the others as they are.
    #[arg(long, value_name = "MODULE", value_delimiter = ',')]
    only: Vec<String>,
    /// Folder of the compilers, which are installed there from PyPI if they are not (0.6 GB).
    #[arg(long, value_name = "DIR", default_value = "target/cuda-compilers")]
    fetch: PathBuf,
}

/// Where things lie in the workspace.
struct Places {
    kernels: PathBuf,
    /// Fat binaries and the manifest.
    binaries: PathBuf,
    /// The table, as Rust.
    table: PathBuf,
}

/// Runs the command in the workspace at `root`.
pub fn run(args: &KernelsArgs, root: &Path) -> Result<()> {
    let places = Places {
        kernels: root.join("kernels"),
        binaries: root.join("crates/mom-kernels/kernels"),
        table: root.join("crates/mom-kernels/src/runtime/table.rs"),
    };
    let sources = source::all(&places.kernels)?;
    if args.check {
        return check(&sources, &places);
    }
    let toolkit = Toolkit::fetch(&root.join(&args.fetch))?;
    println!("{}", toolkit.compiler);
    let chosen = choose(&sources, &args.only)?;
    let old = if args.only.is_empty() { Manifest::default() } else { Manifest::read(&places.binaries)? };
    let scratch = std::env::temp_dir().join(format!("mom-kernels-{}", std::process::id()));
    fs::create_dir_all(&scratch).with_context(|| format!("creating {}", scratch.display()))?;
    let compiled = compile::all(&chosen, &places.kernels, &toolkit, &scratch);
    fs::remove_dir_all(&scratch).with_context(|| format!("removing {}", scratch.display()))?;
    let compiled = compiled?;
    println!("{} modules compile", compiled.len());
    if args.assemble {
        return Ok(());
    }
    fs::create_dir_all(&places.binaries).with_context(|| format!("creating {}", places.binaries.display()))?;
    let mut manifest = old.keep(&sources);
    manifest.compiler = toolkit.compiler.clone();
    for module in compiled {
        let to = places.binaries.join(format!("{}.fatbin", module.name));
        fs::write(&to, &module.binary).with_context(|| format!("writing {}", to.display()))?;
        manifest.modules.insert(module.name.clone(), module.entry());
    }
    manifest.write(&places.binaries)?;
    fs::write(&places.table, table::text(&manifest)?).with_context(|| format!("writing {}", places.table.display()))?;
    let include = places.binaries.join("include");
    fs::create_dir_all(&include).with_context(|| format!("creating {}", include.display()))?;
    for (name, text) in headers(&places.kernels)? {
        let to = include.join(name);
        fs::write(&to, text).with_context(|| format!("writing {}", to.display()))?;
    }
    sizes(&manifest)
}

fn choose<'s>(sources: &'s [Source], only: &[String]) -> Result<Vec<&'s Source>> {
    for name in only {
        ensure!(sources.iter().any(|source| source.module == *name), "--only {name}: no module of that name");
    }
    Ok(sources.iter().filter(|source| only.is_empty() || only.contains(&source.module)).collect())
}

/// What the kernels take, for hosts that are not this crate: each operation's `params.h` by the operation's name.
fn headers(kernels: &Path) -> Result<Vec<(String, String)>> {
    let mut headers = Vec::new();
    for entry in fs::read_dir(kernels).with_context(|| format!("listing {}", kernels.display()))? {
        let folder = entry?;
        let params = folder.path().join("params.h");
        if params.is_file() {
            let text = fs::read_to_string(&params).with_context(|| format!("reading {}", params.display()))?;
            headers.push((format!("{}.h", folder.file_name().to_string_lossy()), text));
        }
    }
    headers.sort();
    Ok(headers)
}

/// Prints what is embedded, and fails where it is too much.
fn sizes(manifest: &Manifest) -> Result<()> {
    let all: usize = manifest.modules.values().map(|module| module.bytes).sum();
    let f16: usize =
        manifest.modules.iter().filter(|(name, _)| source::is_f16(name)).map(|(_, module)| module.bytes).sum();
    println!("{} modules, {all} bytes; {} without f16", manifest.modules.len(), all - f16);
    ensure!(all <= LIMITS[0] && all - f16 <= LIMITS[1], "more than {} or {} bytes", LIMITS[0], LIMITS[1]);
    Ok(())
}

/// Compares the hashes of the manifest with what is there.
fn check(sources: &[Source], places: &Places) -> Result<()> {
    let manifest = Manifest::read(&places.binaries)?;
    let mut stale = Vec::new();
    for source in sources {
        let name = &source.module;
        let Some(module) = manifest.modules.get(name) else {
            stale.push(format!("{name}: not compiled yet"));
            continue;
        };
        if module.inputs != source.hash {
            stale.push(format!("{name}: sources, headers or flags have changed"));
        }
        let file = places.binaries.join(format!("{name}.fatbin"));
        let binary = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
        if module.binary != source::hash(&binary) {
            stale.push(format!("{name}: {} is not what was compiled", file.display()));
        }
    }
    for entry in fs::read_dir(&places.binaries).with_context(|| format!("listing {}", places.binaries.display()))? {
        let file = entry?.path();
        let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if file.extension().is_some_and(|extension| extension == "fatbin")
            && !sources.iter().any(|source| source.module == stem)
        {
            stale.push(format!("{}: no module of that name", file.display()));
        }
    }
    for (name, text) in headers(&places.kernels)? {
        let copy = places.binaries.join("include").join(&name);
        if fs::read_to_string(&copy).ok().as_ref() != Some(&text) {
            stale.push(format!("{}: not the params.h of its operation", copy.display()));
        }
    }
    let text = fs::read_to_string(&places.table).with_context(|| format!("reading {}", places.table.display()))?;
    if text != table::text(&manifest)? {
        stale.push(format!("{}: not what the manifest says", places.table.display()));
    }
    ensure!(stale.is_empty(), "the kernels are out of date; run `cargo xtask kernels`:\n  {}", stale.join("\n  "));
    println!("{} modules are up to date", sources.len());
    sizes(&manifest)
}
