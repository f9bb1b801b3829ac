//! How the portable kernels cut products into tiles and sums into splits, by what a card has.

use crate::runtime::{Card, Dtype};

/// Rows of a tile, kernels/grouped_gemm/tile.cuh.
pub(super) const TILE_ROWS: usize = 128;

/// Elements that are moved at once.
pub(super) const VECTOR: usize = 8;

/// Kernels that differ in their tiles' columns alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// Rows times the transpose of their modality's weight.
    Forward,
    /// Rows times their modality's weight.
    Input,
    /// Sums over the rows of each modality.
    Sum,
}

impl Family {
    /// The kernel for tiles of so many columns.
    pub fn kernel(self, columns: usize, dtype: Dtype) -> String {
        let name = match self {
            Self::Forward => "m_grouped_forward",
            Self::Input => "m_grouped_input",
            Self::Sum => "k_grouped",
        };
        format!("{name}_n{columns}_{}", dtype.name())
    }

    /// Columns of the tile for an output that is `width` wide.
    pub fn columns(self, card: &Card, dtype: Dtype, width: usize) -> usize {
        let all = tile_columns(dtype, width);
        let fits = |columns: &&usize| card.has(&self.kernel(**columns, dtype));
        all.iter().find(fits).or(all.last()).copied().unwrap_or(128)
    }
}

/// Columns of tiles for an output that is `width` wide, the best first; the last fits every card. The narrow outputs of x_proj
/// (80, 160) and dt_proj's input gradient (48, 128) are one tile wide, so that the long operand is read once, where a card
/// has the shared memory.
pub(super) fn tile_columns(dtype: Dtype, width: usize) -> &'static [usize] {
    match (dtype, width) {
        (Dtype::F32, _) | (_, ..=64) => &[64],
        (_, ..=80) => &[80, 128],
        (_, ..=128) => &[128],
        (_, ..=160) => &[160, 80, 128],
        _ => &[128],
    }
}

/// The narrow operand of a sum, or any, is this wide at most where its tile is all of it.
pub(super) fn narrow(width: usize) -> usize {
    tile_columns(Dtype::Bf16, width)[0]
}

/// How the sum over the rows is cut: by the sizes, and inside of them by the offsets, so that its order depends on nothing
/// else.
#[derive(Debug, Clone, Copy)]
pub(super) struct Split {
    pub a_tiles: usize,
    pub b_tiles: usize,
    /// Rows of a split.
    pub rows: usize,
    /// Number of splits, at least 1.
    pub n: usize,
    /// f32 elements of a partial sum.
    pub partial: usize,
}

/// Rows that a step of a tile takes, kernels/grouped_gemm/tile.cuh.
const STEP_ROWS: usize = 64;

impl Split {
    /// About `n` equal splits.
    pub fn new(n_rows: usize, [a_tiles, b_tiles]: [usize; 2], n: usize, partial: usize) -> Self {
        let rows = n_rows.div_ceil(n).next_multiple_of(STEP_ROWS).max(STEP_ROWS);
        Self { a_tiles, b_tiles, rows, n: n_rows.div_ceil(rows).max(1), partial }
    }

    /// f32 elements of all partial sums. A single split has all rows of every modality, and no partial sums.
    pub fn partial_len(&self, n_groups: usize) -> usize {
        if self.n == 1 { 0 } else { (self.n + n_groups - 1) * self.partial }
    }
}

/// The cut of the portable kernel whose tiles have `columns` columns.
pub(super) fn split(columns: usize, n_rows: usize, n_in: usize, n_out: usize) -> Split {
    let (a_width, b_width) = (n_in.max(n_out), n_in.min(n_out));
    let (a_tiles, b_tiles) = (a_width.div_ceil(TILE_ROWS), b_width.div_ceil(columns));
    let n_tiles = a_tiles * b_tiles;
    // A card of 132 multiprocessors holds two blocks on each, of the widest tile one; the smallest has little to do
    // beside its partial sums. As many blocks as fit at once, or, where that leaves the last of few rounds half empty,
    // three rounds.
    let at_once = if matches!(columns, 64 | 160) { 132 } else { 256 };
    let n = if n_tiles <= at_once / 2 { at_once / n_tiles } else { (3 * at_once / n_tiles).max(1) };
    Split::new(n_rows, [a_tiles, b_tiles], n, n_in * n_out)
}

/// f32 elements of the partial sums of [`split`], on the card that needs most.
pub(super) fn most_partial_len(dtype: Dtype, n_rows: usize, n_groups: usize, n_in: usize, n_out: usize) -> usize {
    let columns = tile_columns(dtype, n_in.min(n_out)).iter();
    columns.map(|&columns| split(columns, n_rows, n_in, n_out).partial_len(n_groups)).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_card_has_a_kernel_for_every_width() {
        for capability in Card::capabilities() {
            let card = Card::known(capability, 100).unwrap();
            for dtype in [Dtype::Bf16, Dtype::F16, Dtype::F32] {
                for family in [Family::Forward, Family::Input, Family::Sum] {
                    for width in 1..400 {
                        let kernel = family.kernel(family.columns(&card, dtype, width), dtype);
                        assert!(card.has(&kernel), "{capability:?}: {kernel} for {width} columns");
                    }
                }
            }
        }
    }

    #[test]
    fn what_a_card_of_8_0_or_8_9_has_no_memory_for_is_not_taken() {
        let columns =
            |capability, width| Family::Sum.columns(&Card::known(capability, 100).unwrap(), Dtype::Bf16, width);
        assert_eq!([columns((9, 0), 160), columns((8, 0), 160), columns((8, 9), 160)], [160, 80, 80]);
        let forward = |capability| Family::Forward.columns(&Card::known(capability, 100).unwrap(), Dtype::Bf16, 80);
        assert_eq!([forward((8, 0)), forward((8, 6)), forward((12, 0))], [80, 128, 128]);
    }

    #[test]
    fn the_workspace_is_enough_for_every_card() {
        for (n_in, n_out) in [(1536, 80), (48, 1536), (4096, 160), (128, 4096), (700, 700)] {
            for n_rows in [0, 1, 4095, 32_768] {
                let most = most_partial_len(Dtype::Bf16, n_rows, 3, n_in, n_out);
                for capability in Card::capabilities() {
                    let card = Card::known(capability, 100).unwrap();
                    let columns = Family::Sum.columns(&card, Dtype::Bf16, n_in.min(n_out));
                    assert!(split(columns, n_rows, n_in, n_out).partial_len(3) <= most, "{capability:?}");
                }
            }
        }
    }
}
