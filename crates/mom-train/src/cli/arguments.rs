//! Arguments of every command.
//!
//! `xtask` has this file too, so that it checks and explains them before anything else is built: it names no crate but clap,
//! and its values are those of a command line. What they mean is checked by the program.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;

/// What is to be done.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Compare variants: the paper's tables and curves.
    Ablate(AblateArguments),
    /// Train one model; a folder with checkpoints goes on where it stopped.
    Train(TrainArguments),
    /// Fit the tokenizers of a run and tokenise its sources, and stop there; stopped, it goes on where it was.
    Data(RunArguments),
    /// Show what a source holds, as the reader of its format sees it.
    Inspect(InspectArguments),
    /// Losses of a trained model on held-out documents: its own run's, or all of a source's.
    Eval(EvalArguments),
    /// Write a trained model into a folder of its own: weights under the published names, configuration, tokenizers.
    Export(ExportArguments),
    /// Go on with documents: text, pictures and speech are given, and drawn.
    Generate(GenerateArguments),
    /// Write generated documents (image, caption, speech) as WebDataset shards.
    Shards(ShardsArguments),
    /// Print sizes: weights and active FLOPs of every scale.
    Sizes,
    /// Time training steps of a model on this machine, over made-up tokens, or its decoding.
    Speed(SpeedArguments),
}

/// A run and its folder.
#[derive(Debug, clap::Args)]
pub struct RunArguments {
    /// TOML file of the run.
    #[arg(long)]
    pub config: PathBuf,
    /// Folder of the run.
    #[arg(long)]
    pub out: PathBuf,
    /// Changes to the configuration: `train.steps=200 model.scale=94M data.shards=DIR`.
    pub overrides: Vec<String>,
}

/// A run, and who trains it.
#[derive(Debug, clap::Args)]
pub struct TrainArguments {
    /// The run.
    #[command(flatten)]
    pub run: RunArguments,
    /// Start so many processes on this machine, one a GPU (with train.device=cpu: all on the processor), which train together: each step
    /// is shared out among them. torchrun, srun and mpirun need no such flag: they start the processes themselves.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub gpus: Option<u32>,
}

/// A source to look at.
#[derive(Debug, clap::Args)]
pub struct InspectArguments {
    /// File or folder.
    pub path: PathBuf,
    /// Format, where it should not be guessed: webdataset, loose, metadata, parquet, jsonl, text, mmc4, librispeech,
    /// tuxpaint, megatron, token-bin.
    #[arg(long)]
    pub format: Option<String>,
    /// Samples that are read, at most.
    #[arg(long)]
    pub limit: Option<u64>,
    /// One JSON line a sample, and a last one with the counts.
    #[arg(long)]
    pub jsonl: bool,
    /// Fields that hold the text, the first that is there, joined by commas.
    #[arg(long, value_delimiter = ',')]
    pub text: Vec<String>,
    /// Field whose value keeps samples on one side of a split.
    #[arg(long)]
    pub group: Option<String>,
}

/// A trained model, and what it is evaluated on.
#[derive(Debug, clap::Args)]
pub struct EvalArguments {
    /// Folder of a run (its newest whole checkpoint), of a checkpoint, or of an export.
    #[arg(long)]
    pub model: PathBuf,
    /// What to evaluate on instead of the run's own held-out documents: a file or folder of any format, or a TOML file with
    /// [[data.sources]]; all of it, up to some ten thousand documents.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Folder for the tokens of --data; a temporary one if absent.
    #[arg(long, requires = "data")]
    pub tokens: Option<PathBuf>,
    /// The average of the weights (train.ema) instead of the weights.
    #[arg(long)]
    pub ema: bool,
    /// Batches that are looked at, at most. If absent: of --data all, else as many as in the run's own validations.
    #[arg(long)]
    pub batches: Option<usize>,
    /// Draw captions, pictures and speech for so many documents of each kind, and score them against the documents' own.
    #[arg(long, default_value_t = 0)]
    pub scores: usize,
    /// Ask about the truth of so many documents of each kind, at least 16: what of a caption is right, what of its caption a drawn
    /// picture shows (both of the generator's small world), and which of 16 texts belongs to a picture or an utterance (of any data).
    #[arg(long, default_value_t = 0)]
    pub downstream: usize,
    /// Where it runs, wherever the run was trained.
    #[arg(long, default_value = "cpu", value_parser = device())]
    pub device: String,
    /// Element type: f32, or bf16 on a GPU, where it is the default.
    #[arg(long, value_parser = dtype())]
    pub dtype: Option<String>,
    /// One line of JSON.
    #[arg(long)]
    pub json: bool,
}

