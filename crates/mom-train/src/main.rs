//! `mom-train`: single runs, sweeps, data and sizes from the command line.

mod terminal;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use mom_data::SourceConfig;
use mom_data::inspect::{Inspection, Report};
use mom_data::scenes::{SceneConfig, ShardOptions, write_shards};
use mom_models::decode::Sampling;
use mom_models::{ModelConfig, SCALES, Scale, Setting, Variant, flops};
use mom_train::speed::SpeedOptions;
use mom_train::sweep::{self, SweepOptions, Variants};
use mom_train::{
    DeviceKind, GenerateOptions, Generator, Graph, Precision, Prepared, Recompute, RunConfig, memory, run,
};
use terminal::Terminal;

#[global_allocator]
static HEAP: memory::Counting = memory::Counting;

#[derive(Debug, Parser)]
#[command(name = "mom-train", version, about = "Trains Mixture-of-Mamba models and compares them with dense Mamba")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train one model; a folder with checkpoints goes on where it stopped.
    Train {
        /// TOML file of the run.
        #[arg(long)]
        config: PathBuf,
        /// Folder of the run.
        #[arg(long)]
        out: PathBuf,
        /// Changes to the configuration: `train.steps=200 model.scale=94M`.
        overrides: Vec<String>,
    },
    /// Fit the tokenizers of a run and tokenise its sources, and stop there; stopped, it goes on where it was.
    Data {
        /// TOML file of the run.
        #[arg(long)]
        config: PathBuf,
        /// Folder of the run.
        #[arg(long)]
        out: PathBuf,
        /// Changes to the configuration: `data.shards=DIR`.
        overrides: Vec<String>,
    },
    /// Show what a source holds, as the reader of its format sees it.
    Inspect {
        /// File or folder.
        path: PathBuf,
        /// Format, where it should not be guessed: webdataset, loose, metadata, parquet, jsonl, text, mmc4, librispeech,
        /// tuxpaint, megatron, token-bin.
        #[arg(long)]
        format: Option<mom_data::readers::Format>,
        /// Samples that are read, at most.
        #[arg(long)]
        limit: Option<u64>,
        /// One JSON line a sample, and a last one with the counts.
        #[arg(long)]
        jsonl: bool,
        /// Fields that hold the text, the first that is there, joined by commas.
        #[arg(long, value_delimiter = ',')]
        text: Vec<String>,
        /// Field whose value keeps samples on one side of a split.
        #[arg(long)]
        group: Option<String>,
    },
    /// Compare variants: the paper's tables and curves.
    Ablate(AblateArguments),
    /// Generate an image for a caption, or a caption for an image, with the newest checkpoint of a run.
    Generate {
        /// Folder of the run; one of a sweep's runs/ will do.
        #[arg(long)]
        run: PathBuf,
        /// What the image shows; needs --out.
        #[arg(long, requires = "out", conflicts_with = "image", required_unless_present = "image")]
        caption: Option<String>,
        /// PNG file to write.
        #[arg(long)]
        out: Option<PathBuf>,
        /// PNG or JPEG to describe.
        #[arg(long)]
        image: Option<PathBuf>,
        /// Seed of the draws.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Of text tokens and image codes; 0 takes the likeliest.
        #[arg(long, default_value_t = 1.0)]
        temperature: f64,
        /// Diffusion steps (Transfusion).
        #[arg(long, default_value_t = GenerateOptions::default().n_steps)]
        steps: u32,
        /// Weight of classifier-free guidance (Transfusion); 1 is none.
        #[arg(long, default_value_t = GenerateOptions::default().guidance)]
        guidance: f64,
        /// cpu or cuda, wherever the run was trained.
        #[arg(long, default_value = "cpu")]
        device: DeviceKind,
        /// f32, or bf16 on a GPU, where it is the default.
        #[arg(long)]
        dtype: Option<Precision>,
    },
    /// Write generated documents (image, caption, speech) as WebDataset shards.
    Shards {
        /// Folder to write to.
        #[arg(long)]
        out: PathBuf,
        /// Number of documents.
        #[arg(long, default_value_t = ShardOptions::default().documents)]
        documents: usize,
        /// Documents in a shard.
        #[arg(long, default_value_t = ShardOptions::default().documents_per_shard)]
        per_shard: usize,
        /// Side of the images in pixels.
        #[arg(long, default_value_t = SceneConfig::default().image_size)]
        image_size: usize,
        /// Seed of the documents.
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Print sizes: weights and active FLOPs of every scale.
    Sizes,
    /// Time training steps of a model on this machine, over made-up tokens.
    Speed(SpeedArguments),
}

