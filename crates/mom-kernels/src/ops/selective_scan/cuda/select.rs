//! How sequences are cut into chunks, and which kernel walks them.

use super::dims::padded_states;
use crate::ops::selective_scan::check::Dims;
use crate::runtime::{Card, Dtype};

/// Elements of a vector of channels that the fast kernels move.
pub(super) const CHANNELS: usize = 8;

/// Threads of a block, of the widest kernel twice as many.
pub(super) const THREADS: u32 = 128;

/// Modalities whose biases of dt the kernels without branches have room for; those for few sum the gradients too:
/// kernels/selective_scan/common.cuh.
const MAX_BIASES: usize = 16;
const FEW_BIASES: usize = 4;

/// Blocks of channels and chunks that are enough: three for each of an H100's multiprocessors, whatever the card, so that
/// workspaces and the cut depend on the sizes alone.
const ENOUGH_BLOCKS: usize = 396;
/// Steps for which a chunk is worth its start.
const MIN_CHUNK: usize = 128;
/// Steps from which a sequence is cut into fewer than four chunks, which gain less than the first pass costs where it is
/// shorter, and into more.
const MIN_SEQLEN: [usize; 2] = [2048, 512];
/// Steps of a tile of the kernels: a chunk is whole tiles, but for a sequence's last one.
pub(super) const TILE: usize = 32;

/// How sequences are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunks {
    /// Chunks of a sequence; 1: it is not cut.
    pub count: usize,
    /// Steps of a chunk, of which the last has the rest.
    pub len: usize,
}

impl Chunks {
    /// Chunks of a forward pass that computes itself what they leave: not three, which is where channels alone give nearly every multiprocessor a block. That
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

/// What a kernel may take for granted of its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Assume {
    /// Nothing.
    Nothing,
    /// Vectors of channels are whole and lie on their size, d_state is 16.
    Aligned,
    /// And there is all that a block of a model has, with biases of few modalities or none.
    Full,
    /// The same with biases of many modalities.
    Many,
}

impl Assume {
    /// `complete`: there is a gate and a skip, and softplus. The kernels for those read steps past the end from the last one.
    pub fn new(dtype: Dtype, dims: Dims, aligned: bool, complete: bool) -> Self {
        match (aligned, complete && dtype.is_half() && dims.seqlen > 0) {
            (false, _) => Self::Nothing,
            (true, true) if dims.n_biases <= FEW_BIASES => Self::Full,
            (true, true) if dims.n_biases <= MAX_BIASES && dtype == Dtype::Bf16 => Self::Many,
            (true, _) => Self::Aligned,
        }
    }

    /// What kernels are named by in front of the shape that they are for, and behind it.
    fn name(self, shape: &str) -> String {
        match self {
            Self::Nothing => String::new(),
            Self::Aligned => "_aligned".to_owned(),
            Self::Full => format!("_full{shape}"),
            Self::Many => format!("_full{shape}_many"),
        }
    }
}

/// Whether blocks that fit a multiprocessor three times are better than those that fit four times and run slower each: where
/// the grid would not leave a part of a second round of the former.
fn is_roomy(card: &Card, n_blocks: usize) -> bool {
    let resident = |blocks_each: usize| blocks_each * card.n_multiprocessors as usize;
    n_blocks <= resident(3) || n_blocks > resident(4)
}

/// The kernel that computes what chunks leave.
pub(super) fn ends(dtype: Dtype, direction: &str, dims: Dims, assume: Assume) -> String {
    let assume = if assume == Assume::Many { Assume::Aligned } else { assume };
    format!("selective_scan_{direction}_chunk_ends_{}_{}{}", dtype.name(), dims.padded(), assume.name(""))
}

