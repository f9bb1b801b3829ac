//! Rows sorted by their id, on the device.

use super::abi::RawSort;
use crate::runtime::{DeviceMut, DeviceRef, Gpu, Grid, Result};

/// As in kernels/embedding: threads of a block, and digits of a pass.
const SORT_THREADS: usize = 1024;
const DIGITS: usize = 256;

/// Elements of the workspace of [`sort`].
pub(super) fn workspace_len(n_rows: usize) -> usize {
    4 * n_rows + DIGITS * (n_rows.div_ceil(SORT_THREADS) + 1)
}

/// Addresses of the sorted ids (the vocabulary for those that name nothing) and of the rows that they are of.
pub(super) struct Sorted {
    pub keys: u64,
    pub rows: u64,
}

/// Sorts rows by id; rows of one id stay in order.
pub(super) fn sort(
    gpu: &Gpu,
    ids: &DeviceRef<'_, u32>,
    vocabulary: usize,
    out_of_range: &DeviceMut<'_, u32>,
    workspace: DeviceMut<'_, u32>,
) -> Result<Sorted> {
    let n = ids.len();
    let n_blocks = n.div_ceil(SORT_THREADS);
    let words = |count: usize| (count * size_of::<u32>()) as u64;
    let base = workspace.address(gpu)?;
    let buffers = [0, 1].map(|i| Sorted { keys: base + words(2 * i * n), rows: base + words((2 * i + 1) * n) });
    let counts = base + words(4 * n);
    // The vocabulary is a key too.
    let n_passes = (usize::BITS - vocabulary.leading_zeros()).div_ceil(DIGITS.ilog2());
    let (mut keys, mut rows) = (ids.address(gpu)?, 0);
    for pass in 0..n_passes {
        let to = &buffers[pass as usize % 2];
        let params = RawSort {
            keys,
            rows,
            to_keys: to.keys,
            to_rows: to.rows,
            counts,
            totals: counts + words(DIGITS * n_blocks),
            out_of_range: if pass == 0 { out_of_range.address(gpu)? } else { 0 },
            n: n as u32,
            n_blocks: n_blocks as u32,
            vocabulary: vocabulary as u32,
            shift: pass * DIGITS.ilog2(),
        };
        let grid = Grid::line(n_blocks as u32, SORT_THREADS as u32);
        // SAFETY: keys and rows have n elements, each buffer of the workspace too, and the counts 256 a block: a block
        // reads 1024 positions below n and writes its own counts.
        unsafe { gpu.launch("embedding_sort_count", grid, &params)? };
        let scan = Grid::line(if n == 0 { 0 } else { DIGITS as u32 }, DIGITS as u32);
        // SAFETY: a block for each digit, whose counts it alone reads and writes.
        unsafe { gpu.launch("embedding_sort_scan", scan, &params)? };
        // SAFETY: by the counts' prefix sums each position has a place of its own below n in the buffer, which is not
        // the one that is read.
        unsafe { gpu.launch("embedding_sort_scatter", grid, &params)? };
        (keys, rows) = (to.keys, to.rows);
    }
    Ok(Sorted { keys, rows })
}
