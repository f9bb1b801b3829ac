//! A model of one of the three settings, and its loss.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use mom_core::ops::{add, narrow_rows, scaled, stack_rows};
use mom_core::{Arrivals, Context, Draw, Init, Part, Plan};

use crate::blocks::Passed;
use crate::diffusion::Noise;
use crate::error::{require, require_batch};
use crate::layers::{Ids, RowLosses, embedding, linear_cross_entropy, squared_error};
use crate::{Backbone, Batch, Images, ModelConfig, NO_TARGET, Normaliser, Parameters, Patcher, Result, Setting, Skips};

/// Embedding, backbone and heads.
///
/// Parameters: `backbone.embedding.weight`, `backbone.layers.*`, `backbone.norm_f.weight`, `lm_head.weight` (not tied to
/// the embedding), and in Transfusion `patcher.*`.
#[derive(Debug, Clone)]
pub struct Model {
    config: ModelConfig,
    embedding: Tensor,
    backbone: Backbone,
    lm_head: Tensor,
    patcher: Option<Patcher>,
    context: Option<Arc<dyn Context>>,
}

/// A batch that was checked, in the order of the rows and where the model is: what [`Model::loss_of`] reads.
#[derive(Debug)]
pub struct Inputs {
    pub(crate) plan: Plan,
    /// Tokens of the rows that are no patches.
    tokens: Ids,
    pub(crate) patches: Option<Patches>,
    head: Head,
    /// Modality of the target of each row of the head; [`NO_MODALITY`] where there is none.
    target_modalities: Vec<u8>,
}

#[cfg(feature = "cuda")]
impl Inputs {
    /// Brings other inputs of the same shape, both of them [`Model::inputs_for_graph`], to the memory of these. A graph that
    /// was captured over these then reads the others.
    ///
    /// # Errors
    /// Inputs of another kind or shape; nodes of a tape that still hold these.
    pub fn copy_from(&mut self, other: &Self) -> Result<()> {
        let (Head::All { targets, shares }, Head::All { targets: from, shares: of_from }) =
            (&mut self.head, &other.head)
        else {
            return require(false, "inputs", "those of inputs_for_graph", "others");
        };
        self.plan.copy_from(&other.plan)?;
        self.tokens.copy_from(&other.tokens)?;
        targets.copy_from(from)?;
        shares.slice_set(of_from, 0, 0)?;
        self.target_modalities.clone_from(&other.target_modalities);
        Ok(())
    }
}

/// The rows that the head runs over.
#[derive(Debug)]
enum Head {
    /// Rows with a target, and the targets.
    Some { rows: Ids, targets: Ids },
    /// All of them.
    #[cfg(feature = "cuda")]
    All {
        targets: Ids,
        /// `(n_rows)`: what a row has a share of in the loss; zero without a target.
        shares: Tensor,
    },
}

const NO_MODALITY: u8 = u8::MAX;

/// Weight of what keeps a router in balance (arXiv 2101.03961, section 2.2).
const BALANCE_WEIGHT: f64 = 0.01;

/// The patches of a batch with their noise.
#[derive(Debug)]
pub(crate) struct Patches {
    /// `(n_patches, patch_dim)`, in the model's element type.
    pub noisy: Tensor,
    /// `(n_patches, patch_dim)`, the noise alone, f32 on a device.
    pub epsilon: Tensor,
    images: Images,
    /// `(n_images, ..)`, of each image's timestep.
    time_features: Tensor,
}

/// The loss of a batch.
#[derive(Debug)]
#[non_exhaustive]
pub struct Losses {
    /// `(1)`: what is trained on, all parts weighted and over the normaliser's counts.
    pub total: Tensor,
    n_modalities: usize,
    rows: RowLosses,
    /// As [`Inputs`] have it.
    target_modalities: Vec<u8>,
    /// Sum over patches of the squared error of the noise, `(1)`, and the number of patches.
    diffusion: Option<(Tensor, usize)>,
}

impl Losses {
    /// The same losses off the tape, which frees what it holds.
    pub fn detached(self) -> Self {
        Self { total: self.total.detach(), ..self }
    }

