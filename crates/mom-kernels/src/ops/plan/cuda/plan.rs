//! The plan itself: sorted on the device, or copied from the host.

use std::sync::Arc;

use cudarc::driver::CudaSlice;

use super::abi::RawPlan;
use super::views::{DeviceLayout, DeviceOffsets};
use crate::error::{Error, expect_limit, expect_size};
use crate::ops::plan::context::Context;
use crate::ops::plan::cpu::ModalityPlan;
use crate::ops::plan::params::{MAX_MODALITIES, OP, positions};
use crate::runtime::{CudaError, DeviceRef, Gpu, Grid, Result, blocks};

/// Positions that one block of the sort takes.
const SORT_BLOCK: usize = 1024;

/// A [`ModalityPlan`] in device memory.
#[derive(Debug)]
pub struct DevicePlan {
    batch: usize,
    seqlen: usize,
    n_modalities: usize,
    row_of_position: CudaSlice<u32>,
    position_of_row: CudaSlice<u32>,
    modality_offsets: CudaSlice<u32>,
    /// The same on the host, where it knows them.
    host_offsets: Option<Vec<usize>>,
    document_starts: Option<CudaSlice<u8>>,
    /// `[n_modalities][n_blocks]`, for the sort.
    counts: CudaSlice<u32>,
    /// First position whose id named no modality; 2^32 - 1 without one.
    first_bad: CudaSlice<u32>,
    /// Who has the other chunks of the sequences, where these are chunks.
    context: Option<Arc<dyn Context>>,
}

impl DevicePlan {
    /// Sorts the positions of a batch by modality, on the device. Allocates what the plan needs; [`Self::sort_again`]
    /// does not.
    ///
    /// * `modality_ids`: `(batch, seqlen)`. An id that names no modality counts as the last one: see [`Self::check`].
    /// * `document_starts`: `(batch, seqlen)`, not zero where a document begins.
    ///
    /// # Errors
    /// A wrong length, more than 2^32 - 1 positions, more than 256 modalities, a refused launch.
    pub fn sort(
        gpu: &Gpu,
        batch: usize,
        seqlen: usize,
        n_modalities: usize,
        modality_ids: &DeviceRef<'_, u8>,
        document_starts: Option<CudaSlice<u8>>,
    ) -> Result<Self> {
        let n = positions(OP, batch, seqlen)?;
        expect_limit(OP, "n_modalities", MAX_MODALITIES, n_modalities)?;
        if let Some(starts) = &document_starts {
            expect_size(OP, "document_starts", "elements", n, starts.len())?;
        }
        let mut plan = Self {
            batch,
            seqlen,
            n_modalities,
            row_of_position: gpu.zeros(n)?,
            position_of_row: gpu.zeros(n)?,
            modality_offsets: gpu.zeros(n_modalities + 1)?,
            host_offsets: None,
            document_starts,
            counts: gpu.zeros(n_modalities * n.div_ceil(SORT_BLOCK))?,
            first_bad: gpu.zeros(1)?,
            context: None,
        };
        plan.sort_again(gpu, modality_ids)?;
        Ok(plan)
    }

    /// Sorts another batch of the same shape into this plan: no allocation, no synchronisation. The host then no longer
    /// knows the offsets.
    ///
    /// # Errors
    /// A wrong length, a refused launch.
    pub fn sort_again(&mut self, gpu: &Gpu, modality_ids: &DeviceRef<'_, u8>) -> Result<()> {
        let n = self.n_rows();
        expect_size(OP, "modality_ids", "elements", n, modality_ids.len())?;
        self.host_offsets = None;
        let n_blocks = blocks(OP, "batch * seqlen", n, SORT_BLOCK)?;
        let (counts, row_of_position) = (gpu.write(&mut self.counts), gpu.write(&mut self.row_of_position));
        let (position_of_row, offsets) = (gpu.write(&mut self.position_of_row), gpu.write(&mut self.modality_offsets));
        let first_bad = gpu.write(&mut self.first_bad);
        let params = RawPlan {
            modality_ids: modality_ids.address(gpu)?,
            counts: counts.address(gpu)?,
            row_of_position: row_of_position.address(gpu)?,
            position_of_row: position_of_row.address(gpu)?,
            modality_offsets: offsets.address(gpu)?,
            first_bad: first_bad.address(gpu)?,
            n: n as u32,
            n_modalities: self.n_modalities as u32,
            n_blocks,
            unused: 0,
        };
        let threads = SORT_BLOCK as u32;
        for (kernel, grid) in [
            ("modality_plan_clear", Grid::line(1, 1)),
            ("modality_plan_count", Grid::line(n_blocks, threads)),
            ("modality_plan_scan", Grid::line(1, threads)),
            ("modality_plan_scatter", Grid::line(n_blocks, threads)),
        ] {
            // SAFETY: the plan's memory has the sizes that `n`, `n_modalities` and `n_blocks` say; ids are clamped, so
            // that rows and counts stay inside.
            unsafe { gpu.launch(kernel, grid, &params)? };
        }
        Ok(())
    }

    /// Waits for the last sort and tells whether every id named a modality.
    ///
    /// # Errors
    /// One did not: the first position of that kind (its id is on the device and not told: `got` is `n_modalities`).
    pub fn check(&self, gpu: &Gpu) -> Result<()> {
        match gpu.download(&self.first_bad)?.first() {
            None | Some(&u32::MAX) => Ok(()),
            Some(&position) => {
                let n_modalities = self.n_modalities;
                Err(Error::ModalityId { position: position as usize, got: n_modalities as u32, n_modalities }.into())
            }
        }
    }

