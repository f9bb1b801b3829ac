//! What operations read of a plan on the device: the borders of the modalities, and how time runs through the rows.

use std::ops::Range;

use crate::error::expect_size;
use crate::ops::plan::params::positions;
use crate::runtime::{DeviceRef, Gpu, Result, optional_ref};
use crate::shape::{Groups, Sequences};

const LAYOUT: &str = "device_layout";

/// Borders of the modalities in row order, on the device: `n_modalities + 1` prefix sums, the last the number of rows.
///
/// Made by a [`DevicePlan`](super::DevicePlan) or [`DeviceOffsets::single`], so that kernels need not check them. The host
/// may know them too: then a product of the library for each modality can be launched, which
/// [`cuda::grouped_gemm`](crate::cuda::grouped_gemm) does where that is faster.
#[derive(Debug, Clone)]
pub struct DeviceOffsets<'a> {
    pub(super) offsets: Option<DeviceRef<'a, u32>>,
    pub(super) on_host: Option<&'a [usize]>,
    pub(super) n_modalities: usize,
    pub(super) n_rows: usize,
}

impl DeviceOffsets<'_> {
    /// One group over all rows: what a shared projection uses.
    pub fn single(n_rows: usize) -> Self {
        Self { offsets: None, on_host: None, n_modalities: 1, n_rows }
    }

    /// Number of modalities.
    pub fn n_modalities(&self) -> usize {
        self.n_modalities
    }

    /// Number of rows of all modalities together.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// The rows of each modality, where the host knows them.
    pub(crate) fn on_host(&self) -> Option<Vec<Range<usize>>> {
        match (&self.offsets, self.on_host) {
            (None, _) => Some(std::iter::once(0..self.n_rows).collect()),
            (Some(_), offsets) => offsets.map(|offsets| offsets.windows(2).map(|pair| pair[0]..pair[1]).collect()),
        }
    }

    pub(crate) fn address(&self, gpu: &Gpu) -> Result<u64> {
        optional_ref(gpu, &self.offsets)
    }
}

/// How time runs through the rows, on the device: [`crate::SequenceLayout`] there.
///
/// Its rows are a permutation by construction: it comes from a [`DevicePlan`](super::DevicePlan), or rows are positions.
#[derive(Debug, Clone)]
pub struct DeviceLayout<'a> {
    pub(super) batch: usize,
    pub(super) seqlen: usize,
    pub(super) row_of_position: Option<DeviceRef<'a, u32>>,
    pub(super) document_starts: Option<DeviceRef<'a, u8>>,
}

impl<'a> DeviceLayout<'a> {
    /// Rows are positions. `document_starts`: `(batch, seqlen)`, not zero where a document begins.
    ///
    /// # Errors
    /// A wrong length, more than 2^32 - 1 positions.
    pub fn contiguous(batch: usize, seqlen: usize, document_starts: Option<DeviceRef<'a, u8>>) -> Result<Self> {
        let n = positions(LAYOUT, batch, seqlen)?;
        if let Some(starts) = &document_starts {
            expect_size(LAYOUT, "document_starts", "elements", n, starts.len())?;
        }
        Ok(Self { batch, seqlen, row_of_position: None, document_starts })
    }

    /// Number of sequences.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Positions in a sequence.
    pub fn seqlen(&self) -> usize {
        self.seqlen
    }

    /// Number of positions.
    pub fn n_rows(&self) -> usize {
        self.batch * self.seqlen
    }

    /// Whether rows and starts of `n` positions may be read at once, where these begin at a multiple of n.
    pub(crate) fn is_aligned(&self, n: usize) -> bool {
        self.row_of_position.as_ref().is_none_or(|rows| rows.is_aligned(n))
            && self.document_starts.as_ref().is_none_or(|starts| starts.is_aligned(n))
    }

    pub(crate) fn row_of_position(&self, gpu: &Gpu) -> Result<u64> {
        optional_ref(gpu, &self.row_of_position)
    }

    pub(crate) fn document_starts(&self, gpu: &Gpu) -> Result<u64> {
        optional_ref(gpu, &self.document_starts)
    }
}

impl Groups for DeviceOffsets<'_> {
    fn n_groups(&self) -> usize {
        self.n_modalities
    }

    fn n_rows(&self) -> usize {
        self.n_rows
    }
}

impl Sequences for DeviceLayout<'_> {
    fn batch(&self) -> usize {
        self.batch
    }

    fn seqlen(&self) -> usize {
        self.seqlen
    }
}
