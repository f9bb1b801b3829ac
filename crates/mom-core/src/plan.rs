//! A batch's plan, shared by the nodes of a tape.

use std::ops::{Deref, Range};
use std::sync::{Arc, OnceLock};

use candle_core::Device;
use mom_kernels::ModalityPlan;
use mom_kernels::attention::AttentionMask;
use mom_kernels::mixer::Context;

#[cfg(feature = "cuda")]
use crate::Error;
use crate::Result;
use crate::error::require;

/// A [`ModalityPlan`] that nodes share, with its copy on the GPU once one has asked for it. Clones are the same plan.
#[derive(Debug, Clone)]
pub struct Plan(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    host: ModalityPlan,
    /// Who has the other chunks of the sequences, where this rank has one of each.
    context: Option<Arc<dyn Context>>,
    /// Made when an attention asks for it, unless spans were given.
    mask: OnceLock<AttentionMask>,
    #[cfg(feature = "cuda")]
    device: OnceLock<crate::cuda::PlanOnDevice>,
    #[cfg(feature = "cuda")]
    mask_on_device: OnceLock<crate::cuda::MaskOnDevice>,
}

impl From<ModalityPlan> for Plan {
    fn from(host: ModalityPlan) -> Self {
        Self::with_parts(host, None, OnceLock::new())
    }
}

impl Deref for Plan {
    type Target = ModalityPlan;

    fn deref(&self) -> &ModalityPlan {
        &self.0.host
    }
}

impl Plan {
    fn with_parts(host: ModalityPlan, context: Option<Arc<dyn Context>>, mask: OnceLock<AttentionMask>) -> Self {
        Self(Arc::new(Shared {
            host,
            context,
            mask,
            #[cfg(feature = "cuda")]
            device: OnceLock::new(),
            #[cfg(feature = "cuda")]
            mask_on_device: OnceLock::new(),
        }))
    }

    /// A plan in whose spans an attention looks in both directions; a mixer does not see them.
    ///
    /// `spans`: flat positions, batch index * seqlen + t, in ascending order, each inside of a document.
    ///
    /// # Errors
    /// As [`AttentionMask::new`].
    pub fn with_spans(host: ModalityPlan, spans: &[Range<usize>]) -> Result<Self> {
        let mask = AttentionMask::new(host.layout(), spans)?;
        Ok(Self::with_parts(host, None, OnceLock::from(mask)))
    }

    /// A plan with the keys that a query of an attention meets, such as those of a window ([`AttentionMask::with_window`]).
    ///
    /// # Errors
    /// A mask of another batch or length.
    pub fn with_mask(host: ModalityPlan, mask: AttentionMask) -> Result<Self> {
        let layout = host.layout();
        let (expected, got) = ([layout.batch(), layout.seqlen()], [mask.batch(), mask.seqlen()]);
        require(expected == got, "mask", &format!("(batch, seqlen) {expected:?}"), format!("{got:?}"))?;
        Ok(Self::with_parts(host, None, OnceLock::from(mask)))
    }

    /// A plan of a chunk of each sequence, whose other chunks the ranks of `context` have. Mixers, and blocks around them, go on over
    /// the borders, forward and backward; whatever else follows time refuses such a plan.
    pub fn of_chunk(host: ModalityPlan, context: Arc<dyn Context>) -> Self {
        Self::with_parts(host, Some(context), OnceLock::new())
    }

    /// Who has the other chunks of the sequences; `None` where this plan is of whole ones.
    pub fn context(&self) -> Option<&dyn Context> {
        self.0.context.as_deref()
    }

    /// Refuses a plan of chunks for what would not see beyond them.
    pub(crate) fn expect_whole(&self, op: &str) -> Result<()> {
        let expected = format!("that of whole sequences for {op}");
        require(self.0.context.is_none(), "plan", &expected, "that of a chunk of each")
    }

    /// Which keys a query of an attention meets.
    ///
    /// # Errors
    /// A plan of chunks.
    pub fn attention_mask(&self) -> Result<&AttentionMask> {
        self.expect_whole("attention")?;
        if let Some(mask) = self.0.mask.get() {
            return Ok(mask);
        }
        let mask = AttentionMask::new(self.0.host.layout(), &[])?;
        Ok(self.0.mask.get_or_init(|| mask))
    }

