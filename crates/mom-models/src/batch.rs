//! What a model reads: plain host arrays.

use std::ops::Range;
use std::sync::Arc;

use mom_core::{Context, Plan};
use mom_kernels::ModalityPlan;
use rayon::prelude::*;

use crate::error::require_batch;
use crate::{Architecture, ModelConfig, Result, Setting, patcher};

/// Marks a position whose next token is not to be predicted.
pub const NO_TARGET: u32 = u32::MAX;

/// `batch` packed sequences of `seqlen` positions; position p = b * seqlen + t.
///
/// Every array has `batch * seqlen` entries.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// Number of sequences.
    pub batch: usize,
    /// Positions of a sequence.
    pub seqlen: usize,
    /// Token at each position; anything at a continuous patch.
    pub tokens: &'a [u32],
    /// The token to predict at each position, or [`NO_TARGET`].
    pub targets: &'a [u32],
    /// Modality of each position.
    pub modality_ids: &'a [u8],
    /// Modality of each target; losses are reported by it.
    pub target_modality_ids: &'a [u8],
    /// True where a document begins.
    pub document_starts: &'a [bool],
    /// Continuous patches; Transfusion alone reads them.
    pub patches: ImagePatches<'a>,
}

/// The continuous patches of a batch, in the order of their positions.
#[derive(Debug, Clone, Copy, Default)]
pub struct ImagePatches<'a> {
    /// `(n_patches, patch_dim)`, in [-1, 1].
    pub values: &'a [f32],
    /// Position of each patch, ascending; exactly the positions of modality 1.
    pub positions: &'a [u32],
    /// Image of each patch, counted from 0 and ascending.
    pub images: &'a [u32],
}

impl ImagePatches<'_> {
    /// Number of patches.
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// Number of images.
    pub fn n_images(&self) -> usize {
        self.images.last().map_or(0, |&last| last as usize + 1)
    }
}