    /// Copies the values to where those of other losses are: out of a graph that is being captured.
    ///
    /// # Errors
    /// Losses of another number of rows, or of patches.
    #[cfg(feature = "cuda")]
    pub fn copy_to(&self, other: &Self) -> Result<()> {
        let (RowLosses::Device(from), RowLosses::Device(to), None, None) =
            (&self.rows, &other.rows, &self.diffusion, &other.diffusion)
        else {
            return require(false, "losses", "those of inputs_for_graph", "others");
        };
        to.slice_set(from, 0, 0)?;
        Ok(other.total.slice_set(&self.total, 0, 0)?)
    }

    /// The same memory, as losses of the inputs that were brought to a graph since.
    #[cfg(feature = "cuda")]
    pub fn of_inputs(&mut self, inputs: &Inputs) {
        self.target_modalities.clone_from(&inputs.target_modalities);
    }

    /// By modality of the target, in the order of [`Setting::modalities`]. On a device this waits for the losses.
    ///
    /// # Errors
    /// What ran on the device before failed.
    pub fn by_modality(&self) -> Result<Vec<ModalityLoss>> {
        let mut by_modality = vec![ModalityLoss::default(); self.n_modalities];
        for (sum, &modality) in self.rows.nll()?.into_iter().zip(&self.target_modalities) {
            if modality != NO_MODALITY {
                by_modality[usize::from(modality)] += ModalityLoss { sum, count: 1 };
            }
        }
        if let Some((error, count)) = &self.diffusion {
            let sum = error.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1::<f64>()?[0];
            by_modality[1] += ModalityLoss { sum, count: *count };
        }
        Ok(by_modality)
    }
}

/// Loss of the targets of one modality: the negative log-likelihood in nats, or in Transfusion's images the mean squared
/// error of the noise. Neither z-loss nor weights are in it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ModalityLoss {
    /// Sum over targets.
    pub sum: f64,
    /// Number of targets.
    pub count: usize,
}

impl ModalityLoss {
    /// Mean over targets; NaN where there is none.
    pub fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }
}

impl std::ops::AddAssign for ModalityLoss {
    fn add_assign(&mut self, other: Self) {
        self.sum += other.sum;
        self.count += other.count;
    }
}

impl Model {
    /// A model with the parameters of `vb`; those that a builder over a `VarMap` does not have yet are drawn from `init`.
    ///
    /// # Errors
    /// An invalid configuration; a parameter that is missing or of another shape.
    pub fn new(config: &ModelConfig, init: &Init, vb: VarBuilder) -> Result<Self> {
        config.validate()?;
        let (d_model, vocab_size) = (config.scale.d_model, config.vocab_size);
        let table =
            |name: &str, vb: &VarBuilder| init.parameter(vb, &[vocab_size, d_model], name, name, Draw::Normal(0.02));
        let backbone = vb.pp("backbone");
        let patcher = match config.setting {
            Setting::Transfusion => Some(Patcher::new(config, init, vb.pp("patcher"))?),
            Setting::Chameleon | Setting::ThreeModality => None,
        };
        Ok(Self {
            config: config.clone(),
            embedding: table("weight", &backbone.pp("embedding"))?,
            backbone: Backbone::new(config, init, backbone)?,
            lm_head: table("weight", &vb.pp("lm_head"))?,
            patcher,
            context: None,
        })
    }

    /// A new model and its variables; initial values are a function of the seed and the variables' names.
    ///
    /// # Errors
    /// An invalid configuration; a device or element type that the block does not run on.
    pub fn seeded(config: &ModelConfig, seed: u64, dtype: DType, device: &Device) -> Result<(Self, Parameters)> {
        if device.is_cpu() {
            require(matches!(dtype, DType::F32 | DType::F64), "dtype", "f32 or f64 on the CPU", dtype.as_str())?;
        } else {
            require(device.is_cuda(), "device", "the CPU or an NVIDIA GPU", format!("{device:?}"))?;
            let has = matches!(dtype, DType::BF16 | DType::F16 | DType::F32);
            require(has, "dtype", "bf16, f16 or f32 on a GPU", dtype.as_str())?;
        }
        let init = Init::seeded(seed);
        let init = if config.variant.starts_alike() { init.with_experts_alike() } else { init };
        Parameters::collect(dtype, device, |vb| Self::new(config, &init, vb))
    }

