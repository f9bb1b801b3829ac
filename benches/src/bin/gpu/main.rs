//! Checks the GPU kernels against the CPU's in f64, then times them: `gpu --help`.
//!
//! Each repetition starts with a cold second-level cache; times are of CUDA events around the launches of one call,
//! median and the 10th and 90th of a hundred. Bytes are the fewest that the operation must move, so that GB/s over the
//! measured copy tells how far from the floor a kernel is. Shapes S and L are those of docs/kernels.md.
//!
//! An operation that is outside of its tolerance is not timed, and the program fails at its end.

mod bars;
mod block;
mod conv;
mod grouped;
mod machine;
mod peers;
mod report;
mod rest;
mod rows;
mod scan;
mod timing;
mod vocabulary;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use mom_kernels::cuda::Gpu;

use crate::machine::Machine;
use crate::report::Report;
use crate::timing::Bench;

/// A shape of a model's block.
#[derive(Debug, Clone, Copy)]
struct Shape {
    name: &'static str,
    batch: usize,
    seqlen: usize,
    d_model: usize,
}

impl Shape {
    fn n_rows(&self) -> usize {
        self.batch * self.seqlen
    }

    fn d_inner(&self) -> usize {
        2 * self.d_model
    }

    fn dt_rank(&self) -> usize {
        self.d_model.div_ceil(16)
    }
}

const SMALL: Shape = Shape { name: "S", batch: 8, seqlen: 4096, d_model: 768 };
const LARGE: Shape = Shape { name: "L", batch: 4, seqlen: 4096, d_model: 2048 };
const SHAPES: [Shape; 2] = [SMALL, LARGE];

/// Tokens of every shape of a sweep.
const SWEEP_TOKENS: usize = 65_536;

type Error = Box<dyn std::error::Error>;

/// Checks the GPU kernels against the CPU's in f64, then times them.
#[derive(Debug, Parser)]
#[command(name = "gpu")]
struct Arguments {
    /// Operations whose name contains this; may be given more than once.
    #[arg(long)]
    only: Vec<String>,
    /// Scan and conv at lengths of 256 to 65,536 too, at constant tokens, the scan also of one shorter sequence; the cross
    /// entropy at other vocabularies.
    #[arg(long)]
    sweep: bool,
    /// The same operations by PyTorch, mamba_ssm and causal_conv1d, as far as this machine's python3 has them.
    #[arg(long)]
    peers: bool,
    /// What each kernel of a block takes, too.
    #[arg(long)]
    profile: bool,
    /// Timed repetitions of an operation.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    reps: u32,
    /// Device to run on.
    #[arg(long, default_value_t = 0)]
    device: usize,
    /// Every figure, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// The commit that is measured, for the JSON; git is asked without it.
    #[arg(long)]
    commit: Option<String>,
    /// Fail where a bar is missed, too.
    #[arg(long)]
    strict: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether everything that was asked for is within its tolerance, and with `--strict` within its bar.
fn run(arguments: &Arguments) -> Result<bool, Error> {
    let gpu = Gpu::new(arguments.device)?;
    let mut bench = Bench::new(&gpu, arguments.only.clone(), arguments.reps as usize)?;
    let machine = Machine::measure(&mut bench)?;
    for shape in SHAPES {
        bench.attempt("norm and plan", |bench| rest::run(bench, shape));
        bench.attempt("conv", |bench| conv::run(bench, shape));
        bench.attempt("scan", |bench| scan::run(bench, shape));
        bench.attempt("grouped", |bench| grouped::run(bench, shape));
        bench.attempt("block", |bench| block::run(bench, shape, arguments.profile));
        bench.attempt("vocabulary", |bench| vocabulary::run(bench, shape));
    }
    for seqlen in [256, 1024, 4096, 16_384, 65_536].into_iter().filter(|_| arguments.sweep) {
        let shape = Shape { name: "sweep", batch: SWEEP_TOKENS / seqlen, seqlen, d_model: SMALL.d_model };
        bench.attempt("conv", |bench| conv::sweep(bench, shape));
        bench.attempt("scan", |bench| scan::sweep(bench, shape));
    }
    let alone = [(512, SMALL), (2048, SMALL), (8192, SMALL), (16_384, LARGE)];
    for (seqlen, of) in alone.into_iter().filter(|_| arguments.sweep) {
        let shape = Shape { name: "sweep", batch: 1, seqlen, d_model: of.d_model };
        bench.attempt("scan", |bench| scan::sweep(bench, shape));
    }
    if arguments.sweep {
        bench.attempt("cross entropy", rows::cross_entropies);
    }
    bench.attempt("adamw", rest::optimiser);
    let peers = arguments.peers.then(|| peers::run(arguments));
    let commit = arguments.commit.clone().unwrap_or_else(machine::commit);
    let report = Report::new(machine, commit, bench.finish(), peers);
    report.print();
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_string_pretty(&report)? + "\n")?;
    }
    Ok(report.failures().is_empty() && !(arguments.strict && report.misses_a_bar()))
}
