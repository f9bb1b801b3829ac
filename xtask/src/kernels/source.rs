//! What there is to compile: `kernels/<operation>/<part>.cu` is the module `<operation>_<part>`, or `<operation>` where the
//! part is `any`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Every module's flags.
pub const FLAGS: [&str; 2] = ["-std=c++17", "-O3"];

/// A source file, and the module that it becomes.
#[derive(Debug, Clone)]
pub struct Source {
    /// Name of the module.
    pub module: String,
    /// Path of the source.
    pub path: PathBuf,
    /// Whether it holds instructions of compute capability 9.0 alone.
    pub sm90: bool,
    /// Hash of the source, of the headers beside it (or in a folder there) and in `common/`, and of the flags.
    pub hash: String,
}

impl Source {
    /// The architecture that the compiler writes PTX for.
    pub fn virtual_architecture(&self) -> &'static str {
        if self.sm90 { "90a" } else { "80" }
    }

    /// Cards that machine code is made for. That of 8.0 runs on 8.6, 8.7 and 8.9 as it is. On 10.0, whose owners train in bf16,
    /// the driver compiles what is for f16: its machine code would take the room of an operation.
    pub fn architectures(&self) -> &'static [&'static str] {
        match (self.sm90, is_f16(&self.module)) {
            (true, _) => &["90a"],
            (false, true) => &["80", "90", "120"],
            (false, false) => &["80", "90", "100", "120"],
        }
    }
}

/// Whether a module is for f16 alone.
pub fn is_f16(module: &str) -> bool {
    module.ends_with("_f16")
}

/// Every source below `kernels`, by module.
pub fn all(kernels: &Path) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for operation in list(kernels)? {
        let name = operation.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for path in list(&operation)?.into_iter().filter(|path| path.extension().is_some_and(|e| e == "cu")) {
            let part = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let module = if part == "any" { name.clone() } else { format!("{name}_{part}") };
            let mut source = Source { module, path, sm90: part.starts_with("sm90_"), hash: String::new() };
            source.hash = hash_of(kernels, &source)?;
            sources.push(source);
        }
    }
    sources.sort_by(|a, b| a.module.cmp(&b.module));
    Ok(sources)
}

fn hash_of(kernels: &Path, source: &Source) -> Result<String> {
    let mut files = vec![source.path.clone()];
    let beside = source.path.parent().context("a source lies in a folder")?;
    files.extend(headers(beside)?);
    files.extend(headers(&kernels.join("common"))?);
    files.sort();
    let mut all = format!("{:?} {:?}", FLAGS, source.architectures()).into_bytes();
    for file in files {
        let relative = file.strip_prefix(kernels)?.to_string_lossy().replace('\\', "/");
        all.extend_from_slice(relative.as_bytes());
        let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        all.extend_from_slice(text.replace("\r\n", "\n").as_bytes());
    }
    Ok(hash(&all))
}

/// Hash of bytes, as the manifest writes it.
pub fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..32].to_owned()
}

/// Every header in a folder, those of the folders in it too.
fn headers(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in list(folder)? {
        if path.is_dir() {
            found.extend(headers(&path)?);
        } else if path.extension().is_some_and(|e| e == "cuh" || e == "h") {
            found.push(path);
        }
    }
    Ok(found)
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}
