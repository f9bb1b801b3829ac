//! What operations read of a plan on the device: the borders of the modalities, and how time runs through the rows.

use std::ops::Range;

use cudarc::driver::CudaSlice;

use crate::error::expect_size;
use crate::ops::plan::params::positions;
use crate::runtime::{DeviceRef, Gpu, Result, optional_ref};
use crate::shape::{Groups, Sequences};

const EQUAL_GROUPS: &str = "equal_groups";
const LAYOUT: &str = "device_layout";

/// Borders of the modalities in row order, on the device: `n_modalities + 1` prefix sums, the last the number of rows.
///
/// Made by a [`DevicePlan`](super::DevicePlan), [`EqualGroups`] or [`DeviceOffsets::single`], so that kernels need not check them. The host
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

/// Groups of equally many rows, such as the pixels of each picture of a batch, on the device.
#[derive(Debug)]
pub struct EqualGroups {
    offsets: CudaSlice<u32>,
    n_groups: usize,
    n_rows: usize,
}

impl EqualGroups {
    /// `n_groups` of them, of `rows_each` rows.
    ///
    /// # Errors
    /// More than 2^32 - 1 rows, out of memory.
    pub fn upload(gpu: &Gpu, n_groups: usize, rows_each: usize) -> Result<Self> {
        let n_rows = positions(EQUAL_GROUPS, n_groups, rows_each)?;
        let offsets: Vec<u32> = (0..=n_groups).map(|group| (group * rows_each) as u32).collect();
        Ok(Self { offsets: gpu.upload(&offsets)?, n_groups, n_rows })
    }

    /// Their borders, as operations take them.
    pub fn offsets<'a>(&'a self, gpu: &'a Gpu) -> DeviceOffsets<'a> {
        let offsets = Some(gpu.read(&self.offsets));
        DeviceOffsets { offsets, on_host: None, n_modalities: self.n_groups, n_rows: self.n_rows }
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
