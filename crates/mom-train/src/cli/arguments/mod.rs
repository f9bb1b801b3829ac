//! Arguments of every command.
//!
//! `xtask` has these files too, so that it checks and explains them before anything else is built: they name no crate but clap,
//! and their values are those of a command line. What they mean is checked by the program.

mod ablate;
mod generate;
mod speed;

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;

pub use ablate::AblateArguments;
pub use generate::GenerateArguments;
pub use speed::SpeedArguments;

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
    /// is shared out among them. torchrun, srun and mpirun need no such flag: they start the processes themselves. 1: alone, whatever a launcher says.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub gpus: Option<u32>,
}

/// A source to look at.
#[derive(Debug, clap::Args)]
pub struct InspectArguments {
    /// File or folder.
    pub path: PathBuf,
    /// Format, where it should not be guessed: webdataset, loose, metadata, parquet, jsonl, text, mmc4, librispeech,
    /// tuxpaint, megatron, token-bin, dictd.
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
    /// picture shows, which of its words are heard where it is spoken (all of the generator's small world), and which of 16 texts
    /// belongs to a picture or an utterance (of any data).
    #[arg(long, default_value_t = 0)]
    pub downstream: usize,
    /// Where files of published tokenizers lie that have moved since the run: data.tokenizers.image.weights=FILE, likewise
    /// image.config, speech.weights, speech.config, speech.quantizer. May be given several times.
    #[arg(long, value_name = "KEY=FILE")]
    pub set: Vec<String>,
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

fn setting() -> PossibleValuesParser {
    PossibleValuesParser::new(["transfusion", "chameleon", "three-modality"])
}

fn device() -> PossibleValuesParser {
    PossibleValuesParser::new(["cpu", "cuda"])
}

fn dtype() -> PossibleValuesParser {
    PossibleValuesParser::new(["f32", "bf16"])
}
