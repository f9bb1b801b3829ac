//! Checks the GPU kernels against the CPU's, then times them: `gpu [--only NAME] [--sweep] [--reps N] [--json FILE]`.
//!
//! Each repetition starts with a cold second-level cache; times are of CUDA events around the launches of one call,
//! median and the 10th and 90th of a hundred. Bytes are the fewest that the operation must move, so that GB/s over the
//! measured copy tells how far from the floor a kernel is. Shapes S and L are those of docs/kernels.md.

mod conv;
mod grouped;
mod rest;
mod scan;
mod timing;

use mom_kernels::cuda::Gpu;

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

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let (mut only, mut reps, mut json, mut sweep) = (None, 30, None, false);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--only" => only = Some(value()?),
            "--reps" => reps = value()?.parse()?,
            "--sweep" => sweep = true,
            "--json" => json = Some(value()?),
            _ => {
                return Err(
                    format!("unknown argument {argument}; takes --only NAME, --sweep, --reps N, --json FILE").into()
                );
            }
        }
    }
    let gpu = Gpu::new(0)?;
    let mut bench = timing::Bench::new(&gpu, only, reps)?;
    bench.ceilings()?;
    for shape in [SMALL, LARGE] {
        rest::run(&mut bench, shape)?;
        conv::run(&mut bench, shape)?;
        scan::run(&mut bench, shape)?;
        grouped::run(&mut bench, shape)?;
    }
    for seqlen in [256, 1024, 4096, 16_384, 65_536].into_iter().filter(|_| sweep) {
        scan::sweep(&mut bench, Shape { name: "sweep", batch: 65_536 / seqlen, seqlen, d_model: 768 })?;
    }
    rest::optimiser(&mut bench)?;
    if let Some(json) = json {
        std::fs::write(json, bench.json())?;
    }
    Ok(())
}