#[derive(Debug, clap::Args)]
struct SpeedArguments {
    /// transfusion, chameleon or three-modality.
    #[arg(long, default_value = "chameleon")]
    setting: Setting,
    /// dense, mom, published, or some of in, x, dt, out joined by +.
    #[arg(long, default_value = "mom")]
    variant: Variant,
    /// Size of the model.
    #[arg(long, default_value = "tiny")]
    scale: String,
    /// Layers of two blocks each, instead of the size's own.
    #[arg(long)]
    layers: Option<usize>,
    /// Tokens of the vocabulary.
    #[arg(long, default_value_t = 32_000)]
    vocab: usize,
    /// Sequences in a batch.
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Positions in a sequence.
    #[arg(long, default_value_t = 512)]
    seqlen: usize,
    /// Steps that are timed, after three that are not.
    #[arg(long, default_value_t = 10)]
    steps: usize,
    /// cpu or cuda.
    #[arg(long, default_value = "cpu")]
    device: DeviceKind,
    /// f32, or bf16 on a GPU, where it is the default.
    #[arg(long)]
    dtype: Option<Precision>,
    /// Keep the residual stream alone and compute each block again on the way back (on a GPU).
    #[arg(long)]
    recompute: bool,
    /// Whether a step on a GPU is a captured graph: auto (where it can be and a step is small), always or never.
    #[arg(long, default_value = "auto")]
    graph: Graph,
    /// Take two more steps apart, by part and by kernel (on a GPU).
    #[arg(long)]
    profile: bool,
}

/// What is compared; the defaults end within ten minutes on two cores.
#[derive(Debug, clap::Args)]
struct AblateArguments {
    /// transfusion, chameleon, three-modality, or all; several joined by commas.
    #[arg(long, default_value = "all")]
    setting: String,
    /// dense, mom, published, some of in, x, dt, out joined by +, or all16; several joined by commas.
    /// Default: dense,mom and, in the three-modality setting, each projection alone.
    #[arg(long)]
    variants: Option<String>,
    /// Size of the models: nano, tiny, mini, small, or one of the paper's (37M to 1.5B).
    #[arg(long)]
    scale: Option<String>,
    /// Optimiser steps of each run.
    #[arg(long)]
    steps: Option<u64>,
    /// Seeds, joined by commas.
    #[arg(long, value_delimiter = ',', default_value = "0")]
    seeds: Vec<u64>,
    /// What to train on instead of generated documents: a file or folder of any format, or a TOML file with [[data.sources]].
    #[arg(long)]
    data: Option<PathBuf>,
    /// Folder of the sweep: runs, report, generated data.
    #[arg(long)]
    out: Option<PathBuf>,
    /// cpu or cuda.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Generated documents.
    #[arg(long)]
    documents: Option<usize>,
    /// Sequences in a batch.
    #[arg(long)]
    batch: Option<usize>,
    /// Positions in a sequence.
    #[arg(long)]
    seqlen: Option<usize>,
    /// Minutes after which the sweep stops where it is, data preparation included; the same command goes on.
    #[arg(long)]
    minutes: Option<f64>,
    /// Print the runs and how long they will take, and stop.
    #[arg(long)]
    dry_run: bool,
    /// Changes to every run's configuration: `optimizer.learning_rate=1e-3`.
    overrides: Vec<String>,
}