impl Batch<'_> {
    /// A batch of no positions, to fill in with `..`.
    pub const fn empty(batch: usize, seqlen: usize) -> Self {
        Batch {
            batch,
            seqlen,
            tokens: &[],
            targets: &[],
            modality_ids: &[],
            target_modality_ids: &[],
            document_starts: &[],
            patches: ImagePatches { values: &[], positions: &[], images: &[] },
        }
    }

    /// Keys that a query of an attention meets on average: those of its document up to itself, and of its picture.
    ///
    /// # Errors
    /// Document starts of another length; pictures that no attention could see.
    pub fn mean_keys(&self) -> Result<f64> {
        let plan = ModalityPlan::dense(self.batch, self.seqlen, Some(self.document_starts))?;
        let n_pairs = Plan::with_spans(plan, &self.pictures())?.attention_mask()?.n_pairs();
        Ok(n_pairs as f64 / (self.batch * self.seqlen).max(1) as f64)
    }

    /// Checks everything against a model, once, and sorts the positions by modality. `context`: where the batch is a chunk of each
    /// sequence, who has the others; of Mamba's blocks alone.
    pub(crate) fn plan(&self, config: &ModelConfig, context: Option<&Arc<dyn Context>>) -> Result<Plan> {
        let n_modalities = config.setting.n_modalities();
        let (batch, seqlen) = (self.batch, self.seqlen);
        let plan = ModalityPlan::new(batch, seqlen, n_modalities, self.modality_ids, Some(self.document_starts))?;
        let n = plan.n_rows();
        for (field, len) in [
            ("tokens", self.tokens.len()),
            ("targets", self.targets.len()),
            ("target_modality_ids", self.target_modality_ids.len()),
        ] {
            require_batch(len == n, field, None, format!("{n} entries"), format!("{len} entries"))?;
        }
        let vocab_size = config.vocab_size;
        let outside = |token: u32| token as usize >= vocab_size;
        let range = format!("below the vocabulary's {vocab_size}");
        if let Some(p) = self.tokens.iter().position(|&token| outside(token)) {
            require_batch(false, "tokens", Some(p), &range, self.tokens[p])?;
        }
        if let Some(p) = self.targets.iter().position(|&target| target != NO_TARGET && outside(target)) {
            require_batch(false, "targets", Some(p), &range, self.targets[p])?;
        }
        if let Some(p) = self.target_modality_ids.iter().position(|&id| usize::from(id) >= n_modalities) {
            let expected = format!("below {n_modalities}");
            require_batch(false, "target_modality_ids", Some(p), expected, self.target_modality_ids[p])?;
        }
        self.check_patches(config, &plan)?;
        // A mixer is causal everywhere: it sees no spans.
        Ok(match config.variant.architecture() {
            Architecture::Transformer(_) => Plan::with_spans(plan, &self.pictures())?,
            Architecture::Mamba | Architecture::Routed(_) => match context {
                Some(context) => Plan::of_chunk(plan, context.clone()),
                None => Plan::from(plan),
            },
        })
    }

    /// Positions of each continuous picture, which an attention sees in both directions.
    fn pictures(&self) -> Vec<Range<usize>> {
        let ImagePatches { positions, images, .. } = self.patches;
        let of_pictures = images.chunk_by(|a, b| a == b).scan(0, |first, of_picture| {
            let at = *first..*first + of_picture.len();
            *first = at.end;
            Some(&positions[at])
        });
        // Where something lies between its patches, or a sequence ends, each run of them is seen apart.
        let goes_on = |a: &u32, b: &u32| a + 1 == *b && !(*b as usize).is_multiple_of(self.seqlen);
        of_pictures
            .flat_map(|positions| positions.chunk_by(goes_on))
            .map(|run| run[0] as usize..run[run.len() - 1] as usize + 1)
            .collect()
    }

    fn check_patches(&self, config: &ModelConfig, plan: &ModalityPlan) -> Result<()> {
        let ImagePatches { values, positions, images } = self.patches;
        if config.setting != Setting::Transfusion {
            return require_batch(positions.is_empty(), "patches", None, "none in this setting", positions.len());
        }
        let rows = plan.modality_offsets().rows(1);
        let expected = &plan.position_of_row()[rows];
        let same = positions == expected;
        let wanted = format!("the {} positions of modality 1", expected.len());
        require_batch(same, "patches.positions", None, wanted, format!("{} other ones", positions.len()))?;
        let n_values = positions.len() * config.patch_dim;
        require_batch(values.len() == n_values, "patches.values", None, n_values, values.len())?;
        require_batch(images.len() == positions.len(), "patches.images", None, positions.len(), images.len())?;
        let steps_fit = images.first().is_none_or(|&first| first == 0)
            && images.windows(2).all(|pair| pair[1] == pair[0] || pair[1] == pair[0] + 1);
        require_batch(steps_fit, "patches.images", None, "0 first, then the same or the next", "another order")?;
        if config.unet.is_some() {
            let mut of_images = images.chunk_by(|a, b| a == b).enumerate();
            of_images.try_for_each(|(image, patches)| patcher::side(patches.len(), image).map(drop))?;
        }
        // A million values in a step, and a GPU waits: whether first, and then where.
        if values.par_chunks(1 << 14).all(|part| part.iter().fold(true, |all, value| all & value.is_finite())) {
            return Ok(());
        }
        let i = values.iter().position(|value| !value.is_finite()).unwrap_or_default();
        require_batch(false, "patches.values", Some(i), "finite", values[i])
    }
}

/// What a loss is divided by: counts over all batches of one optimiser step, so that accumulated small batches give the
/// gradient of one large batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Normaliser {
    /// Positions with a target.
    pub n_targets: usize,
    /// Continuous patches.
    pub n_patches: usize,
}

impl Normaliser {
    /// The counts of one batch.
    pub fn of(batch: &Batch<'_>) -> Self {
        Self {
            n_targets: batch.targets.iter().filter(|&&target| target != NO_TARGET).count(),
            n_patches: batch.patches.len(),
        }
    }
}

impl std::ops::Add for Normaliser {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { n_targets: self.n_targets + other.n_targets, n_patches: self.n_patches + other.n_patches }
    }
}
