//! The manifest: for each module hashes of what it was made from and of what it is, and what its kernels need.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::source::Source;

const FILE: &str = "manifest.toml";

/// Everything that was compiled.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Manifest {
    /// Versions of the compilers.
    pub compiler: String,
    /// By name.
    pub modules: BTreeMap<String, Module>,
}

/// A fat binary.
#[derive(Debug, Serialize, Deserialize)]
pub struct Module {
    /// Below `kernels/`.
    pub source: String,
    /// Hash of sources, headers and flags.
    pub inputs: String,
    /// Hash of the fat binary.
    pub binary: String,
    /// Its length.
    pub bytes: usize,
    /// Its kernels by name.
    pub kernels: BTreeMap<String, Kernel>,
}

/// What a kernel needs.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of shared memory that a launch gives it.
    pub dynamic_shared: u32,
    /// Bytes of shared memory that it has beside them; on the card that takes the most.
    pub static_shared: u32,
    /// Registers of a thread by card.
    pub registers: BTreeMap<String, u32>,
    /// Bytes that a thread spills by card, where any.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub spilled: BTreeMap<String, u32>,
}

impl Manifest {
    /// Reads the one in `folder`.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("parsing {}", path.display()))
    }

    /// Writes it to `folder`.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(FILE);
        let text = format!("# Written by `cargo xtask kernels`.\n{}", toml::to_string(self)?);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// Without modules that have no source any more.
    pub fn keep(mut self, sources: &[Source]) -> Self {
        self.modules.retain(|name, _| sources.iter().any(|source| source.module == *name));
        self
    }
}
