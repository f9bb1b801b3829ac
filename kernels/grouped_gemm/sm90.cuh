// The grouped products on wgmma. The operands' way into shared memory is that of tile.cuh, whose permuted panels are what
// wgmma reads.
//
// m_grouped: a block takes a range of rows and a range of column tiles, one after the other, and loads the next tile's
// operands while it multiplies and writes. Where the sum is short (dt_proj forward, x_proj's input gradient) the block's
// rows stay in shared memory for all of its column tiles (STATIONARY), and only weights are loaded.
#pragma once
#include "k_grouped.cuh"
#include "m_grouped.cuh"
#include "wgmma.cuh"

namespace grouped_gemm {

// Two warpgroups of 64 x BN each. STATIONARY: steps of `a` that stay; 0: `a` goes through the ring as well.
template <typename T, bool A_K, bool B_K, int BN, int STAGES, int STATIONARY> struct Stream {
    using A = Tile<T, A_K, BM>;
    using B = Tile<T, B_K, BN>;
    static_assert(A::BYTES % 1024 == 0 && B::BYTES % 1024 == 0 && STAGES >= 3);
    static constexpr int STAGE_BYTES = B::BYTES + (STATIONARY ? 0 : A::BYTES);
    static constexpr int A_BYTES = STATIONARY * A::BYTES, RING_BYTES = STAGES * STAGE_BYTES;
    static constexpr int NT = BN / 8;

    float sums[BN / 2];

    // Row and column in the tile of sums[4 j + 2 half].
    static __device__ __forceinline__ int row(int half) { return (threadIdx.x >> 5) * 16 + half * 8 + (threadIdx.x & 31) / 4; }
    static __device__ __forceinline__ int column(int j) { return j * 8 + threadIdx.x % 4 * 2; }

    // n_tiles products a b_i over the same k; `b_of(i)` is an operand, `done(i, *this)` is called with each sum complete.
    // The sum begins at step `rotate` and wraps: blocks that read one weight begin apart, or all would ask the same few
    // lines of the second-level cache at once.
    template <typename BOf, typename Done>
    __device__ __forceinline__ void run(uint32_t shared, const Operand<T>& a, const BOf& b_of, int n_tiles, int k, int rotate, const Done& done) {
        const int n_steps = (k + BK - 1) / BK;
        const uint32_t ring = shared + A_BYTES;
        int load_tile = 0, load_step = 0, load_slot = 0, load_at = rotate;
        auto load_next = [&]() {
            if (load_tile < n_tiles) {
                const int valid = min(k - load_at * BK, BK);
                const uint32_t slot = ring + load_slot * STAGE_BYTES;
                if (STATIONARY == 0) A::load(slot, a, load_at, valid);
                else if (load_tile == 0) A::load(shared + load_at * A::BYTES, a, load_at, valid);
                B::load(slot + (STATIONARY ? 0 : A::BYTES), b_of(load_tile), load_at, valid);
                load_slot = load_slot + 1 == STAGES ? 0 : load_slot + 1;
                load_at = load_at + 1 == n_steps ? 0 : load_at + 1;
                if (++load_step == n_steps) load_step = 0, load_tile++;
            }
            cp_async_commit();
        };
#pragma unroll 1
        for (int s = 0; s < STAGES - 1; s++) load_next();
        int slot = 0, at = rotate;
        const uint32_t m0 = threadIdx.x / 128 * (A_K ? 64 * 128 : A::ROWS * 128);
#pragma unroll 1
        for (int tile = 0; tile < n_tiles; tile++) {
#pragma unroll
            for (int i = 0; i < BN / 2; i++) sums[i] = 0.f;
#pragma unroll 1
            for (int step = 0; step < n_steps; step++) {
                cp_async_wait<STAGES - 2>();
                fence_shared_for_wgmma();
                wgmma_wait<0>();
                __syncthreads();
                load_next();  // into the slot of the step before, whose products are complete in both warpgroups
                const uint32_t b_at = ring + slot * STAGE_BYTES + (STATIONARY ? 0 : A::BYTES);
                const uint32_t a_at = (STATIONARY ? shared + at * A::BYTES : ring + slot * STAGE_BYTES) + m0;
                const int valid = k - at * BK;
                auto multiply = [&](int kk) {
                    Wgmma<T, BN, !A_K, !B_K>::run(sums, wgmma_matrix(a_at + kk * (A_K ? 32 : 2048), A_K ? 16 : A::ROWS * 128),
                                                  wgmma_matrix(b_at + kk * (B_K ? 32 : 2048), B_K ? 16 : B::ROWS * 128));
                };
                if (valid > BK - 16) {
                    wgmma_fence();
#pragma unroll
                    for (int kk = 0; kk < BK / 16; kk++) multiply(kk);
                } else {
#pragma unroll 1
                    for (int kk = 0; kk * 16 < valid; kk++) {
                        wgmma_fence();
                        multiply(kk);
                    }
                }
                wgmma_commit();
                slot = slot + 1 == STAGES ? 0 : slot + 1;
                at = at + 1 == n_steps ? 0 : at + 1;
            }
            wgmma_wait<0>();
#pragma unroll
            for (int i = 0; i < BN / 2; i++) asm volatile("" : "+f"(sums[i])::"memory");
            done(tile, *this);
        }
        cp_async_wait<0>();
    }
};

// Transposes the 4 x 4 words of the four lanes of a quad: the sums of a row lie two by two in its lanes, its vectors of
// eight in one. Its own inverse.
__device__ __forceinline__ void transpose_quad(uint32_t (&w)[4]) {
#pragma unroll
    for (int bit = 1; bit <= 2; bit *= 2)
#pragma unroll
        for (int pair = 0; pair < 2; pair++) {
            const int a = bit == 1 ? 2 * pair : pair, b = a + bit;
            const bool high = threadIdx.x & bit;
            const uint32_t got = __shfl_xor_sync(0xffffffffu, high ? w[a] : w[b], bit);
            if (high) w[a] = got;
            else w[b] = got;
        }
}

template <typename T, bool FORWARD, int BN, int STAGES, int STATIONARY> struct MGrouped90 {
    using S = Stream<T, true, FORWARD, BN, STAGES, STATIONARY>;
    static constexpr int SHARED_BYTES = S::A_BYTES + S::RING_BYTES + 1024;

    static __device__ __forceinline__ void run(const MGrouped& p, char* memory) {
        const uint32_t per_block = STATIONARY ? p.tiles_per_block : 1, n_blocks = (p.n_tiles + per_block - 1) / per_block;
        const RowTile rows = row_tile(p, blockIdx.x / n_blocks, BM);
        if (rows.n_rows == 0) return;
        memory += (1024 - (__cvta_generic_to_shared(memory) & 1023)) & 1023;
        const uint32_t first = blockIdx.x % n_blocks * per_block, n_tiles = min(per_block, p.n_tiles - first);
        const T* weight = static_cast<const T*>(p.weights[rows.group]);
        const Operand<T> a{static_cast<const T*>(p.x) + int64_t(rows.row) * p.x_stride, p.x_stride, int(rows.n_rows), p.x_vector != 0};
        // Rows of one weight begin at different tiles or steps: see Stream::run.
        const uint32_t m_tile = blockIdx.x / n_blocks, n_steps = (p.k + BK - 1) / BK;
        auto column_of = [&](int tile) { return (first + (tile + m_tile) % n_tiles) * BN; };
        auto b_of = [&](int tile) {
            const uint32_t n0 = column_of(tile);
            return Operand<T>{FORWARD ? weight + int64_t(n0) * p.k : weight + n0, FORWARD ? p.k : p.n, min(int(p.n - n0), BN), p.w_vector != 0};
        };
        S stream;
        const int rotate = STATIONARY ? 0 : int(m_tile * 5 % n_steps);
        stream.run(uint32_t(__cvta_generic_to_shared(memory)), a, b_of, int(n_tiles), int(p.k), rotate, [&](int tile, const S& s) {
            const uint32_t n0 = column_of(tile);
            const int n_valid = min(int(p.n - n0), BN), quad = threadIdx.x % 4;
            T* y = static_cast<T*>(p.y) + int64_t(rows.row) * p.y_stride + n0;
            const float* bias = p.biases ? p.biases + int64_t(rows.group) * p.n + n0 : nullptr;
#pragma unroll
            for (int block = 0; block < (S::NT + 3) / 4; block++) {
                const int n = n_valid - block * 32 - quad * 8;  // elements of this lane's vector that exist
                uint32_t words[2][4];
#pragma unroll
                for (int half = 0; half < 2; half++)
#pragma unroll
                    for (int j = 0; j < 4; j++) words[half][j] = 0;
                if (p.add) {
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        const int row = S::row(half);
                        const T* from = y + row * p.y_stride + block * 32 + quad * 8;
                        if (row < int(rows.n_rows) && n > 0) {
                            const Vec<T, 8> old = p.y_vector && n >= 8 ? load_vec<true, T, 8>(from, 8) : load_vec<false, T, 8>(from, n);
#pragma unroll
                            for (int j = 0; j < 4; j++) words[half][j] = old.words[j];
                        }
                    }
#pragma unroll
                    for (int half = 0; half < 2; half++) transpose_quad(words[half]);
                }
#pragma unroll
                for (int jj = 0; jj < 4; jj++) {
                    const int j = block * 4 + jj, column = S::column(j);
                    if (j >= S::NT) continue;
                    float b0 = 0.f, b1 = 0.f;
                    if (bias && column < n_valid) b0 = __ldg(bias + column);
                    if (bias && column + 1 < n_valid) b1 = __ldg(bias + column + 1);
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        const float v0 = s.sums[4 * j + 2 * half] + b0 + word_to_f32<T>(words[half][jj], 0);
                        const float v1 = s.sums[4 * j + 2 * half + 1] + b1 + word_to_f32<T>(words[half][jj], 1);
                        words[half][jj] = words_from_f32<T>(v0, v1);
                    }
                }
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    transpose_quad(words[half]);
                    const int row = S::row(half);
                    if (row >= int(rows.n_rows) || n <= 0) continue;
                    Vec<T, 8> v;
#pragma unroll
                    for (int j = 0; j < 4; j++) v.words[j] = words[half][j];
                    T* to = y + row * p.y_stride + block * 32 + quad * 8;
                    if (p.y_vector && n >= 8) store_vec<true, T, 8>(to, v, 8);
                    else store_vec<false, T, 8>(to, v, n);
                }
            }
        });
    }
};

