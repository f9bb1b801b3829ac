//! `speed`.

use clap::builder::PossibleValuesParser;

use super::{device, dtype, setting};

/// A model to time.
#[derive(Debug, clap::Args)]
pub struct SpeedArguments {
    /// Time decoding instead: --steps tokens of text of each of --batch sequences, one after the other.
    #[arg(long, conflicts_with_all = ["seqlen", "recompute", "graph", "profile", "gpus", "accumulate", "context", "patcher"])]
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
    /// How pictures come in and out in Transfusion: linear, or unet (of 2 x 2 latents of 8 channels).
    #[arg(long, default_value = "linear", value_parser = PossibleValuesParser::new(["linear", "unet"]))]
    pub patcher: String,
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
    /// Batches of a step, on each GPU.
    #[arg(long, default_value_t = 1)]
    pub accumulate: usize,
    /// So many processes of this machine, one a GPU, each with --batch sequences of its own: positions a second of all of them, and of each.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub gpus: Option<u32>,
    /// So many of the ranks share each sequence, a chunk of it each (context parallel): --batch sequences for so many ranks together.
    #[arg(long, default_value_t = 1)]
    pub context: usize,
    /// Thread blocks that NCCL has on a GPU at once, instead of train.dist.ctas' default.
    #[arg(long)]
    pub ctas: Option<usize>,
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
