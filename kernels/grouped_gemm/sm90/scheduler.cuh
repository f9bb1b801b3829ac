// Which tiles a block takes, one after the other: of rows times weights, and of sums over rows.
#pragma once
#include "traits.cuh"

namespace grouped_gemm {

// Calls `each(rows, first, last)` for the rows of this block and their column tiles. Blocks that run at the same time
// share rows and columns, and write whole rows: bands of rows, in each all columns.
template <typename T, bool FORWARD, int BN, int WARPGROUPS, int STAGES, bool SHORT, int BLOCKS>
template <typename Each>
__device__ __forceinline__ void MGrouped90Tile<T, FORWARD, BN, WARPGROUPS, STAGES, SHORT, BLOCKS>::tiles(const Each& each) const {
    constexpr uint32_t BAND = SHORT ? 1 : 8;
    // The tiles of rows that there are, not as many as there can be: one more may be another turn for every block.
    uint32_t m_tiles = 0;
#pragma unroll 1
    for (uint32_t group = 0; group < p.n_groups; group++)
        m_tiles += (offsets[group + 1] - offsets[group] + ROWS - 1) / ROWS;
    const uint32_t per = SHORT ? p.tiles_at_once : 1;
    const uint32_t n_parts = (p.n_tiles + per - 1) / per;
    for (uint32_t i = blockIdx.x; i < m_tiles * n_parts; i += gridDim.x) {
        const uint32_t band = i / (BAND * n_parts), rest = i % (BAND * n_parts), height = min(BAND, m_tiles - band * BAND);
        const auto border = [&](uint32_t group) { return offsets[group]; };
        const RowTile rows = row_tile_of(border, p.n_groups, band * BAND + rest % height, ROWS);
        const uint32_t first = rest / height * per;
        each(rows, first, min(first + per, p.n_tiles));
    }
}

// Calls `each(tile, split, segment)` for what this block sums. Blocks that run at the same time share rows and columns:
// they take bands of tiles in a, in each all tiles in b.
template <typename T, int WARPGROUPS, int BN, int STAGES, int CLUSTER>
template <typename Each>
__device__ __forceinline__ void KGrouped90Tile<T, WARPGROUPS, BN, STAGES, CLUSTER>::sums(const Each& each) const {
    constexpr uint32_t BAND = BN == 256 ? 8 : 1;
    const uint32_t at_once = p.n_tiles / CLUSTER;  // of the cluster's blocks
    for (uint32_t i = blockIdx.x / CLUSTER; i < at_once * p.n_splits; i += gridDim.x / CLUSTER) {
        const uint32_t split = i / at_once, band = i % at_once / (BAND * p.b_tiles), rest = i % at_once % (BAND * p.b_tiles);
        const uint32_t height = min(BAND, at_once / p.b_tiles - band * BAND);
        const uint32_t tile = ((band * BAND + rest % height) * CLUSTER + rank()) * p.b_tiles + rest / height;
        const auto border = [&](uint32_t group) { return offsets[group]; };
        // Of a wide tile first what leaves as a whole, which has the rest of the split to do so.
#pragma unroll 1
        for (int partial = 0; partial < (NARROW ? 1 : 2); partial++)
            segments(p, border, p.border_rows, split, [&](const Segment& segment) {
                if (NARROW || segment.whole == (partial == 0)) each(tile, split, segment);
            });
    }
}

}  // namespace grouped_gemm
