//! The circumstances of a sweep, as its report prints them.

use std::time::{SystemTime, UNIX_EPOCH};

use super::report::ReportHeader;
use super::{Horizons, Rates, SweepOptions};
use crate::Result;
use crate::telemetry::peak;

/// The circumstances of a sweep.
pub(super) fn header(options: &SweepOptions, command: &str, missing: Vec<String>) -> Result<ReportHeader> {
    let seeds: Vec<String> = options.seeds.iter().map(u64::to_string).collect();
    let data = match &options.data {
        Some(path) => path.display().to_string(),
        None => format!("{} generated scenes: image, caption and the caption spoken", options.documents),
    };
    let mut config = vec![
        (
            "scale",
            format!("{} (d_model {}, {} blocks)", options.scale, options.scale.d_model, options.scale.n_blocks()),
        ),
        ("steps", options.steps.to_string()),
        ("batch", format!("{} sequences of {} positions", options.batch, options.seqlen)),
        ("seeds", seeds.join(", ")),
        ("data", data),
        ("overrides", if options.overrides.is_empty() { "none".to_owned() } else { options.overrides.join(" ") }),
    ];
    let mut notes = vec![
        "Every variant of a seed sees the same documents in the same order and the same diffusion noise, and \
             starts from the same values in every parameter that it shares with another variant."
            .to_owned(),
        "Per-modality weights start from draws of their own, as in the published code; the weights of the first \
             modality (text) start as the dense model's."
            .to_owned(),
        "Wall-clock time is that of the training steps, without validation, checkpoints and data preparation."
            .to_owned(),
    ];
    match &options.rates {
        Rates::Own => {}
        Rates::List(rates) => {
            let rates: Vec<String> = rates.iter().map(f64::to_string).collect();
            config.push(("learning rates", rates.join(", ")));
            notes.push(
                "Every variant was trained at every learning rate and is compared at its own best: the lowest final joint \
                 validation loss, averaged over the seeds."
                    .to_owned(),
            );
        }
        Rates::Bracket => {
            config.push(("learning rates", format!("a bracket for each variant, seed {}", options.seeds[0])));
            notes.push(
                "Every variant is compared at its own best learning rate: that with the lowest joint validation loss at the end \
                 of short runs, in a bracket that widens until the best lies inside."
                    .to_owned(),
            );
        }
        Rates::WholeBracket => {
            config.push((
                "learning rates",
                format!("a bracket of whole runs for each variant, seed {}", options.seeds[0]),
            ));
            notes.push(
                "Every variant is compared at its own best learning rate: that with the lowest joint validation loss at the end \
                 of whole runs of the first seed, in a bracket that widens until the best lies inside."
                    .to_owned(),
            );
        }
    }
    let horizons = options.horizon_steps();
    if !horizons.is_empty() {
        let ends: Vec<String> = horizons.iter().chain([&options.steps]).map(u64::to_string).collect();
        config.push(("horizons", format!("ends at steps {}", ends.join(", "))));
        notes.push(format!(
            "The learning rate is constant behind the warm-up and comes down over the last {:.0} % of a run; at each horizon a copy of \
             the run is brought to its end in the same way.",
            100.0 * Horizons::DECAY
        ));
    }
    if options.null {
        notes.push(
            "The null is dense at dense's rate, from initial weights of another seed; documents, their order and noise are \
             those of the seed."
                .to_owned(),
        );
    }
    Ok(ReportHeader {
        title: "Mixture-of-Mamba against dense Mamba".to_owned(),
        command: command.to_owned(),
        commit: commit(),
        machine: machine(),
        device: peak::name(options.device)?.unwrap_or_else(|| options.device.name().to_owned()),
        threads: rayon::current_num_threads(),
        created_unix_secs: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs()),
        notes,
        missing,
        config: config.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
    })
}

/// Commit of the sources, marked where they have changes; `None` where they are no repository (any more).
fn commit() -> Option<String> {
    // The repository that this program was built from, not the one that the user stands in.
    let git = |args: &[&str]| {
        let mut git = std::process::Command::new("git");
        let output = git.arg("-C").arg(env!("CARGO_MANIFEST_DIR")).args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let head = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| !text.is_empty());
    Some(if changed { format!("{head} with local changes") } else { head })
}

/// Processor, vector instructions and system.
fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let cpu = cpu.unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let vectors = mom_kernels::simd::instruction_set();
    format!("{cpu}, {cores} cores, {vectors}, {}", std::env::consts::OS)
}
