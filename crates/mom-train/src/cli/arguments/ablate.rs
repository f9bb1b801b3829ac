//! `ablate`.

use std::path::PathBuf;

use super::device;

/// What is compared; the defaults end within five minutes on two cores.
#[derive(Debug, clap::Args)]
pub struct AblateArguments {
    /// transfusion, chameleon, three-modality, or all that the data can serve; several joined by commas. Default: three-modality
    /// on a CPU without data of one's own, else all.
    #[arg(long)]
    pub setting: Option<String>,
    /// dense, mom, mom-alike, published, transformer, mot (Mixture-of-Transformers), router, random-router, wide-dense, or some
    /// of in, x, dt, out joined by +; several joined by commas. all16 is every choice of projections, baselines are the five from
    /// transformer on. With -unet behind a name (mom-unet) pictures come in and out through a U-Net, in Transfusion.
    /// Default: dense,mom; the null comes by itself.
    #[arg(long)]
    pub variants: Option<String>,
    /// Size of the models: nano, tiny, mini, small, one of the paper's (37M to 1.5B), or such as d320-l6.
    #[arg(long)]
    pub scale: Option<String>,
    /// Optimiser steps of each run.
    #[arg(long)]
    pub steps: Option<u64>,
    /// Seeds, joined by commas. Default: 0,1,2.
    #[arg(long, value_delimiter = ',')]
    pub seeds: Vec<u64>,
    /// Learning rates, joined by commas: every run is made at each, and a variant is compared at its best, the lowest final joint
    /// validation loss over the seeds. Default: a bracket finds the rate of each variant, of whole runs of up to 2000 steps, of short
    /// ones above.
    #[arg(long, value_delimiter = ',')]
    pub learning_rates: Vec<f64>,
    /// Let whole runs of the first seed find the rate of each variant, rather than short ones: dearer, and right where short runs
    /// mislead. That at the chosen rate is compared with the other seeds'.
    #[arg(long, conflicts_with_all = ["learning_rates", "no_bracket"])]
    pub whole_bracket: bool,
    /// Let short runs find the rate of each variant.
    #[arg(long, conflicts_with_all = ["learning_rates", "no_bracket", "whole_bracket"])]
    pub short_bracket: bool,
    /// Make every run at the configured rate, whichever variant it suits.
    #[arg(long, conflicts_with = "learning_rates")]
    pub no_bracket: bool,
    /// How many ends every run has: 3 are a quarter of its steps, a half and all of them, 1 is the last alone; or shares, joined by
    /// commas. Default: 3 from 240 steps on, else 1.
    #[arg(long)]
    pub horizons: Option<String>,
    /// At the end of each whole run ask its model about the truth of so many held-out documents of each kind, at least 16
    /// (see eval --downstream); the report compares the arms in that, too. 0 is none. Runs that were made without are asked now.
    #[arg(long)]
    pub downstream: Option<usize>,
    /// Leave out the null arm: dense from other initial weights, which shows what chance alone makes.
    #[arg(long)]
    pub no_null: bool,
    /// What to train on instead of generated documents: a file or folder of any format, or a TOML file with [[data.sources]].
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Folder of the sweep: runs, report, generated data.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Where it runs.
    #[arg(long, default_value = "cpu", value_parser = device())]
    pub device: String,
    /// Generated documents.
    #[arg(long)]
    pub documents: Option<usize>,
    /// Sequences in a batch.
    #[arg(long)]
    pub batch: Option<usize>,
    /// Positions in a sequence.
    #[arg(long)]
    pub seqlen: Option<usize>,
    /// Minutes after which the sweep stops where it is, data preparation included; the same command goes on.
    #[arg(long)]
    pub minutes: Option<f64>,
    /// Print the runs and how long they will take, and stop.
    #[arg(long)]
    pub dry_run: bool,
    /// Changes to every run's configuration: `optimizer.learning_rate=1e-3`.
    pub overrides: Vec<String>,
}