impl AblateArguments {
    fn options(&self) -> Result<SweepOptions> {
        let defaults = SweepOptions::default();
        let settings = match self.setting.as_str() {
            "all" => Setting::ALL.to_vec(),
            names => names.split(',').map(str::parse).collect::<Result<_, _>>()?,
        };
        Ok(SweepOptions {
            settings,
            variants: self.variants.as_deref().map(str::parse).transpose()?.unwrap_or(Variants::Default),
            scale: self.scale.as_deref().map(str::parse).transpose()?.unwrap_or(defaults.scale),
            steps: self.steps.unwrap_or(defaults.steps),
            seeds: self.seeds.clone(),
            data: self.data.clone(),
            out: self.out.clone().unwrap_or(defaults.out),
            device: self.device.parse::<DeviceKind>()?,
            documents: self.documents.unwrap_or(defaults.documents),
            batch: self.batch.unwrap_or(defaults.batch),
            seqlen: self.seqlen.unwrap_or(defaults.seqlen),
            limit: self.minutes.map(limit).transpose()?,
            overrides: self.overrides.clone(),
        })
    }
}

/// Minutes as a duration.
fn limit(minutes: f64) -> Result<std::time::Duration> {
    std::time::Duration::try_from_secs_f64(60.0 * minutes)
        .with_context(|| format!("--minutes must be a time that is not negative, got {minutes}"))
}

fn main() -> ExitCode {
    match dispatch(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One message: the causes in a line, since each names what the one before it could not.
            let mut message = error.to_string();
            for cause in error.chain().skip(1).map(ToString::to_string) {
                if !message.contains(&cause) {
                    message = format!("{message}: {cause}");
                }
            }
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::Train { config, out, overrides } => train(&RunConfig::read(&config, &overrides)?, &out),
        Command::Data { config, out, overrides } => data(&RunConfig::read(&config, &overrides)?, &out),
        Command::Inspect { path, format, limit, jsonl, text, group } => {
            let source = SourceConfig { format, text, group, ..SourceConfig::at(path) };
            inspect(&source, limit.unwrap_or(u64::MAX), jsonl)
        }
        Command::Ablate(arguments) => ablate(&arguments),
        Command::Generate { run, caption, out, image, seed, temperature, steps, guidance, device, dtype } => {
            let sampling = Sampling { temperature, top_k: 0 };
            let options = GenerateOptions { seed, sampling, n_steps: steps, guidance, ..GenerateOptions::default() };
            let generator = Generator::open(&run, device, dtype)?;
            if let (Some(caption), Some(out)) = (caption, out) {
                let png = mom_data::encode::png(&generator.image(&caption, &options)?)?;
                mom_train::replace_file(&out, &png)?;
            }
            if let Some(path) = image {
                let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
                let image = mom_data::media::image::decode_square(&bytes, generator.image_size())
                    .map_err(|skip| anyhow::anyhow!("{}: {skip}", path.display()))?;
                println!("{}", generator.caption(&image, &options)?);
            }
            Ok(())
        }
        Command::Shards { out, documents, per_shard, image_size, seed } => {
            let scene = SceneConfig { image_size, ..SceneConfig::default() };
            let options = ShardOptions { seed, documents, documents_per_shard: per_shard, scene, ..Default::default() };
            let mut terminal = Terminal::new();
            let summary = write_shards(&out, &options, |done, total| {
                sweep::SweepObserver::preparing(&mut terminal, "rendering documents", done as u64, total as u64);
            })?;
            println!("{}: {} shards written, {} were there", out.display(), summary.written, summary.kept);
            Ok(())
        }
        Command::Sizes => {
            sizes();
            Ok(())
        }
        Command::Speed(arguments) => speed(&arguments),
    }
}

/// Opens or makes the data of a run.
fn prepare(config: &RunConfig, out: &std::path::Path, terminal: &mut Terminal) -> Result<Prepared> {
    let prepared = Prepared::new(config, &Prepared::folder_of(config, out), |progress| {
        sweep::SweepObserver::preparing(terminal, progress.what, progress.done, progress.total);
    })?;
    terminal.clear();
    prepared.notes().iter().for_each(|note| sweep::SweepObserver::note(terminal, note));
    Ok(prepared)
}

