//! Project tasks: `cargo xtask <task>`.

mod docs;
mod kernels;
mod program;
mod sanitize;
mod toolkit;
mod wheels;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

/// Tasks of the project.
///
/// The main one is `cargo xtask ablate`: it trains dense Mamba and Mixture-of-Mamba side by side in the paper's three
/// settings and writes the comparison to runs/ablation/report.html. It needs nothing but Rust, and ten minutes on two cores.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", arg_required_else_help = true, verbatim_doc_comment)]
enum Task {
    /// What mom-train does.
    #[command(flatten)]
    Program(Box<program::arguments::Command>),
    /// Compile the GPU kernels to the fat binaries inside of mom-kernels.
    Kernels(kernels::KernelsArgs),
    /// Run compute-sanitizer over the GPU kernels.
    Sanitize(sanitize::SanitizeArgs),
    /// Check the pages: dead links, pages that the book leaves out, commands that no program takes; run their commands.
    Docs(docs::DocsArgs),
}

fn main() -> Result<ExitCode> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?;
    match Task::parse() {
        Task::Program(command) => program::run(root, &command),
        Task::Kernels(args) => kernels::run(&args, root).map(|()| ExitCode::SUCCESS),
        Task::Docs(args) => docs::run::<Task>(&args, root).map(|()| ExitCode::SUCCESS),
        Task::Sanitize(args) => sanitize::run_all(&args, root).map(|()| ExitCode::SUCCESS),
    }
}