    /// Copies a plan to the device. The host goes on to know the offsets.
    ///
    /// # Errors
    /// Out of memory.
    pub fn upload(gpu: &Gpu, plan: &ModalityPlan) -> Result<Self> {
        let offsets: Vec<u32> = plan.modality_offsets().as_slice().iter().map(|&offset| offset as u32).collect();
        let starts =
            plan.document_starts().map(|starts| starts.iter().map(|&start| u8::from(start)).collect::<Vec<_>>());
        Ok(Self {
            batch: plan.batch(),
            seqlen: plan.seqlen(),
            n_modalities: plan.n_modalities(),
            row_of_position: gpu.upload(plan.row_of_position())?,
            position_of_row: gpu.upload(plan.position_of_row())?,
            modality_offsets: gpu.upload(&offsets)?,
            host_offsets: Some(plan.modality_offsets().as_slice().to_vec()),
            document_starts: starts.map(|starts| gpu.upload(&starts)).transpose()?,
            counts: gpu.zeros(plan.n_modalities() * plan.n_rows().div_ceil(SORT_BLOCK))?,
            first_bad: gpu.upload(&[u32::MAX])?,
            context: None,
        })
    }

    /// The same plan, of a chunk of each sequence whose other chunks the ranks of `context` have: what
    /// [`mixer`](crate::cuda::mixer) then goes on over.
    #[must_use]
    pub fn with_context(self, context: impl Into<Option<Arc<dyn Context>>>) -> Self {
        Self { context: context.into(), ..self }
    }

    /// Who has the other chunks of the sequences; `None` where these are whole.
    pub fn context(&self) -> Option<&dyn Context> {
        self.context.as_deref()
    }

    /// Copies another plan of the same shape to where this one is, on the device: no allocation, no synchronisation. What
    /// the host knows of the offsets is then what it knew of the other's, if it knew this one's.
    ///
    /// # Errors
    /// Another batch, seqlen or number of modalities, document starts in one of them alone.
    pub fn copy_from(&mut self, gpu: &Gpu, other: &Self) -> Result<()> {
        expect_size(OP, "batch", "sequences", self.batch, other.batch)?;
        expect_size(OP, "seqlen", "positions", self.seqlen, other.seqlen)?;
        expect_size(OP, "n_modalities", "modalities", self.n_modalities, other.n_modalities)?;
        let starts = |plan: &Self| plan.document_starts.as_ref().map_or(0, CudaSlice::len);
        expect_size(OP, "document_starts", "elements", starts(self), starts(other))?;
        let failed = |source| CudaError::Driver { what: "copying on the device", source };
        let stream = gpu.stream();
        stream.memcpy_dtod(&other.row_of_position, &mut self.row_of_position).map_err(failed)?;
        stream.memcpy_dtod(&other.position_of_row, &mut self.position_of_row).map_err(failed)?;
        stream.memcpy_dtod(&other.modality_offsets, &mut self.modality_offsets).map_err(failed)?;
        if let (Some(from), Some(to)) = (&other.document_starts, &mut self.document_starts) {
            stream.memcpy_dtod(from, to).map_err(failed)?;
        }
        stream.memcpy_dtod(&other.first_bad, &mut self.first_bad).map_err(failed)?;
        self.host_offsets = self.host_offsets.take().and(other.host_offsets.clone());
        Ok(())
    }

    /// The same plan without the offsets on the host: what is launched with it finds them on the device. For a graph that
    /// is captured once and replayed for other counts of modalities.
    pub fn for_any_counts(self) -> Self {
        Self { host_offsets: None, ..self }
    }

    /// Number of sequences.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Positions in a sequence.
    pub fn seqlen(&self) -> usize {
        self.seqlen
    }

    /// Number of modalities.
    pub fn n_modalities(&self) -> usize {
        self.n_modalities
    }

    /// Number of positions, which is the number of rows.
    pub fn n_rows(&self) -> usize {
        self.batch * self.seqlen
    }

    /// Row of each position.
    pub fn row_of_position(&self) -> &CudaSlice<u32> {
        &self.row_of_position
    }

    /// Position of each row.
    pub fn position_of_row(&self) -> &CudaSlice<u32> {
        &self.position_of_row
    }

    /// Row range of each modality.
    pub fn modality_offsets<'a>(&'a self, gpu: &'a Gpu) -> DeviceOffsets<'a> {
        let offsets = Some(gpu.read(&self.modality_offsets));
        let on_host = self.host_offsets.as_deref();
        DeviceOffsets { offsets, on_host, n_modalities: self.n_modalities, n_rows: self.n_rows() }
    }

    /// Rows of the positions `first..first + n` of a sequence, and where documents begin among them.
    pub(crate) fn stretch<'a>(
        &'a self,
        gpu: &'a Gpu,
        sequence: usize,
        first: usize,
        n: usize,
    ) -> Result<(DeviceRef<'a, u32>, Option<DeviceRef<'a, u8>>)> {
        let start = sequence * self.seqlen + first;
        let end = start + n;
        let outside = || Error::Limit { op: OP, arg: "end", min: 0, max: self.n_rows(), got: end };
        let rows = self.row_of_position.try_slice(start..end).ok_or_else(outside)?;
        let starts = match &self.document_starts {
            Some(starts) => Some(gpu.read_view(starts.try_slice(start..end).ok_or_else(outside)?)),
            None => None,
        };
        Ok((gpu.read_view(rows), starts))
    }

    /// How conv and scan walk the rows.
    pub fn layout<'a>(&'a self, gpu: &'a Gpu) -> DeviceLayout<'a> {
        DeviceLayout {
            batch: self.batch,
            seqlen: self.seqlen,
            row_of_position: Some(gpu.read(&self.row_of_position)),
            document_starts: self.document_starts.as_ref().map(|starts| gpu.read(starts)),
        }
    }
}
