//! What there is to compile: `kernels/<operation>/<part>.cu` is the module `<operation>_<part>`, or `<operation>` where the
//! part is `any`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

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
    /// Hash of the source, of every header below `kernels/` that it takes in, and of the flags.
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
    let mut all = format!("{:?} {:?}", FLAGS, source.architectures()).into_bytes();
    for (file, text) in with_headers(&source.path)? {
        let relative = file.strip_prefix(kernels)?.to_string_lossy().replace('\\', "/");
        all.extend_from_slice(relative.as_bytes());
        all.extend_from_slice(text.as_bytes());
    }
    Ok(hash(&all))
}

/// A source and what it takes in by `#include "..."`, directly or not, by path.
fn with_headers(source: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let mut found = BTreeMap::new();
    let mut open = vec![source.to_owned()];
    while let Some(path) = open.pop() {
        if found.contains_key(&path) {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let text = text.replace("\r\n", "\n");
        for line in text.lines() {
            let Some(rest) = line.trim_start().strip_prefix('#').map(str::trim_start) else { continue };
            let Some(header) = rest.strip_prefix("include").map(str::trim_start) else { continue };
            match (header.strip_prefix('"').and_then(|quoted| quoted.split('"').next()), header.starts_with('<')) {
                (Some(header), _) => open.push(beside(&path, header)),
                (None, true) => {}
                (None, false) => bail!("{}: {line}: neither \"...\" nor <...>", path.display()),
            }
        }
        found.insert(path, text);
    }
    Ok(found)
}

/// The path of a header as a file names it, without steps up.
fn beside(file: &Path, header: &str) -> PathBuf {
    let mut path = file.parent().unwrap_or(Path::new("")).to_owned();
    for part in header.split('/') {
        if part == ".." {
            path.pop();
        } else {
            path.push(part);
        }
    }
    path
}

/// Hash of bytes, as the manifest writes it.
pub fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..32].to_owned()
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_hashed_with_the_headers_that_it_takes_in_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("scan/any.cu", "#  include\"sm90/tile.cuh\"\n#include <cuda/std/bit>\n");
        write(
            "scan/sm90/tile.cuh",
            "#pragma once\n#include \"../../common/math.cuh\"  // exp2\n#include \"tile.cuh\"\n",
        );
        write("common/math.cuh", "1");
        write("common/reduce.cuh", "1");
        let of = || all(folder.path()).unwrap().remove(0).hash;
        let first = of();
        write("common/reduce.cuh", "2");
        assert_eq!(of(), first);
        write("common/math.cuh", "2");
        assert_ne!(of(), first);
        write("common/math.cuh", "#include MATH");
        assert!(format!("{:#}", all(folder.path()).unwrap_err()).contains("#include MATH"));
        fs::remove_file(folder.path().join("common/math.cuh")).unwrap();
        let error = format!("{:#}", all(folder.path()).unwrap_err());
        assert!(error.contains("math.cuh"), "{error}");
    }
}
