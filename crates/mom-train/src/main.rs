//! `mom-train`: single runs, sweeps, data and sizes from the command line.

mod cli;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use mom_train::memory;

#[global_allocator]
static HEAP: memory::Counting = memory::Counting;

#[derive(Debug, Parser)]
#[command(name = "mom-train", version, about = "Trains Mixture-of-Mamba models and compares them with dense Mamba")]
struct Arguments {
    #[command(subcommand)]
    command: cli::arguments::Command,
}

/// Starts the threads that everything runs on: where the system gives none, an error says so before anything is done.
fn threads() -> anyhow::Result<()> {
    rayon::ThreadPoolBuilder::new()
        .build_global()
        .context("cannot start threads: the system allows too few processes; RAYON_NUM_THREADS=1 asks for fewer")
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match threads().and_then(|()| cli::run(&arguments.command)) {
        Ok(ended) => ExitCode::from(ended.status()),
        Err(error) => {
            // One message: the causes in a line, since each names what the one before it could not.
            let mut message = error.to_string();
            for cause in error.chain().skip(1).map(ToString::to_string) {
                if !message.contains(&cause) {
                    message = format!("{message}: {cause}");
                }
            }
            cli::aside(&format!("error: {message}"));
            ExitCode::FAILURE
        }
    }
}
