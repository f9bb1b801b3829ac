//! How fast a model trains on this machine: steps over made-up tokens, timed; and how fast it decodes.

mod decode;

use std::sync::Arc;
use std::time::Instant;

use mom_data::{Batch, Share};
use mom_models::diffusion::{Noise, Timesteps};
use mom_models::{Model, ModelConfig, Normaliser, PatcherKind, Scale, Setting, UnetConfig, Variant, flops};

use crate::config::{DistSection, OptimizerSection};
use crate::data::view;
use crate::dist::World;
use crate::error::require;
use crate::telemetry::{memory, peak};
use crate::train::{Content, Engine, Input, Mode, StepControl, Work};
use crate::{DeviceKind, Graph, Precision, Recompute, Result};

pub use decode::{DecodeSpeed, measure_decoding};

/// Positions of a picture.
const IMAGE: usize = 1024;

/// Positions of the spans of other modalities.
const SPAN: std::ops::Range<usize> = 64..401;

/// What is timed; [`Self::new`] has what stands for the rest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpeedOptions {
    /// Setting of the model: its modalities and losses.
    pub setting: Setting,
    /// Which projections are per modality.
    pub variant: Variant,
    /// Size of the backbone.
    pub scale: Scale,
    /// How patches come in and out, in Transfusion: linear, of 8 x 8 pixels, or through a U-Net, of 2 x 2 latents of 8 channels.
    pub patcher: PatcherKind,
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Sequences in a batch.
    pub batch: usize,
    /// Positions in a sequence.
    pub seqlen: usize,
    /// Batches of a step.
    pub accumulate: usize,
    /// Ranks that share each sequence, a chunk of it each.
    pub context: usize,
    /// Thread blocks that NCCL has on a GPU at once, see [`DistSection::ctas`](crate::config::DistSection).
    pub ctas: usize,
    /// Steps before those that are timed: kernels are loaded and algorithms chosen in the first ones.
    pub warmup: usize,
    /// Steps that are timed.
    pub steps: usize,
    /// Where.
    pub device: DeviceKind,
    /// Element type of projections and activations; the device's own if absent.
    pub precision: Option<Precision>,
    /// What the backward pass computes again.
    pub recompute: Recompute,
    /// Whether a step is a captured graph.
    pub graph: Graph,
    /// Whether two more steps are taken apart.
    pub profile: bool,
}

impl SpeedOptions {
    /// Ten steps of one sequence of 512 positions on the CPU, behind three that are not timed, with 4096 tokens in the vocabulary.
    pub fn new(setting: Setting, variant: Variant, scale: Scale) -> Self {
        Self {
            setting,
            variant,
            scale,
            patcher: PatcherKind::Linear,
            vocab_size: 4096,
            batch: 1,
            seqlen: 512,
            accumulate: 1,
            context: 1,
            ctas: DistSection::CTAS,
            warmup: 3,
            steps: 10,
            device: DeviceKind::Cpu,
            precision: None,
            recompute: Recompute::None,
            graph: Graph::Auto,
            profile: false,
        }
    }
}

/// Figures of a model on a machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Speed {
    /// Seconds of each step, in ascending order.
    pub step_secs: Vec<f64>,
    /// Positions of a step, of all ranks.
    pub tokens: usize,
    /// Ranks that share a step.
    pub ranks: usize,
    /// Floating-point operations of a step on one rank, see [`flops`].
    pub flops: f64,
    /// Operations that the device can do in a second at most, in the element type of the model, where that is known.
    pub peak_flops_per_sec: Option<f64>,
    /// Weights of all modalities together.
    pub parameters: usize,
    /// Highest memory in use: the device's, or the heap's where it is counted ([`crate::memory`]).
    pub peak_memory_bytes: u64,
    /// Loss of the last step.
    pub loss: f64,
    /// Where the time goes, if that was asked for and steps run on a device.
    pub profile: Profile,
}