fn data(config: &RunConfig, out: &std::path::Path) -> Result<()> {
    let mut terminal = Terminal::new();
    let _lock = run::FolderLock::new(out)?;
    let prepared = prepare(config, out, &mut terminal)?;
    let dataset = &prepared.dataset;
    for (split, set) in [("training", &dataset.train), ("held-out", &dataset.held_out)] {
        let by_source = set.by_source().map(|(name, n)| format!("{n} of {name}")).collect::<Vec<_>>();
        println!("{split}: {} documents ({})", set.len(), by_source.join(", "));
    }
    for (name, tally) in &dataset.tallies {
        println!("{name}: {tally}");
    }
    let loader = prepared.train_loader(config)?;
    println!(
        "packed into {} positions: {:.1} % padding, {} documents longer than that",
        config.data.seqlen,
        100.0 * loader.padding(),
        loader.n_cut()
    );
    if let Some(bytes) = dataset.bytes_per_text_token() {
        println!("a text token stands for {bytes:.2} bytes");
    }
    Ok(())
}

fn inspect(source: &SourceConfig, limit: u64, jsonl: bool) -> Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    // Where nobody reads any more, there is nothing left to show.
    let written = |result: std::io::Result<()>| match result {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.context("cannot write to the standard output"),
    };
    let mut failed = None;
    let report: Report = mom_data::inspect::inspect(source, limit, |line: Inspection| {
        let result = if jsonl { line.write_json(&mut out) } else { line.write_row(&mut out) };
        if failed.is_none() {
            failed = written(result).err();
        }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    written(if jsonl { report.write_json(&mut out) } else { report.write_table(&mut out) })?;
    written(out.flush())
}

fn train(config: &RunConfig, out: &std::path::Path) -> Result<()> {
    let mut terminal = Terminal::new();
    // Before the data is read: a folder of another run is refused as it is.
    run::finished(out, config)?;
    run::same_data(out, config)?;
    let prepared = prepare(config, out, &mut terminal)?;
    let result = run::train(config, out, &prepared, &mut terminal)?;
    terminal.clear();
    if let Some(last) = result.curve.last() {
        for (modality, loss) in &last.loss {
            let bytes = prepared.dataset.bytes_per_text_token().filter(|_| modality == "text");
            let bits = bytes.map(|bytes| format!(" ({:.4} bits per byte)", loss / std::f64::consts::LN_2 / bytes));
            println!("{modality}: validation loss {loss:.4}{} after {} steps", bits.unwrap_or_default(), last.step);
        }
    }
    Ok(())
}

fn ablate(arguments: &AblateArguments) -> Result<()> {
    let options = arguments.options()?;
    if arguments.dry_run {
        return dry_run(&options);
    }
    let command = std::env::var("MOM_COMMAND").unwrap_or_else(|_| std::env::args().collect::<Vec<_>>().join(" "));
    let mut terminal = Terminal::new();
    let outcome = sweep::run(&options, &command, &mut terminal)?;
    terminal.clear();
    println!("{:<15} {:<10} {:>5} {:<7} {:>10}  {:>7}", "setting", "variant", "seed", "target", "loss", "gain");
    for record in mom_train::report::records(&outcome.results) {
        let loss = record.final_val_loss.map_or("-".to_owned(), |loss| format!("{loss:.4}"));
        let gain = record.gain_over_dense.map_or("-".to_owned(), |gain| format!("{:+.2} %", 100.0 * gain));
        println!(
            "{:<15} {:<10} {:>5} {:<7} {loss:>10}  {gain:>7}",
            record.setting, record.variant, record.seed, record.modality
        );
    }
    println!("report: {}", options.out.join("report.html").display());
    if outcome.stopped {
        println!("time is up; the same command goes on from here");
    }
    if !outcome.failed.is_empty() {
        let failed: Vec<String> =
            outcome.failed.iter().map(|(planned, error)| format!("{}: {error}", planned.name())).collect();
        bail!("{} of the runs failed:\n{}", failed.len(), failed.join("\n"));
    }
    Ok(())
}

fn dry_run(options: &SweepOptions) -> Result<()> {
    let plan = options.plan()?;
    if let Some(first) = plan.first().filter(|_| options.data.is_some()) {
        for source in first.config.data.sources() {
            let reader = source.open()?;
            let bytes: u64 = reader.units().iter().map(|unit| unit.len_bytes).sum();
            println!("{}: {}, {:.1} MB", source.name(), reader.format(), bytes as f64 / 1e6);
        }
    }
    let secs = sweep::estimate_secs(&plan).context("the estimate")?;
    let mut left = 0.0;
    for (planned, secs) in plan.iter().zip(&secs) {
        let done = run::finished(&planned.folder, &planned.config)?.is_some();
        left += if done { 0.0 } else { *secs };
        let state = if done { "done".to_owned() } else { format!("about {}", terminal::duration(*secs)) };
        println!("{:<45} {:>6} steps  {state}", planned.name(), planned.config.train.steps);
    }
    println!(
        "{} runs, about {} to go on {} threads, data preparation apart; nothing was run",
        plan.len(),
        terminal::duration(left),
        rayon::current_num_threads()
    );
    Ok(())
}

fn speed(arguments: &SpeedArguments) -> Result<()> {
    let named: Scale = arguments.scale.parse()?;
    let scale = Scale { n_layers: arguments.layers.unwrap_or(named.n_layers), ..named };
    let speed = mom_train::speed::measure(&SpeedOptions {
        setting: arguments.setting,
        variant: arguments.variant,
        scale,
        vocab_size: arguments.vocab,
        batch: arguments.batch,
        seqlen: arguments.seqlen,
        warmup: 3,
        steps: arguments.steps,
        device: arguments.device,
        precision: arguments.dtype,
        recompute: if arguments.recompute { Recompute::Block } else { Recompute::None },
        graph: arguments.graph,
        profile: arguments.profile,
    })?;
    let at = |share: f64| 1e3 * speed.step_secs[(share * (speed.step_secs.len() - 1) as f64).round() as usize];
    println!(
        "{} {} {} ({} blocks) vocabulary {} batch {} x {}: {:.1} M weights",
        arguments.setting,
        arguments.variant,
        scale,
        scale.n_blocks(),
        arguments.vocab,
        arguments.batch,
        arguments.seqlen,
        speed.parameters as f64 / 1e6
    );
    let mfu = speed.mfu().map(|mfu| format!(" (MFU {:.1} %)", 100.0 * mfu)).unwrap_or_default();
    println!(
        "step {:.2} ms ({:.2} to {:.2}), {:.0} tokens/s, {:.1} TFLOP/s{mfu}, peak memory {:.2} GiB, loss {:.4}",
        1e3 * speed.median_secs(),
        at(0.1),
        at(0.9),
        speed.tokens_per_sec(),
        speed.flops_per_sec() / 1e12,
        speed.peak_memory_bytes as f64 / f64::from(1 << 30),
        speed.loss
    );
    for (title, rows) in [("one step by part", &speed.profile.parts), ("another by operation", &speed.profile.kernels)]
    {
        let total: f64 = rows.iter().map(|(_, ms)| ms).sum();
        if !rows.is_empty() {
            println!("{title}: {total:.2} ms");
        }
        for (name, ms) in rows {
            println!("{ms:9.3} ms {:5.1} %  {name}", 100.0 * ms / total);
        }
    }
    Ok(())
}

fn sizes() {
    println!(
        "{:<6} {:>7} {:>6}  {:<15} {:>6}  {:>12} {:>12} {:>12}  {:>14}",
        "scale", "d_model", "blocks", "setting", "vocab", "dense", "active", "total", "FLOPs / token"
    );
    for scale in SCALES {
        for setting in Setting::ALL {
            let trained = scale.paper.is_empty() || (scale.paper == "Transfusion") == (setting == Setting::Transfusion);
            if !trained {
                continue;
            }
            let vocab_size = setting.paper_vocab_size();
            let of = |variant| ModelConfig::new(setting, variant, scale, vocab_size);
            let mom = of(Variant::Mom);
            let millions = |n: usize| format!("{:.1} M", n as f64 / 1e6);
            let flops = 3.0 * (flops::backbone_forward(&mom) + flops::head_forward(&mom));
            println!(
                "{:<6} {:>7} {:>6}  {:<15} {:>6}  {:>12} {:>12} {:>12}  {:>14}",
                scale.name,
                scale.d_model,
                scale.n_blocks(),
                setting.name(),
                vocab_size,
                millions(of(Variant::Dense).total_parameters()),
                millions(mom.active_parameters()),
                millions(mom.total_parameters()),
                format!("{:.2} G", flops / 1e9),
            );
        }
    }
    println!(
        "Weights of backbone, embedding and head at the paper's vocabulary; FLOPs forward and backward, with the head."
    );
}
