//! `generate`.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;

use super::{device, dtype};

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
}