/// Where the time of steps goes, in milliseconds, the longest first. They are launched one by one, even where the others are
/// a captured graph.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Profile {
    /// One step: blocks, products of the head, optimiser, and everything else, waiting for the host among it. It takes
    /// hardly longer than a step that nobody watches.
    pub parts: Vec<(String, f64)>,
    /// Another step by operation of the kernels. Events around every launch make it longer.
    pub kernels: Vec<(String, f64)>,
    /// What ranks exchanged meanwhile on a stream of their own, in that step.
    pub beside: Vec<(String, f64)>,
}

impl Speed {
    /// Median of the steps, in seconds.
    pub fn median_secs(&self) -> f64 {
        self.step_secs.get(self.step_secs.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// Positions in a second, of all ranks, at the median.
    pub fn tokens_per_sec(&self) -> f64 {
        self.tokens as f64 / self.median_secs()
    }

    /// Floating-point operations in a second on one rank, at the median.
    pub fn flops_per_sec(&self) -> f64 {
        self.flops / self.median_secs()
    }

    /// The share of the device's peak (model FLOPs utilisation), where that is known.
    pub fn mfu(&self) -> Option<f64> {
        self.peak_flops_per_sec.map(|peak| self.flops_per_sec() / peak)
    }
}

/// Trains a new model for a few steps on made-up documents: images of 1024 codes among spans of 64 to 400 of the other
/// modalities, all in one vocabulary; in Transfusion images are patches. With a U-Net pictures are whole, of 2 x 2 latents of 8
/// channels, and there is text where none fits.
///
/// # Errors
/// Sizes of zero; a U-Net outside of Transfusion, in fewer than 1424 positions, or over chunks of sequences; a device that cannot be had
/// or has too little memory.
pub fn measure(options: &SpeedOptions) -> Result<Speed> {
    measure_in(options, &Arc::new(World::alone()))
}

/// As [`measure`], as one of several ranks: each, or as many together as `context` says, has `accumulate` batches of its own in every step,
/// so that a step is as many times larger as there are of these.
///
/// # Errors
/// As there; a rank that failed.
pub fn measure_in(options: &SpeedOptions, world: &Arc<World>) -> Result<Speed> {
    let mut engine = None;
    let outcome = timed(options, world, &mut engine);
    // Before the engine goes, and with it its group of ranks.
    world.ends(outcome)
}

fn timed(options: &SpeedOptions, world: &Arc<World>, place: &mut Option<Engine>) -> Result<Speed> {
    let layers = options.scale.n_layers;
    for (field, value) in [
        ("layers", layers),
        ("batch", options.batch),
        ("seqlen", options.seqlen),
        ("accumulate", options.accumulate),
        ("context", options.context),
        ("steps", options.steps),
    ] {
        require(value > 0, field, "at least 1", value)?;
    }
    require(options.accumulate <= 1 << 20, "accumulate", "at most 2^20", options.accumulate)?;
    DistSection::check_ctas("ctas", options.ctas)?;
    let context = options.context;
    let expected = format!("a multiple of --context, {context}");
    require(options.seqlen.is_multiple_of(context), "seqlen", &expected, options.seqlen)?;
    let defaults = ModelConfig::new(options.setting, options.variant, options.scale, options.vocab_size);
    let unet = unet(options)?;
    let patch_dim = match &unet {
        Some(unet) => 4 * unet.channels,
        None if options.setting.has_patches() => 192,
        None => 0,
    };
    let mean_keys = (options.seqlen / 2).min(defaults.most_mean_keys());
    let config = ModelConfig { patch_dim, mean_keys, unet, ..defaults };
    let precision = options.precision.unwrap_or(Precision::of(options.device));
    let elements = options.batch * options.seqlen * options.scale.d_model;
    let model = (options.setting, options.variant);
    let captures = options.graph.captures(options.device, model, options.accumulate, elements)? && options.context == 1;
    let SpeedOptions { device, recompute, .. } = *options;
    let mode = Mode { dtype: precision.dtype(), device, recompute, captures };
    let dist = DistSection { context, ctas: options.ctas, ..DistSection::default() };
    let engine = place.insert(Engine::in_world(&config, 0, mode, world.clone(), &dist)?);
    let whole = input(options, patch_dim);
    let counts = Normaliser::of(&view(&whole.batch));
    let of_batch = Content { counts, n_tokens: options.batch * options.seqlen };
    let input = whole.chunk(Share { rank: world.rank() % context, of: context });
    let optimizer = OptimizerSection::default();
    // All have batches of the same kinds.
    let n_batches = world.size() / context * options.accumulate;
    let of_all = |_: Content| Ok((0..n_batches).map(|_| of_batch).sum());
    let work = |model: &Model| {
        let rest = (1..options.accumulate).map(|_| input.clone()).collect();
        Work::new(model, &input, rest, mode, of_all)
    };
    let first = work(&engine.model)?;
    let (counts, tokens) = (first.counts, first.n_tokens);
    let mut next = Some(first);
    let mut step = |engine: &mut Engine| {
        let start = Instant::now();
        let of_step = match next.take() {
            Some(of_step) => of_step,
            None => work(&engine.model)?,
        };
        // As the trainer does: the next step's batches go to the device while it works on these.
        let report =
            engine.step(of_step, StepControl { learning_rate: 1e-4, skip_above: None }, &optimizer, |model, i| {
                if i + 1 == options.accumulate {
                    next = Some(work(model)?);
                }
                Ok(())
            })?;
        world.moves("a step");
        Ok::<_, crate::Error>((start.elapsed().as_secs_f64(), report.loss))
    };
    for _ in 0..options.warmup {
        step(engine)?;
    }
    memory::reset(options.device)?;
    let mut step_secs = Vec::new();
    let mut loss = f64::NAN;
    for _ in 0..options.steps {
        let (secs, of_step) = step(engine)?;
        step_secs.push(secs);
        loss = of_step;
    }
    let peak_memory_bytes = memory::peak(options.device)?;
    step_secs.sort_by(f64::total_cmp);
    let profile = if options.profile { profile(engine, &mut step)? } else { Profile::default() };
    Ok(Speed {
        step_secs,
        tokens,
        ranks: world.size(),
        flops: flops::training_step(&config, tokens, counts) / world.size() as f64,
        peak_flops_per_sec: peak::flops_per_sec(options.device, precision)?,
        parameters: engine.parameters.n_elements(),
        peak_memory_bytes,
        loss,
        profile,
    })
}

/// The U-Net around patches, if there is to be one: of the latents that the paper has.
fn unet(options: &SpeedOptions) -> Result<Option<UnetConfig>> {
    if options.patcher == PatcherKind::Linear {
        return Ok(None);
    }
    let expected = format!("linear in the setting {}", options.setting);
    require(options.setting.has_patches(), "patcher", &expected, options.patcher)?;
    require(options.context == 1, "context", "1 for a U-Net, which sees whole pictures", options.context)?;
    let least = IMAGE + SPAN.end - 1;
    require(
        options.seqlen >= least,
        "seqlen",
        &format!("at least {least} for a U-Net, a whole picture behind a text"),
        options.seqlen,
    )?;
    Ok(Some(UnetConfig::of_paper(options.scale.d_model)))
}

/// A batch as [`measure`] describes it.
fn input(options: &SpeedOptions, patch_dim: usize) -> Input {
    let n = options.batch * options.seqlen;
    let n_modalities = options.setting.n_modalities();
    let mut state = 1u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        ((state >> 33) as usize) % below.max(1)
    };
    let mut batch = Batch { batch: options.batch, seqlen: options.seqlen, ..Batch::default() };
    let mut n_images = 0;
    for _ in 0..options.batch {
        let (mut left, mut modality) = (options.seqlen, 0);
        while left > 0 {
            // A U-Net sees whole pictures; where there is no room for one there is text.
            if modality == 1 && options.patcher == PatcherKind::Unet && left < IMAGE {
                modality = 0;
            }
            let span = if modality == 1 { IMAGE } else { SPAN.start + random(SPAN.len()) }.min(left);
            batch.modality_ids.extend(std::iter::repeat_n(modality as u8, span));
            if modality == 1 && patch_dim > 0 {
                batch.patch_images.extend(std::iter::repeat_n(n_images, span));
                n_images += 1;
            }
            left -= span;
            modality = (modality + 1) % n_modalities;
        }
    }
    batch.tokens = (0..n).map(|_| random(options.vocab_size) as u32).collect();
    for p in 0..n {
        let is_last = (p + 1) % options.seqlen == 0;
        let next = if is_last { p } else { p + 1 };
        let patch = patch_dim > 0 && batch.modality_ids[next] == 1;
        batch.targets.push(if is_last || patch { mom_data::NO_TARGET } else { batch.tokens[next] });
        batch.target_modality_ids.push(batch.modality_ids[next]);
        batch.document_starts.push(p % options.seqlen == 0);
        if patch_dim > 0 && batch.modality_ids[p] == 1 {
            batch.patch_positions.push(p as u32);
            batch.patches.extend((0..patch_dim).map(|_| random(2001) as f32 / 1000.0 - 1.0));
        }
    }
    let noise =
        (n_images > 0).then(|| Noise::draw(0, 0, n_images as usize, batch.patches.len(), Timesteps::Independent));
    Input { batch, noise }
}

/// Milliseconds of one more step by part, and of another by group of kernels.
#[cfg(feature = "cuda")]
fn profile(engine: &mut Engine, step: &mut impl FnMut(&mut Engine) -> Result<(f64, f64)>) -> Result<Profile> {
    use mom_core::cuda::OnGpu;
    use mom_kernels::cuda::Detail;

    use crate::optim::BESIDE;

    let Some((_, variable)) = engine.parameters.iter().next() else { return Ok(Profile::default()) };
    if !variable.device().is_cuda() {
        return Ok(Profile::default());
    }
    let on = OnGpu::of(variable.device())?;
    engine.singly = true;
    let mut beside = Vec::new();
    let mut measure = |detail, rest: &str, group: fn(&str) -> &str| {
        on.gpu.start_profile(detail);
        let (secs, _) = step(engine)?;
        let mut groups = std::collections::BTreeMap::<String, f64>::new();
        let mut left = 1e3 * secs;
        for time in on.gpu.end_profile()? {
            if let Some(name) = time.name.strip_prefix(BESIDE) {
                beside.push((name.to_owned(), f64::from(time.ms)));
                continue;
            }
            *groups.entry(group(&time.name).to_owned()).or_default() += f64::from(time.ms);
            left -= f64::from(time.ms);
        }
        groups.insert(rest.to_owned(), left);
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_by(|a, b| b.1.total_cmp(&a.1));
        Ok::<_, crate::Error>(groups)
    };
    let parts = measure(Detail::Regions, "everything else", |name| name)?;
    let kernels = measure(Detail::Launches, "candle's kernels and waiting for the host", operation)?;
    beside.sort_by(|a, b| b.1.total_cmp(&a.1));
    Ok(Profile { parts, kernels, beside })
}

/// The operation of a kernel: its name without its card, element type and variant.
#[cfg(feature = "cuda")]
fn operation(kernel: &str) -> &str {
    let name = kernel.trim_start_matches("sm90_");
    ["_bf16", "_f16", "_f32"].iter().find_map(|dtype| name.split_once(dtype)).map_or(name, |(head, _)| head)
}

#[cfg(not(feature = "cuda"))]
fn profile(_: &mut Engine, _: &mut impl FnMut(&mut Engine) -> Result<(f64, f64)>) -> Result<Profile> {
    Ok(Profile::default())
}