/// A trained model, and where it goes.
#[derive(Debug, clap::Args)]
pub struct ExportArguments {
    /// Folder of a run (its newest whole checkpoint) or of a checkpoint.
    #[arg(long)]
    pub model: PathBuf,
    /// Folder to make.
    #[arg(long)]
    pub out: PathBuf,
    /// The average of the weights (train.ema) instead of the weights.
    #[arg(long)]
    pub ema: bool,
}

/// What documents begin with, what is drawn, and by which model.
#[derive(Debug, clap::Args)]
pub struct GenerateArguments {
    /// Folder of a run (one of a sweep's runs/ will do), of a checkpoint, or of an export.
    #[arg(long)]
    pub model: PathBuf,
    /// The average of the weights (train.ema) instead of the weights.
    #[arg(long)]
    pub ema: bool,
    /// What is drawn behind the prompt: text, image or speech, or several joined by commas, one after the other.
    #[arg(
        long,
        value_delimiter = ',',
        required_unless_present = "interactive",
        value_parser = PossibleValuesParser::new(["text", "image", "speech"])
    )]
    pub then: Vec<String>,
    /// Where pictures (PNG) and speech (WAV) go: a file for a single one, a folder to make for several.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// What the document begins with, in order: image:FILE, speech:FILE, or text (text:... where it begins with one of these
    /// words). Nothing is a prompt, too.
    pub prompt: Vec<String>,
    /// File of prompts, one a line: one part as above, or an array of them in JSON.
    #[arg(long, conflicts_with_all = ["prompt", "interactive"])]
    pub prompts: Option<PathBuf>,
    /// Documents for each prompt, with seeds that count up.
    #[arg(long, default_value_t = 1, conflicts_with = "interactive")]
    pub samples: usize,
    /// Documents that go through the model together.
    #[arg(long, default_value_t = 16)]
    pub batch: usize,
    /// Read lines from the standard input: text is appended to the document, /help shows what else there is.
    #[arg(long, conflicts_with = "then")]
    pub interactive: bool,
    /// Seed of the draws.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Of text tokens, image codes and speech units; 0 takes the likeliest.
    #[arg(long, default_value_t = 1.0)]
    pub temperature: f64,
    /// Draw from the k likeliest tokens alone; 0 means all.
    #[arg(long, default_value_t = 0)]
    pub top_k: usize,
    /// Draw from the likeliest tokens that have this probability together; 1 means all.
    #[arg(long, default_value_t = 1.0)]
    pub top_p: f64,
    /// Tokens of a text or units of speech, at most.
    #[arg(long, default_value_t = 256)]
    pub max_tokens: usize,
    /// Diffusion steps (Transfusion).
    #[arg(long, default_value_t = 250)]
    pub steps: u32,
    /// Weight of classifier-free guidance of pictures; 1 is none. Default: 3, and 1 of a model that saw no picture without
    /// something before it.
    #[arg(long)]
    pub guidance: Option<f64>,
    /// Where it runs, wherever the run was trained.
    #[arg(long, default_value = "cpu", value_parser = device())]
    pub device: String,
    /// Element type: f32, or bf16 on a GPU, where it is the default.
    #[arg(long, value_parser = dtype())]
    pub dtype: Option<String>,
}

