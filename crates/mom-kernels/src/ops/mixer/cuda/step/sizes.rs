//! What a step's kernels are written for, and how they divide it.

use crate::error::{Error, expect_limit, expect_size};
use crate::ops::mixer::cuda::args::{Block, MixerWeights};
use crate::ops::mixer::cuda::workspace::bytes;
use crate::ops::mixer::params::Features;
use crate::runtime::{DeviceElement, Gpu, Result};

pub(super) const OP: &str = "mixer_step";

/// Most rows of a step.
pub const MAX_STEP_ROWS: usize = 8;

/// Channels of a tile and of a block of in_proj's kernel at most, rows of a tile of any other product, channels that a
/// block of the scan has at once: kernels/mixer_step.
const TILE_CHANNELS: usize = 8;
const MAX_CHANNELS: usize = 256;
const TILE: usize = 16;
pub(super) const SCAN_CHANNELS: usize = 64;

/// Blocks of the scan that share their sums; there are whole clusters of them.
const CLUSTER: usize = 8;

/// Most features between x_proj and dt_proj with B and C, rounded up to a tile.
const MAX_PADDED: usize = 768;

/// Elements that products of any type read at once.
const VECTOR: usize = 8;

/// Kernels for one row, and for up to [`MAX_STEP_ROWS`].
pub(super) fn rows_name(n_rows: usize) -> usize {
    if n_rows == 1 { 1 } else { MAX_STEP_ROWS }
}

/// Longest rows that a product's kernel holds: behind a norm, and without one.
const MAX_NORMED: usize = 2048;
const MAX_INNER: usize = 4096;

/// Checks the inputs of a product of a step.
pub(super) fn expect_product(n_rows: usize, width_arg: &'static str, width: usize, normed: bool) -> Result<()> {
    expect_limit(OP, "n_rows", MAX_STEP_ROWS, n_rows)?;
    expect_limit(OP, width_arg, if normed { MAX_NORMED } else { MAX_INNER }, width)?;
    Ok(expect_size(OP, width_arg, "features past a multiple of 8", 0, width % VECTOR)?)
}

/// Checks that kernels may read by 16 bytes.
pub(super) fn expect_aligned(arg: &'static str, aligned: bool) -> Result<()> {
    if aligned {
        Ok(())
    } else {
        Err(Error::Shape { op: OP, arg, unit: "aligned vectors", expected: 1, got: 0 }.into())
    }
}

/// Sizes of a step, which fit its kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StepSizes {
    pub n_rows: usize,
    pub d_model: usize,
    pub d_inner: usize,
    pub d_state: usize,
    pub d_conv: usize,
    pub dt_rank: usize,
    /// Blocks of the first kernel, each with a partial sum of x_proj's output.
    pub n_blocks: usize,
}

impl StepSizes {
    pub fn of<T: DeviceElement>(gpu: &Gpu, block: &Block<'_, T>, n_rows: usize) -> Result<Self> {
        let mixer = &block.mixer;
        let Features { d_model, d_inner, d_state, d_conv, dt_rank } = mixer.validate()?;
        expect_product(n_rows, "d_model", d_model, true)?;
        expect_product(n_rows, "d_inner", d_inner, false)?;
        expect_size(OP, "norm", "elements", d_model, block.norm.len())?;
        expect_size(OP, "x_proj", "biases", 0, usize::from(mixer.x_proj.has_biases()))?;
        let n_tiles = d_inner / TILE_CHANNELS;
        let least = d_inner.div_ceil(MAX_CHANNELS);
        let n_blocks = n_tiles.min(gpu.card().n_multiprocessors as usize).max(least);
        let sizes = Self { n_rows, d_model, d_inner, d_state, d_conv, dt_rank, n_blocks };
        expect_limit(OP, "dt_rank + 2 d_state", MAX_PADDED, sizes.padded())?;
        expect_aligned("norm", block.norm.is_aligned(4))?;
        aligned(mixer)?;
        Ok(sizes)
    }

    /// Features of x_proj's output.
    pub fn width(&self) -> usize {
        self.dt_rank + 2 * self.d_state
    }

    /// The same up to a whole tile.
    pub fn padded(&self) -> usize {
        self.width().next_multiple_of(TILE)
    }

    /// Elements of the conv's window.
    pub fn window_len(&self) -> usize {
        self.n_rows * (self.d_conv - 1) * self.d_inner
    }

    /// Elements of the scan's state.
    pub fn state_len(&self) -> usize {
        self.n_rows * self.d_inner * self.d_state
    }

    pub fn inner_len(&self) -> usize {
        self.n_rows * self.d_inner
    }

    pub fn partial_len(&self) -> usize {
        self.n_rows * self.n_blocks * self.padded()
    }

    pub fn workspace_bytes<T>(&self) -> usize {
        3 * bytes::<T>(self.inner_len()) + bytes::<f32>(self.partial_len())
    }

    /// Blocks of the scan's kernel for a row, of so many channels; some at the end may have none.
    pub fn scan_blocks(&self, channels: usize) -> usize {
        self.d_inner.div_ceil(channels).next_multiple_of(CLUSTER)
    }

    /// Channels of a block of the scan's kernel: each adds up the partial sums of its row, so that many rows have fewer
    /// blocks each.
    pub fn scan_channels(&self, gpu: &Gpu) -> usize {
        let all = self.d_inner.div_ceil(SCAN_CHANNELS) * self.n_rows;
        SCAN_CHANNELS * (all / gpu.card().n_multiprocessors as usize).max(1)
    }
}

/// Blocks of a product with `n` outputs.
pub(super) fn product_blocks(gpu: &Gpu, n: usize) -> u32 {
    n.div_ceil(TILE).min(gpu.card().n_multiprocessors as usize) as u32
}

fn aligned<T: DeviceElement>(mixer: &MixerWeights<'_, T>) -> Result<()> {
    expect_aligned("in_proj", mixer.in_proj.is_vector())?;
    expect_aligned("x_proj", mixer.x_proj.is_vector())?;
    expect_aligned("out_proj", mixer.out_proj.is_vector())
}