    /// The same model with or without recompute, see [`mom_core::Block::with_recompute`].
    pub fn with_recompute(self, recompute: bool) -> Self {
        Self { backbone: self.backbone.with_recompute(recompute), ..self }
    }

    /// The same model over chunks of sequences, whose other chunks the ranks of `context` have; over whole ones without it. [`Self::inputs`]
    /// are then a chunk of each sequence, and losses and gradients are those of the chunk: their sums over the chunks are those of the
    /// sequences. All ranks call [`Self::loss_of`] together, and run backward passes through what it gave. Decoding knows of no chunks.
    ///
    /// # Errors
    /// A context for blocks that see beyond a chunk otherwise than by Mamba's states, or for a U-Net, which sees whole pictures.
    pub fn with_context(self, context: Option<Arc<dyn Context>>) -> Result<Self> {
        let fits = context.is_none() || self.config.variant.architecture() == crate::Architecture::Mamba;
        let expected = "one of Mamba's blocks where ranks have chunks of a sequence";
        require(fits, "variant", expected, self.config.variant)?;
        let fits = context.is_none() || self.config.unet.is_none();
        require(fits, "unet", "absent where ranks have chunks of a sequence, and of pictures", "a U-Net")?;
        Ok(Self { context, ..self })
    }

    /// The same model, whose weights somebody brings to its device while a forward pass may have begun: [`Self::loss_of`] asks before it
    /// reads those of a part. Whoever reads them otherwise waits for [`Part::Last`] before.
    pub fn with_arrivals(self, arrivals: Arc<dyn Arrivals>) -> Self {
        Self { backbone: self.backbone.with_arrivals(arrivals), ..self }
    }

    /// The configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Whether all that stands between the parameters and the loss are recorded functions, so that the loss can be taken
    /// down on a [`Tape`](mom_core::autograd::Tape) of them alone: Mamba's blocks, not those of the arms that it is compared
    /// with, nor a U-Net around the patches.
    pub fn is_recorded(&self) -> bool {
        self.config.variant.architecture() == crate::Architecture::Mamba && self.config.unet.is_none()
    }

    /// The blocks.
    pub fn backbone(&self) -> &Backbone {
        &self.backbone
    }

    /// A tensor that is where the model is, in its element type.
    pub(crate) fn like(&self) -> &Tensor {
        &self.embedding
    }

    pub(crate) fn patcher(&self) -> Option<&Patcher> {
        self.patcher.as_ref()
    }

    /// Token embeddings, `(tokens.len(), d_model)`.
    pub(crate) fn embed(&self, tokens: &Ids) -> Result<Tensor> {
        embedding(&self.embedding, tokens)
    }

    pub(crate) fn lm_head(&self) -> &Tensor {
        &self.lm_head
    }

