// Rows times the weight of their modality: forward (weights (n, k)) and input gradient (weights (k, n)).
//
// A block takes one tile of BM rows of one modality and BN columns. The grid holds as many tiles of rows as there can be
// for any offsets, ceil(n_rows / BM) + n_groups - 1; a block finds its modality from the offsets, and those past the last
// tile leave. Tiles of one range of rows lie side by side, so that x comes from memory once.
#pragma once
#include "tile.cuh"

namespace grouped_gemm {

struct RowTile {
    uint32_t group, row, n_rows;  // n_rows is 0 past the last tile
};

// `border(i)` is the end of the first i modalities.
template <typename Border>
__device__ __forceinline__ RowTile row_tile_of(const Border& border, uint32_t n_groups, uint32_t tile, uint32_t tile_rows) {
    RowTile found{0, 0, 0};
    uint32_t first_tile = 0, begin = 0;
    for (uint32_t group = 0; group < n_groups; group++) {
        const uint32_t end = border(group + 1);
        const uint32_t n_tiles = (end - begin + tile_rows - 1) / tile_rows;
        if (tile - first_tile < n_tiles) {  // tile >= first_tile, or the difference wraps to a large one
            const uint32_t row = begin + (tile - first_tile) * tile_rows;
            found = {group, row, min(end - row, tile_rows)};
        }
        first_tile += n_tiles;
        begin = end;
    }
    return found;
}
__device__ __forceinline__ RowTile row_tile(const MGrouped& p, uint32_t tile, uint32_t tile_rows) {
    return row_tile_of([&](uint32_t group) { return offset(p.offsets, p.n_rows, group); }, p.n_groups, tile, tile_rows);
}

template <typename T, bool FORWARD, int BN, int STAGES> struct MGroupedTile {
    using Mma = Product<T, true, FORWARD, BN, STAGES>;
    static constexpr int OUT_BYTES = BN * 2 + 16;  // a row of the tile on its way out: no bank conflicts
    static_assert(BM * OUT_BYTES <= Mma::SHARED_BYTES);

    static __device__ __forceinline__ void run(const MGrouped& p, char* memory) {
        const uint32_t m_tile = blockIdx.x / p.n_tiles, n0 = blockIdx.x % p.n_tiles * BN;
        const RowTile tile = row_tile(p, m_tile, BM);
        if (tile.n_rows == 0) return;
        const uint32_t shared = uint32_t(__cvta_generic_to_shared(memory));
        const int n_valid = min(int(p.n - n0), BN);
        const T* weight = static_cast<const T*>(p.weights[tile.group]);
        const Operand<T> a{static_cast<const T*>(p.x) + int64_t(tile.row) * p.x_stride, p.x_stride, int(tile.n_rows), p.x_vector != 0};
        const Operand<T> b{FORWARD ? weight + int64_t(n0) * p.k : weight + n0, FORWARD ? p.k : p.n, n_valid, p.w_vector != 0};
        Mma product;
        product.run(shared, a, b, int(p.k));

        T* y = static_cast<T*>(p.y) + int64_t(tile.row) * p.y_stride + n0;
        const float* bias = p.biases ? p.biases + int64_t(tile.group) * p.n + n0 : nullptr;
#pragma unroll
        for (int j = 0; j < Mma::NT; j++) {
            const int column = Mma::column(j);
            float b0 = 0.f, b1 = 0.f;
            if (bias && column < n_valid) b0 = bias[column];
            if (bias && column + 1 < n_valid) b1 = bias[column + 1];
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const int row = Mma::row(i, half);
                    float v0 = product.sums[i][j][2 * half] + b0, v1 = product.sums[i][j][2 * half + 1] + b1;
                    if (p.add && row < int(tile.n_rows)) {
                        const T* old = y + row * p.y_stride + column;
                        if (p.y_vector && column + 1 < n_valid) {
                            const uint32_t both = *reinterpret_cast<const uint32_t*>(old);
                            v0 += word_to_f32<T>(both, 0);
                            v1 += word_to_f32<T>(both, 1);
                        } else {
                            if (column < n_valid) v0 += to_f32(old[0]);
                            if (column + 1 < n_valid) v1 += to_f32(old[1]);
                        }
                    }
                    *reinterpret_cast<uint32_t*>(memory + row * OUT_BYTES + column * 2) = words_from_f32<T>(v0, v1);
                }
        }
        __syncthreads();
        constexpr int CHUNKS = BN / 8;
        for (int i = threadIdx.x; i < BM * CHUNKS; i += THREADS) {
            const int row = i / CHUNKS, chunk = i % CHUNKS, n = n_valid - chunk * 8;
            if (row >= int(tile.n_rows) || n <= 0) continue;
            const Vec<T, 8> v = *reinterpret_cast<const Vec<T, 8>*>(memory + row * OUT_BYTES + chunk * 16);
            T* to = y + row * p.y_stride + chunk * 8;
            if (p.y_vector && n >= 8) store_vec<true, T, 8>(to, v, 8);
            else store_vec<false, T, 8>(to, v, n);
        }
    }
};

}  // namespace grouped_gemm

#define M_GROUPED(NAME, T, FORWARD, BN, STAGES, BLOCKS)                                                                        \
    extern "C" __constant__ const uint32_t NAME##_shared_bytes = grouped_gemm::MGroupedTile<T, FORWARD, BN, STAGES>::Mma::SHARED_BYTES; \
    extern "C" __global__ void __launch_bounds__(grouped_gemm::THREADS, BLOCKS) NAME(const __grid_constant__ MGrouped p) {     \
        extern __shared__ __align__(128) char memory[];                                                                        \
        grouped_gemm::MGroupedTile<T, FORWARD, BN, STAGES>::run(p, memory);                                                    \
    }