    /// Sorts the positions of a batch by modality.
    ///
    /// * `modality_ids`: `(batch, seqlen)`, each below `n_modalities`.
    /// * `document_starts`: `(batch, seqlen)`, true where a document begins: conv window and state are reset there. `None`:
    ///   every sequence goes on, or starts from zero, as a whole.
    ///
    /// # Errors
    /// As [`ModalityPlan::new`]: a wrong length, an id out of range (named with its position), more than 2^32 - 1
    /// positions, more than 256 modalities.
    pub fn new(
        batch: usize,
        seqlen: usize,
        n_modalities: usize,
        modality_ids: &[u8],
        document_starts: Option<&[bool]>,
    ) -> Result<Self> {
        Ok(ModalityPlan::new(batch, seqlen, n_modalities, modality_ids, document_starts)?.into())
    }

    /// A plan of one modality: rows are positions.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn dense(batch: usize, seqlen: usize, document_starts: Option<&[bool]>) -> Result<Self> {
        Ok(ModalityPlan::dense(batch, seqlen, document_starts)?.into())
    }

    /// Copies the plan to a GPU now rather than at its first use there; does nothing for the CPU.
    ///
    /// # Errors
    /// A plan that is on another device; out of memory.
    pub fn upload(&self, device: &Device) -> Result<()> {
        #[cfg(feature = "cuda")]
        if device.is_cuda() {
            self.on(&crate::cuda::OnGpu::of(device)?)?;
        }
        let _ = device;
        Ok(())
    }
}

#[cfg(feature = "cuda")]
impl Plan {
    /// As [`Self::upload`], for a graph that is captured once and replayed for other plans ([`Self::copy_from`]): no
    /// launch depends on the number of rows of a modality.
    ///
    /// # Errors
    /// A plan that was uploaded before; out of memory.
    pub fn upload_for_any_counts(&self, device: &Device) -> Result<()> {
        self.expect_whole("a captured graph")?;
        let on = crate::cuda::OnGpu::of(device)?;
        let plan = crate::cuda::PlanOnDevice::upload(&on, &self.0.host)?.for_any_counts();
        self.0
            .device
            .set(plan)
            .map_err(|_| Error::Graph { expected: "one that is on no device yet", got: "a plan that was uploaded" })
    }

    /// Brings another plan of the same shape, which is on the same device, to the memory of this one.
    ///
    /// # Errors
    /// Plans of other shapes or devices, or that are not on one; a plan that something else still holds.
    pub fn copy_from(&mut self, other: &Self) -> Result<()> {
        let Some(shared) = Arc::get_mut(&mut self.0) else {
            return Err(Error::Graph {
                expected: "one that nothing else holds",
                got: "a plan that nodes of a tape hold",
            });
        };
        let (Some(to), Some(from)) = (shared.device.get_mut(), other.0.device.get()) else {
            return Err(Error::Graph { expected: "plans on a device", got: "a plan of the host" });
        };
        to.copy_from(from)?;
        shared.host = other.0.host.clone();
        // An attention's masks have no place in a graph.
        (shared.mask, shared.mask_on_device) = (OnceLock::new(), OnceLock::new());
        Ok(())
    }

    /// The attention's mask in a device's memory, copied there at the first call.
    pub(crate) fn mask_on(&self, device: &crate::cuda::OnGpu) -> Result<&crate::cuda::MaskOnDevice> {
        let mask = match self.0.mask_on_device.get() {
            Some(mask) => mask,
            None => {
                let mask = crate::cuda::MaskOnDevice::upload(device, self.attention_mask()?)?;
                self.0.mask_on_device.get_or_init(|| mask)
            }
        };
        mask.on(device)
    }

    /// The plan in a device's memory, copied there at the first call; a plan belongs to one device.
    pub(crate) fn on(&self, device: &crate::cuda::OnGpu) -> Result<&mom_kernels::cuda::DevicePlan> {
        let plan = match self.0.device.get() {
            Some(plan) => plan,
            None => {
                let plan = crate::cuda::PlanOnDevice::upload(device, &self.0.host)?;
                let plan = plan.with_context(self.0.context.clone());
                self.0.device.get_or_init(|| plan)
            }
        };
        plan.on(device)
    }
}

/// Which way [`crate::to_rows`] and [`crate::to_positions`] go.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Direction {
    ToRows,
    ToPositions,
}

impl Direction {
    /// Row or position that each output row is taken from.
    pub fn sources(self, plan: &ModalityPlan) -> &[u32] {
        match self {
            Self::ToRows => plan.position_of_row(),
            Self::ToPositions => plan.row_of_position(),
        }
    }

    pub fn shape(self, plan: &ModalityPlan, features: usize) -> Vec<usize> {
        match self {
            Self::ToRows => vec![plan.n_rows(), features],
            Self::ToPositions => vec![plan.batch(), plan.seqlen(), features],
        }
    }

    pub fn reversed(self) -> Self {
        match self {
            Self::ToRows => Self::ToPositions,
            Self::ToPositions => Self::ToRows,
        }
    }
}