/// The kernel of the forward pass, and its blocks.
pub(super) fn forward(card: &Card, dtype: Dtype, dims: Dims, chunks: Chunks, assume: Assume) -> (String, usize) {
    let n_blocks = dims.batch * chunks.count * dims.d_inner.div_ceil(THREADS as usize * 4 / dims.padded());
    let shape = if chunks.count > 1 {
        "_chunks"
    } else if is_roomy(card, n_blocks) {
        "_roomy"
    } else if dims.seqlen.is_multiple_of(TILE) && assume == Assume::Full {
        "_whole"
    } else {
        ""
    };
    (format!("selective_scan_forward_{}_{}{}", dtype.name(), dims.padded(), assume.name(shape)), n_blocks)
}

/// A kernel of the backward pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Backward {
    pub kernel: String,
    /// Channels that a block owns.
    pub channels: usize,
    pub threads: u32,
    /// Whether it sums the gradients of the biases itself.
    pub sums_biases: bool,
}

impl Backward {
    /// The kernel for a shape. Three blocks of 32 channels fit a multiprocessor, or two of 64 that have fewer registers and
    /// run slower each; not every card has the shared memory for these.
    pub fn new(card: &Card, dtype: Dtype, dims: Dims, assume: Assume) -> Self {
        let padded = dims.padded();
        let kernel = |shape: &str| format!("selective_scan_backward_{}_{padded}{}", dtype.name(), assume.name(shape));
        let plain = |channels, shape| Self { kernel: kernel(shape), channels, threads: THREADS, sums_biases: false };
        let sums_biases = assume == Assume::Full;
        match assume {
            Assume::Nothing | Assume::Aligned => plain(512 / padded, ""),
            Assume::Full | Assume::Many if Chunks::backward(dims).count > 1 => {
                Self { sums_biases, ..plain(32, "_chunks") }
            }
            Assume::Full | Assume::Many => {
                let wide = Self {
                    threads: 2 * THREADS,
                    sums_biases: sums_biases && dtype == Dtype::Bf16,
                    ..plain(64, "_wide")
                };
                if is_roomy(card, dims.batch * dims.d_inner.div_ceil(32)) || !card.has(&wide.kernel) {
                    Self { sums_biases, ..plain(32, "_roomy") }
                } else {
                    wide
                }
            }
        }
    }

    /// Blocks of channels.
    pub fn blocks(&self, dims: Dims) -> usize {
        dims.d_inner.div_ceil(self.channels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_card_has_a_kernel_for_every_shape() {
        let types = [Dtype::Bf16, Dtype::F16, Dtype::F32];
        let shapes = [(1, 64), (4, 2048), (5, 4096), (8, 4096), (13, 4097), (64, 1024)];
        for card in Card::capabilities().filter_map(|of| Card::known(of, 100)) {
            for (dtype, d_state) in types.into_iter().flat_map(|t| [1, 16, 17, 32, 33, 64].map(|n| (t, n))) {
                for ((batch, seqlen), n_biases) in shapes.into_iter().flat_map(|s| [0, 1, 4, 5, 16, 17].map(|n| (s, n)))
                {
                    let dims = Dims { batch, seqlen, d_inner: 1536, d_state, n_biases };
                    for (aligned, complete) in [(false, false), (true, false), (true, true)] {
                        let assume = Assume::new(dtype, dims, aligned && d_state == 16, complete);
                        let (forward, _) = forward(&card, dtype, dims, Chunks::forward(dims), assume);
                        let backward = Backward::new(&card, dtype, dims, assume).kernel;
                        let of_ends = ["forward", "backward"].map(|way| ends(dtype, way, dims, assume));
                        for kernel in of_ends.iter().chain([&forward, &backward]) {
                            assert!(card.has(kernel), "{:?}: {kernel}", card.capability);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_wide_kernel_is_for_cards_with_the_memory() {
        let dims = Dims { batch: 9, seqlen: 4096, d_inner: 1536, d_state: 16, n_biases: 3 };
        let kernel = |capability| {
            let card = Card::known(capability, 132).unwrap();
            Backward::new(&card, Dtype::Bf16, dims, Assume::Full).kernel
        };
        assert!(kernel((9, 0)).ends_with("wide") && kernel((8, 0)).ends_with("wide"));
        assert!(kernel((8, 6)).ends_with("roomy") && kernel((8, 9)).ends_with("roomy"));
    }

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