/// Documents to write.
#[derive(Debug, clap::Args)]
pub struct ShardsArguments {
    /// Folder to write to.
    #[arg(long)]
    pub out: PathBuf,
    /// Number of documents.
    #[arg(long, default_value_t = 6000)]
    pub documents: usize,
    /// Documents in a shard.
    #[arg(long, default_value_t = 1000)]
    pub per_shard: usize,
    /// Side of the images in pixels.
    #[arg(long, default_value_t = 32)]
    pub image_size: usize,
    /// Seed of the documents.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// How much there is to learn: small, or large
    #[arg(long, default_value = "small", value_parser = PossibleValuesParser::new(["small", "large"]))]
    pub world: String,
}

/// A model to time.
#[derive(Debug, clap::Args)]
pub struct SpeedArguments {
    /// Time decoding instead: --steps tokens of text of each of --batch sequences, one after the other.
    #[arg(long, conflicts_with_all = ["seqlen", "recompute", "graph", "profile"])]
    pub decode: bool,
    /// Modalities and losses of the model.
    #[arg(long, default_value = "chameleon", value_parser = setting())]
    pub setting: String,
    /// dense, mom, mom-alike, published, or some of in, x, dt, out joined by +.
    #[arg(long, default_value = "mom")]
    pub variant: String,
    /// Size of the model: a name, or such as d320-l6.
    #[arg(long, default_value = "tiny")]
    pub scale: String,
    /// Layers of two blocks each, instead of the size's own.
    #[arg(long)]
    pub layers: Option<usize>,
    /// Tokens of the vocabulary.
    #[arg(long, default_value_t = 32_000)]
    pub vocab: usize,
    /// Sequences in a batch.
    #[arg(long, default_value_t = 8)]
    pub batch: usize,
    /// Positions in a sequence.
    #[arg(long, default_value_t = 512)]
    pub seqlen: usize,
    /// Steps that are timed, after three that are not.
    #[arg(long, default_value_t = 10)]
    pub steps: usize,
    /// Where it runs.
    #[arg(long, default_value = "cpu", value_parser = device())]
    pub device: String,
    /// Element type: f32, or bf16 on a GPU, where it is the default.
    #[arg(long, value_parser = dtype())]
    pub dtype: Option<String>,
    /// Keep the residual stream alone and compute each block again on the way back (on a GPU).
    #[arg(long)]
    pub recompute: bool,
    /// Whether a step on a GPU is a captured graph; auto: where it can be and a step is small.
    #[arg(long, default_value = "auto", value_parser = PossibleValuesParser::new(["auto", "always", "never"]))]
    pub graph: String,
    /// Take two more steps apart, by part and by kernel (on a GPU).
    #[arg(long)]
    pub profile: bool,
}

/// What is compared; the defaults end within ten minutes on two cores.
#[derive(Debug, clap::Args)]
pub struct AblateArguments {
    /// transfusion, chameleon, three-modality, or all that the data can serve; several joined by commas. Default: three-modality
    /// on a CPU without data of one's own, else all.
    #[arg(long)]
    pub setting: Option<String>,
    /// dense, mom, mom-alike, published, transformer, mot (Mixture-of-Transformers), router, random-router, wide-dense, or some
    /// of in, x, dt, out joined by +; several joined by commas. all16 is every choice of projections, baselines are the five from
    /// transformer on.
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
    /// validation loss over the seeds. Default: a bracket of short runs finds the rate of each variant.
    #[arg(long, value_delimiter = ',')]
    pub learning_rates: Vec<f64>,
    /// Let whole runs of the first seed find the rate of each variant, rather than short ones: dearer, and right where short runs
    /// mislead. That at the chosen rate is compared with the other seeds'.
    #[arg(long, conflicts_with_all = ["learning_rates", "no_bracket"])]
    pub whole_bracket: bool,
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

fn setting() -> PossibleValuesParser {
    PossibleValuesParser::new(["transfusion", "chameleon", "three-modality"])
}

fn device() -> PossibleValuesParser {
    PossibleValuesParser::new(["cpu", "cuda"])
}

fn dtype() -> PossibleValuesParser {
    PossibleValuesParser::new(["f32", "bf16"])
}
