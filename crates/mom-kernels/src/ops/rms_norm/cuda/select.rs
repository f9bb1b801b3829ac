//! Which kernel norms: where rows consist of aligned vectors and a block has enough lanes, one that holds them in registers.

use crate::runtime::{DeviceElement, Dtype, Gpu};

/// As in kernels/rms_norm: elements of a vector, warps of a block, rows of a block of the backward pass where rows are
/// not held, vectors of a lane where they are.
pub(super) const VECTOR: usize = 8;
pub(super) const WARPS: u32 = 8;
pub(super) const CHUNK: usize = 16;
const MAX_VECTORS: usize = 3;

/// Most blocks of a backward pass that holds rows, each with a partial sum of the weight's gradient.
pub(super) const MAX_BLOCKS: usize = 1024;

/// How rows are held in registers: by a team of warps each, some vectors a lane.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub team: u32,
    vectors: usize,
}

impl Held {
    /// For rows of `width` elements, where they consist of aligned vectors and a block has enough lanes.
    pub fn of(width: usize, aligned: bool) -> Option<Self> {
        let n = width.div_ceil(VECTOR);
        let lanes = |team: u32| team as usize * 32;
        let team = [1, 2, 4, 8].into_iter().find(|&team| n <= MAX_VECTORS * lanes(team)).filter(|_| aligned)?;
        Some(Self { team, vectors: n.div_ceil(lanes(team)).max(2) })
    }

    pub fn kernel<T: DeviceElement>(self, direction: &str) -> String {
        format!("rms_norm_{direction}_held_{}_{}", T::DTYPE.name(), self.vectors)
    }

    /// Blocks that stay for all rows. A multiprocessor holds so many of 2 and of 3 vectors a lane, and of f32 one less.
    pub fn blocks<T: DeviceElement>(self, gpu: &Gpu, n_rows: usize, held: [u32; 2]) -> u32 {
        let held = held[self.vectors - 2] - u32::from(T::DTYPE == Dtype::F32);
        let rows = (WARPS / self.team) as usize;
        n_rows.div_ceil(rows).min(MAX_BLOCKS).min((gpu.n_multiprocessors() * held) as usize) as u32
    }
}
