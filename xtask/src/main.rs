//! Project tasks: `cargo xtask <task>`.

mod ablate;
mod kernels;

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
    /// Compare dense Mamba, Mixture-of-Mamba and its parts: `cargo xtask ablate --help` tells the flags.
    #[command(disable_help_flag = true)]
    Ablate(ablate::AblateArgs),
    /// Train one model: `cargo xtask train --config FILE --out DIR`.
    #[command(disable_help_flag = true)]
    Train(ablate::AblateArgs),
    /// Fit tokenizers and tokenise sources, and stop there: `cargo xtask data --config FILE --out DIR`.
    #[command(disable_help_flag = true)]
    Data(ablate::AblateArgs),
    /// Show what a file or folder of data holds: `cargo xtask inspect PATH`.
    #[command(disable_help_flag = true)]
    Inspect(ablate::AblateArgs),
    /// Generate an image for a caption, or a caption for an image, with the model of a run.
    #[command(disable_help_flag = true)]
    Generate(ablate::AblateArgs),
    /// Write generated documents as WebDataset shards: `cargo xtask shards --out DIR`.
    #[command(disable_help_flag = true)]
    Shards(ablate::AblateArgs),
    /// Print weights and active FLOPs of every scale.
    #[command(disable_help_flag = true)]
    Sizes(ablate::AblateArgs),
    /// Time training steps of a model on this machine.
    #[command(disable_help_flag = true)]
    Speed(ablate::AblateArgs),
    /// Compile the GPU kernels to the PTX inside of mom-kernels.
    Kernels(kernels::KernelsArgs),
}

fn main() -> Result<ExitCode> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?;
    match Task::parse() {
        Task::Ablate(args) => ablate::run(root, "ablate", &args),
        Task::Train(args) => ablate::run(root, "train", &args),
        Task::Data(args) => ablate::run(root, "data", &args),
        Task::Inspect(args) => ablate::run(root, "inspect", &args),
        Task::Generate(args) => ablate::run(root, "generate", &args),
        Task::Shards(args) => ablate::run(root, "shards", &args),
        Task::Sizes(args) => ablate::run(root, "sizes", &args),
        Task::Speed(args) => ablate::run(root, "speed", &args),
        Task::Kernels(args) => kernels::run(&args, root).map(|()| ExitCode::SUCCESS),
    }
}