template <typename T, int BN, int STAGES> struct KGrouped90 {
    using S = Stream<T, false, false, BN, STAGES, 0>;
    static constexpr int SHARED_BYTES = S::RING_BYTES + 1024;

    static __device__ __forceinline__ void run(const KGrouped& p, char* memory) {
        memory += (1024 - (__cvta_generic_to_shared(memory) & 1023)) & 1023;
        const uint32_t a0 = blockIdx.x / p.b_tiles * BM, b0 = blockIdx.x % p.b_tiles * BN, split = blockIdx.y;
        const uint32_t begin = split * p.rows_per_split, end = min(begin + p.rows_per_split, p.n_rows);
        const int a_valid = min(int(p.a_width - a0), BM), b_valid = min(int(p.b_width - b0), BN);
        const T *a = static_cast<const T*>(p.a) + a0, *b = static_cast<const T*>(p.b) + b0;
        uint32_t border = 0;
        for (uint32_t group = 0; group < p.n_groups; group++) {
            const uint32_t first = max(begin, border);
            border = offset(p.offsets, p.n_rows, group + 1);
            const uint32_t last = min(end, border);
            if (first >= last) continue;
            const Operand<T> rows_a{a + int64_t(first) * p.a_stride, p.a_stride, a_valid, p.a_vector != 0};
            const Operand<T> rows_b{b + int64_t(first) * p.b_stride, p.b_stride, b_valid, p.b_vector != 0};
            __syncthreads();  // the ring is free again
            S stream;
            stream.run(uint32_t(__cvta_generic_to_shared(memory)), rows_a, [&](int) { return rows_b; }, 1, int(last - first), 0, [&](int, const S& s) {
                float* to = p.partial + uint64_t(split + group) * p.a_width * p.b_width + a0 * p.to_a + b0 * p.to_b;
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const int row = S::row(half);
                    if (row >= a_valid) continue;
#pragma unroll
                    for (int j = 0; j < S::NT; j++) {
                        const int column = S::column(j);
                        float* at = to + row * p.to_a + column * p.to_b;
                        if (column < b_valid) at[0] = s.sums[4 * j + 2 * half];
                        if (column + 1 < b_valid) at[p.to_b] = s.sums[4 * j + 2 * half + 1];
                    }
                }
            });
        }
    }
};

}  // namespace grouped_gemm

