//! Sequences in chunks of time: what each chunk leaves for the others is computed first, then all of them run at once.
//!
//! Two passes instead of one, so only where sequences times channels leave most of a card idle.

use super::params::{Dims, OP, RawChunks, RawInputs, backward_module, forward_module, padded_states};
use crate::cuda::Gpu;
use crate::cuda::error::Result;
use crate::cuda::launch::{Grid, blocks};
use crate::cuda::memory::DeviceElement;

/// Blocks of channels and chunks that are enough: three for each of an H100's multiprocessors, whatever the card, so that
/// the same sizes give the same bits on every card.
const ENOUGH_BLOCKS: usize = 396;
/// Steps for which a chunk is worth its start.
const MIN_CHUNK: usize = 128;
/// Steps from which a sequence is cut into fewer than four chunks, which gain less than the first pass costs where it is
/// shorter, and into more.
const MIN_SEQLEN: [usize; 2] = [2048, 512];
/// Steps of a tile of the kernels: a chunk is whole tiles, but for a sequence's last one.
pub(super) const TILE: usize = 32;
const THREADS: u32 = 128;

/// How sequences are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunks {
    /// Chunks of a sequence; 1: it is not cut.
    pub count: usize,
    /// Steps of a chunk, of which the last has the rest.
    pub len: usize,
}

impl Chunks {
    /// Chunks of the forward pass: not three, which is where channels alone give nearly every multiprocessor a block. That
    /// costs the forward pass less than its first pass does where states last.
    pub fn forward(dims: Dims) -> Self {
        match Self::backward(dims) {
            Self { count: 3, len } => Self { count: 1, len: 3 * len },
            chunks => chunks,
        }
    }

    /// As many chunks as give [`ENOUGH_BLOCKS`] blocks and no more, of [`MIN_CHUNK`] steps at least; one for sequences below
    /// [`MIN_SEQLEN`].
    pub fn backward(dims: Dims) -> Self {
        let n_blocks = dims.batch * dims.d_inner.div_ceil((512 / padded_states(dims.d_state)).max(1));
        let mut wanted = (ENOUGH_BLOCKS / n_blocks.max(1)).min(dims.seqlen / MIN_CHUNK).max(1);
        if dims.seqlen < MIN_SEQLEN[usize::from(wanted >= 4)] {
            wanted = 1;
        }
        let len = dims.seqlen.div_ceil(wanted).next_multiple_of(TILE).max(TILE);
        Self { count: dims.seqlen.div_ceil(len).max(1), len }
    }

    /// f32 elements for what the chunks leave: a decay and a state for each state of each chunk.
    pub fn workspace_len(self, dims: Dims) -> usize {
        if self.count == 1 { 0 } else { 2 * dims.batch * self.count * dims.d_inner * padded_states(dims.d_state) }
    }
}

/// Which way the chunks' ends go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// States, to the chunks behind.
    Forward,
    /// Adjoints, to the chunks before: the gradient of y, its address and stride.
    Backward { grad_out: u64, grad_out_stride: u32 },
}

/// Computes the ends of all chunks but the one from which nothing goes on.
///
/// # Safety
/// `inputs` and `direction` hold what the scan's kernel of that direction may read, `inputs` the length of the `count`
/// chunks, more than one. `workspace` is the address of their [`Chunks::workspace_len`] elements, which this may write, on
/// 16 bytes.
pub(super) unsafe fn ends<T: DeviceElement>(
    gpu: &Gpu,
    inputs: RawInputs,
    dims: Dims,
    count: usize,
    (aligned, full): (bool, bool),
    direction: Direction,
    workspace: u64,
) -> Result<()> {
    let padded = padded_states(dims.d_state);
    let n_blocks = dims.batch * (count - 1) * dims.d_inner.div_ceil(512 / padded);
    let (name, module, grad_out, grad_out_stride) = match direction {
        Direction::Forward => ("forward", forward_module(T::DTYPE), 0, 0),
        Direction::Backward { grad_out, grad_out_stride } => {
            ("backward", backward_module(T::DTYPE), grad_out, u64::from(grad_out_stride))
        }
    };
    let suffix = match (aligned, full) {
        (true, true) => "_full",
        (true, false) => "_aligned",
        (false, _) => "",
    };
    let kernel = format!("selective_scan_{name}_chunk_ends_{}_{padded}{suffix}", T::DTYPE.name());
    let params = RawChunks { inputs, grad_out, chunks: workspace, grad_out_stride };
    let grid = Grid::line(blocks(OP, "batch * chunks * d_inner", n_blocks, 1)?, THREADS);
    // SAFETY: by this function's own contract.
    unsafe { gpu.launch(module, &kernel, grid, &params) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(batch: usize, seqlen: usize, d_inner: usize, d_state: usize) -> (usize, usize) {
        let dims = Dims { batch, seqlen, d_inner, d_state, n_biases: 0 };
        let Chunks { count, len } = Chunks::backward(dims);
        if count != 3 {
            assert_eq!(Chunks::forward(dims), Chunks::backward(dims));
        }
        (count, len)
    }

    #[test]
    fn a_grid_that_fills_a_card_is_not_cut() {
        assert_eq!(chunks(8, 4096, 1536, 16), (1, 4096));
        assert_eq!(chunks(4, 4096, 4096, 16), (1, 4096));
        assert_eq!(chunks(5, 65_536, 1536, 16), (1, 65_536));
        assert_eq!(chunks(1, 511, 64, 16).0, 1);
        assert_eq!(chunks(0, 0, 64, 16).0, 1);
        assert_eq!(chunks(3, 0, 64, 16).0, 1);
    }

    #[test]
    fn a_long_sequence_is_cut_into_whole_tiles() {
        assert_eq!(chunks(1, 65_536, 1536, 16), (8, 8192));
        assert_eq!(chunks(4, 16_384, 1536, 16), (2, 8192));
        let three = Dims { batch: 1, seqlen: 16_384, d_inner: 4096, d_state: 16, n_biases: 0 };
        assert_eq!(Chunks::backward(three), Chunks { count: 3, len: 5472 });
        let whole = Chunks::forward(three);
        assert!(whole.count == 1 && whole.len >= three.seqlen);
        assert_eq!(chunks(1, 512, 64, 16), (4, 128));
        assert_eq!(chunks(4, 2048, 1536, 16), (2, 1024));
        assert_eq!(chunks(4, 2047, 1536, 16), (1, 2048));
        for seqlen in 512..3000 {
            let (count, len) = chunks(1, seqlen, 64, 16);
            assert!(len % TILE == 0 && (count - 1) * len < seqlen && seqlen <= count * len, "{seqlen}");
            assert!(len >= MIN_CHUNK && count > 1);
        }
    }
}
