//! How fast a model decodes on this machine: token by token, the likeliest each time.

use std::hint::black_box;
use std::time::Instant;

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;
use mom_core::Init;
use mom_models::decode::{Decoder, Sampling};
use mom_models::{Model, ModelConfig};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::SpeedOptions;
use crate::error::require;
use crate::{Precision, Result};

/// Tokens of the prompt.
const PROMPT: usize = 16;
/// Tokens before those that are timed.
const WARMUP: usize = 8;
/// Bytes that are copied to see how fast memory is.
const COPIED: usize = 512 << 20;

/// Figures of decoding.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodeSpeed {
    /// Seconds of each token of all sequences, in ascending order: the model, its logits on the host, and the draw.
    pub token_secs: Vec<f64>,
    /// Sequences.
    pub batch: usize,
    /// Bytes of the weights that a token meets: all that must be read for each.
    pub weight_bytes: f64,
    /// Bytes that a copy in the device's memory reads and writes in a second.
    pub copy_bytes_per_sec: f64,
    /// Weights of all modalities together.
    pub parameters: usize,
}

impl DecodeSpeed {
    /// Median of a token, in seconds.
    pub fn median_secs(&self) -> f64 {
        self.token_secs.get(self.token_secs.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// Tokens of all sequences in a second.
    pub fn tokens_per_sec(&self) -> f64 {
        self.batch as f64 / self.median_secs()
    }

    /// The least that a token can take, in seconds: its weights are read once, at the speed of a copy.
    pub fn floor_secs(&self) -> f64 {
        self.weight_bytes / self.copy_bytes_per_sec
    }

    /// The floor over the median.
    pub fn share_of_floor(&self) -> f64 {
        self.floor_secs() / self.median_secs()
    }
}

/// Decodes `steps` tokens of text for `batch` sequences with a new model. What `options` say of training is not looked at.
///
/// # Errors
/// Sizes of zero, a device that cannot be had or has too little memory.
pub fn measure_decoding(options: &SpeedOptions) -> Result<DecodeSpeed> {
    for (field, value) in [("layers", options.scale.n_layers), ("batch", options.batch), ("steps", options.steps)] {
        require(value > 0, field, "at least 1", value)?;
    }
    let SpeedOptions { setting, variant, scale, vocab_size, batch, device, .. } = *options;
    let patch_dim = if setting.has_patches() { 192 } else { 0 };
    let config = ModelConfig { patch_dim, ..ModelConfig::new(setting, variant, scale, vocab_size) };
    let dtype = options.precision.unwrap_or(Precision::of(device)).dtype();
    let device = device.open()?;
    let copy_bytes_per_sec = copy_speed(&device)?;
    let vb = VarBuilder::from_backend(Box::new(Drawn), dtype, device.clone());
    let model = Model::new(&config, &Init::seeded(0), vb)?;
    let mut decoder = Decoder::new(&model, batch)?;
    let prompt: Vec<u32> = (0..batch * PROMPT).map(|i| (i * 7 % vocab_size) as u32).collect();
    let mut logits = decoder.push(&prompt, &vec![0; prompt.len()])?;
    let (greedy, mut rng) = (Sampling { temperature: 0.0, ..Sampling::default() }, ChaCha8Rng::seed_from_u64(0));
    let mut token_secs = Vec::new();
    for i in 0..WARMUP + options.steps {
        let start = Instant::now();
        let rows = mom_core::convert(&logits, DType::F32)?.to_vec2::<f32>()?;
        let tokens = rows.iter().map(|row| greedy.draw(row, |_| true, &mut rng)).collect::<Result<Vec<_>, _>>()?;
        logits = decoder.push(&tokens, &vec![0; batch])?;
        // The next token waits for it anyway.
        device.synchronize()?;
        if i >= WARMUP {
            token_secs.push(start.elapsed().as_secs_f64());
        }
    }
    token_secs.sort_by(f64::total_cmp);
    let embedding = vocab_size * scale.d_model;
    Ok(DecodeSpeed {
        token_secs,
        batch,
        weight_bytes: ((config.active_parameters() - embedding) * dtype.size_in_bytes()) as f64,
        copy_bytes_per_sec,
        parameters: config.total_parameters() + config.patcher_parameters(),
    })
}

/// Weights that are drawn where the model is: billions of them take minutes on the host.
struct Drawn;

impl SimpleBackend for Drawn {
    fn get(
        &self,
        shape: Shape,
        _: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        Tensor::randn(0f32, 0.02, shape, device)?.to_dtype(dtype)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("{name}: a shape is needed")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

/// Bytes that a copy reads and writes in a second: the best of a few.
fn copy_speed(device: &Device) -> Result<f64> {
    const TURNS: usize = 5;
    let n = COPIED / size_of::<f32>();
    let mut best = f64::INFINITY;
    if device.is_cpu() {
        let (from, mut to) = (vec![1.0f32; n], vec![0.0f32; n]);
        for _ in 0..TURNS {
            let start = Instant::now();
            to.par_chunks_mut(1 << 18).zip(from.par_chunks(1 << 18)).for_each(|(to, from)| to.copy_from_slice(from));
            black_box(&to);
            best = best.min(start.elapsed().as_secs_f64());
        }
    } else {
        let from = Tensor::zeros(n, DType::F32, device)?;
        for _ in 0..TURNS {
            // Several at a time: starting one takes as long as a part of it.
            const COPIES: usize = 8;
            device.synchronize()?;
            let start = Instant::now();
            for _ in 0..COPIES {
                from.copy()?;
            }
            device.synchronize()?;
            best = best.min(start.elapsed().as_secs_f64() / COPIES as f64);
        }
    }
    Ok(2.0 * COPIED as f64 / best)
}