#define M_GROUPED_90(NAME, T, FORWARD, BN, STAGES, STATIONARY, BLOCKS)                                                         \
    extern "C" __constant__ const uint32_t NAME##_shared_bytes = grouped_gemm::MGrouped90<T, FORWARD, BN, STAGES, STATIONARY>::SHARED_BYTES; \
    extern "C" __global__ void __launch_bounds__(grouped_gemm::THREADS, BLOCKS) NAME(const __grid_constant__ MGrouped p) {     \
        extern __shared__ __align__(128) char memory[];                                                                        \
        grouped_gemm::MGrouped90<T, FORWARD, BN, STAGES, STATIONARY>::run(p, memory);                                          \
    }
#define K_GROUPED_90(NAME, T, BN, STAGES, BLOCKS)                                                                              \
    extern "C" __constant__ const uint32_t NAME##_shared_bytes = grouped_gemm::KGrouped90<T, BN, STAGES>::SHARED_BYTES;        \
    extern "C" __global__ void __launch_bounds__(grouped_gemm::THREADS, BLOCKS) NAME(const __grid_constant__ KGrouped p) {     \
        extern __shared__ __align__(128) char memory[];                                                                        \
        grouped_gemm::KGrouped90<T, BN, STAGES>::run(p, memory);                                                               \
    }
