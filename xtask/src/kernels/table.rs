//! The table of modules and kernels that mom-kernels chooses by, as Rust.

use std::fmt::Write as _;

use anyhow::Result;

use super::manifest::Manifest;
use super::source::is_f16;

/// The file's text.
pub fn text(manifest: &Manifest) -> Result<String> {
    let mut text = String::from(
        "//! Every module and kernel. Written by `cargo xtask kernels`, from what the kernels' PTX declares and their \
         assembler reports.\n\nuse super::module::{Kernel, Module, image};\n\n/// Every module, by \
         name.\n#[rustfmt::skip]\npub static MODULES: &[Module] = &[\n",
    );
    for name in manifest.modules.keys() {
        let f16 = if is_f16(name) { "f16" } else { "any" };
        let sm90 = name.contains("_sm90_");
        writeln!(text, "    Module {{ name: \"{name}\", image: image!({f16}, \"{name}\"), sm90: {sm90} }},")?;
    }
    text.push_str("];\n\n/// Every kernel, by name.\n#[rustfmt::skip]\npub static KERNELS: &[Kernel] = &[\n");
    let mut lines = Vec::new();
    for (at, module) in manifest.modules.values().enumerate() {
        for (name, kernel) in &module.kernels {
            let registers = kernel.registers.values().max().copied().unwrap_or(0);
            let mut line = String::new();
            write!(line, "    Kernel {{ name: \"{name}\", module: {at}, threads: {}", kernel.threads)?;
            write!(line, ", dynamic_shared: {}, static_shared: {}", kernel.dynamic_shared, kernel.static_shared)?;
            writeln!(line, ", registers: {registers} }},")?;
            lines.push((name, line));
        }
    }
    lines.sort();
    lines.iter().for_each(|(_, line)| text.push_str(line));
    text.push_str("];\n");
    Ok(text)
}