    /// Logits of normed rows, `(n_rows, vocab_size)`.
    pub(crate) fn logits(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.matmul(&self.lm_head.t()?)?)
    }

    /// The loss of a batch, differentiable: [`Self::loss_of`] its [`Self::inputs`].
    ///
    /// # Errors
    /// As these.
    pub fn loss(&self, batch: &Batch<'_>, noise: Option<&Noise>, normaliser: Normaliser) -> Result<Losses> {
        self.loss_of(&self.inputs(batch, noise)?, normaliser)
    }

    /// Checks a batch and brings it to where the model is. On a GPU this waits for nothing, unless more than 64 MiB are on
    /// their way: a training loop has the next batch there while the device works on one.
    ///
    /// * `noise`: of the batch's patches; Transfusion needs it, the other settings take none.
    ///
    /// # Errors
    /// A batch that does not fit the model, named by array and position; noise of another size.
    pub fn inputs(&self, batch: &Batch<'_>, noise: Option<&Noise>) -> Result<Inputs> {
        let plan = batch.plan(&self.config, self.context.as_ref())?;
        let device = self.like().device();
        let patches = self.patches(batch, noise)?;
        let token_rows = if self.patcher.is_some() { plan.modality_offsets().rows(0).len() } else { plan.n_rows() };
        let positions = &plan.position_of_row()[..token_rows];
        let tokens: Vec<u32> = positions.iter().map(|&position| batch.tokens[position as usize]).collect();
        let (mut rows, mut targets, mut target_modalities) = (Vec::new(), Vec::new(), Vec::new());
        for (row, &position) in plan.position_of_row().iter().enumerate() {
            let target = batch.targets[position as usize];
            if target != NO_TARGET {
                rows.push(row as u32);
                targets.push(target);
                target_modalities.push(batch.target_modality_ids[position as usize]);
            }
        }
        plan.upload(device)?;
        let head = Head::Some { rows: Ids::new(rows, device)?, targets: Ids::new(targets, device)? };
        Ok(Inputs { plan, tokens: Ids::new(tokens, device)?, patches, head, target_modalities })
    }

    /// As [`Self::inputs`], for a captured graph, which other inputs are then brought to ([`Inputs::copy_from`]): on a GPU,
    /// and without anything whose size depends on the batch. The head runs over every row, grouped products find their rows
    /// on the device, and `normaliser` counts, not that of [`Self::loss_of`].
    ///
    /// # Errors
    /// As [`Self::inputs`]; a model on the CPU; Transfusion, whose patches are as many as a batch has.
    #[cfg(feature = "cuda")]
    pub fn inputs_for_graph(&self, batch: &Batch<'_>, normaliser: Normaliser) -> Result<Inputs> {
        require(self.context.is_none(), "context", "none for a captured graph", "ranks with chunks of a sequence")?;
        require(self.patcher.is_none(), "setting", "one without continuous patches", self.config.setting)?;
        let has_graph = self.config.variant.architecture() == crate::Architecture::Mamba;
        require(has_graph, "variant", "one of Mamba's blocks", self.config.variant)?;
        let device = self.like().device();
        require(device.is_cuda(), "device", "a GPU", format!("{device:?}"))?;
        let plan = batch.plan(&self.config, None)?;
        let positions = plan.position_of_row().iter().map(|&position| position as usize);
        let tokens: Vec<u32> = positions.clone().map(|position| batch.tokens[position]).collect();
        let targets: Vec<u32> = positions.clone().map(|position| batch.targets[position]).collect();
        let share = 1.0 / normaliser.n_targets.max(1) as f32;
        let shares: Vec<f32> = targets.iter().map(|&target| if target == NO_TARGET { 0.0 } else { share }).collect();
        let modality = |(position, &target): (usize, &u32)| match target {
            NO_TARGET => NO_MODALITY,
            _ => batch.target_modality_ids[position],
        };
        let target_modalities = positions.zip(&targets).map(modality).collect();
        plan.upload_for_any_counts(device)?;
        Ok(Inputs {
            tokens: Ids::new(tokens, device)?,
            patches: None,
            head: Head::All {
                targets: Ids::or_none(targets, device)?,
                shares: mom_core::to_device(&shares, plan.n_rows(), device)?,
            },
            target_modalities,
            plan,
        })
    }

    fn patches(&self, batch: &Batch<'_>, noise: Option<&Noise>) -> Result<Option<Patches>> {
        let patches = &batch.patches;
        let (n_images, n_values) = (patches.n_images(), patches.values.len());
        let Some(patcher) = &self.patcher else { return Ok(None) };
        let Some(noise) = noise else {
            require_batch(patches.is_empty(), "noise", None, "present where there are patches", "absent")?;
            return Ok(None);
        };
        require_batch(noise.timesteps.len() == n_images, "noise.timesteps", None, n_images, noise.timesteps.len())?;
        require_batch(noise.epsilon.len() == n_values, "noise.epsilon", None, n_values, noise.epsilon.len())?;
        if patches.is_empty() {
            return Ok(None);
        }
        let (noisy, epsilon) = Patcher::noised(noise, patches, self.like())?;
        let images = patcher.images(patches.images, self.like().device())?;
        let time_features = Patcher::time_features(&noise.timesteps, self.like())?;
        Ok(Some(Patches { noisy, epsilon, images, time_features }))
    }

    /// The loss, differentiable.
    ///
    /// * `inputs`: of this model or one of the same configuration on the same device.
    /// * `normaliser`: what the sums are divided by; [`Normaliser::of`] the batch, unless gradients are accumulated.
    ///
    /// # Errors
    /// Inputs of another model, out of memory.
    pub fn loss_of(&self, inputs: &Inputs, normaliser: Normaliser) -> Result<Losses> {
        let Inputs { plan, patches, .. } = inputs;
        let (x, skips) = self.residual_stream(inputs)?;
        let Passed { x, balance } = self.backbone.forward(&x, plan)?;
        let z = self.config.z_loss;
        let text = match &inputs.head {
            Head::Some { rows, targets } => {
                // Rows ascend, so that as many as there are is every one in its place.
                let all = rows.len() == plan.n_rows();
                let with_target = if all { x.clone() } else { embedding(&x, rows)? };
                linear_cross_entropy(&with_target, &self.lm_head, targets, z, normaliser.n_targets)?
            }
            #[cfg(feature = "cuda")]
            Head::All { targets, shares } => {
                use crate::cuda::{Shares, linear_cross_entropy};
                targets.expect_below("targets", self.config.vocab_size)?;
                require_batch(targets.len() == plan.n_rows(), "targets", None, plan.n_rows(), targets.len())?;
                linear_cross_entropy(x.contiguous()?, self.lm_head.contiguous()?, targets, z, Shares::Of(shares))?
            }
        };
        let mut total = text.loss;
        let mut diffusion = None;
        if let (Some(patcher), Some(patches)) = (&self.patcher, patches) {
            let images = plan.modality_offsets().rows(1);
            let n_patches = images.len();
            let predicted = patcher.predict(&narrow_rows(&x, images)?, &patches.images, skips.as_ref())?;
            let error = squared_error(&predicted, &patches.epsilon, 1.0 / self.config.patch_dim as f64)?;
            let scale = self.config.diffusion_weight / normaliser.n_patches.max(1) as f64;
            total = add(&total, &scaled(&error, scale)?)?;
            diffusion = Some((error.detach(), n_patches));
        }
        if plan.context().is_some() && inputs.target_modalities.is_empty() && diffusion.is_none() && x.dim(0)? > 0 {
            // Other chunks have targets, whose gradients come by here; and ranks exchange in one order, see `optim::sharded::device` of mom-train.
            let row = narrow_rows(&x, 0..1)?;
            total = add(&total, &squared_error(&row, &Tensor::zeros(row.shape(), DType::F32, row.device())?, 0.0)?)?;
        }
        if let Some(balance) = balance {
            // A batch's share of the step.
            let own = inputs.target_modalities.iter().filter(|&&modality| modality != NO_MODALITY).count();
            let of_batch = own + diffusion.as_ref().map_or(0, |(_, n)| *n);
            let share = of_batch as f64 / (normaliser.n_targets + normaliser.n_patches).max(1) as f64;
            total = (&total + balance.to_dtype(total.dtype())?.affine(BALANCE_WEIGHT * share, 0.0)?)?;
        }
        let n_modalities = self.config.setting.n_modalities();
        let target_modalities = inputs.target_modalities.clone();
        Ok(Losses { total, n_modalities, rows: text.rows, target_modalities, diffusion })
    }

    /// The residual stream before the first block: rows in modality order. Text and codes are embedded tokens; in
    /// Transfusion the rows of modality 1 are the noisy patches, in the order of their positions. Beside it what a U-Net's way
    /// up needs of its way down.
    pub(crate) fn residual_stream(&self, inputs: &Inputs) -> Result<(Tensor, Option<Skips>)> {
        self.backbone.wait_for(Part::First);
        let tokens = self.embed(&inputs.tokens)?;
        let (Some(patcher), Some(patches)) = (&self.patcher, &inputs.patches) else {
            return Ok((tokens, None));
        };
        let (patches, skips) = patcher.embed(&patches.noisy, &patches.images, &patches.time_features)?;
        let x = if inputs.tokens.is_empty() { patches } else { stack_rows(&[&tokens, &patches])? };
        Ok((x, skips))
    }
}
