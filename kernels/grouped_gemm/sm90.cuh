// The grouped products on compute capability 9.0: one warp asks for bulk copies into a ring of shared memory, two
// warpgroups multiply by wgmma what has arrived, 64 rows of the tile each, and write while the next tile is on its way.
//
// m_grouped: blocks stay and take tiles in turn. Where the sum is short (dt_proj forward, x_proj's input gradient) a
// block's rows stay in shared memory for all of its column tiles (STATIONARY), and only weights are loaded. A copy may
// bring rows of the next modality behind those of a tile: they are multiplied, and not written.
// k_grouped: rows of the next modality would enter the sum, and are zeroed in shared memory.
#pragma once
#include "k_grouped.cuh"
#include "m_grouped.cuh"
#include "tma.cuh"
#include "wgmma.cuh"

namespace grouped_gemm {

constexpr int CONSUMERS = 256, THREADS_90 = CONSUMERS + 32;
constexpr int PANEL = 64;  // elements of a row of a box: 128 bytes, which the copy engine permutes as wgmma reads them

// A box of 16 rows and 64 columns on its way out, one of two of each warp.
constexpr int OUT_BOX_BYTES = 16 * 128, OUT_BYTES = CONSUMERS / 32 * 2 * OUT_BOX_BYTES;

__device__ __forceinline__ void store_matrix4(uint32_t to, const uint32_t (&w)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(w[0]), "r"(w[1]), "r"(w[2]),
                 "r"(w[3]) : "memory");
}

// The two operands of a step in a slot, and their product.
template <typename T, bool A_K, bool B_K, int BN> struct Step {
    static constexpr int PANELS = (BN + PANEL - 1) / PANEL;
    static constexpr int A_BYTES = BM * 128, B_BYTES = B_K ? BN * 128 : PANELS * BK * 128;
    // The rows of this warpgroup.
    static __device__ __forceinline__ uint32_t a_offset() { return threadIdx.x / 128 * (A_K ? 64 * 128 : BK * 128); }

    // Starts the product of what exists of the step's sum; the caller waits.
    static __device__ __forceinline__ void start(float (&sums)[BN / 2], uint32_t a, uint32_t b, int valid) {
        auto multiply = [&](int kk) {
            Wgmma<T, BN, !A_K, !B_K>::run(sums, wgmma_matrix(a + kk * (A_K ? 32 : 2048), A_K ? 16 : BK * 128),
                                          wgmma_matrix(b + kk * (B_K ? 32 : 2048), B_K ? 16 : BK * 128));
        };
        wgmma_fence();
        if (valid > BK - 16) {
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
    }
};

template <int BN> __device__ __forceinline__ void zero(float (&sums)[BN]) {
#pragma unroll
    for (int i = 0; i < BN; i++) sums[i] = 0.f;
}
// The products are complete, and the compiler reads no sum before.
template <int BN> __device__ __forceinline__ void finish(float (&sums)[BN]) {
    wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < BN; i++) asm volatile("" : "+f"(sums[i])::"memory");
}

// STATIONARY: steps of the rows that stay; 0: they go through the ring as well.
template <typename T, bool FORWARD, int BN, int STAGES, int STATIONARY> struct MGrouped90Tile {
    using S = Step<T, true, FORWARD, BN>;
    static constexpr int STAGE_BYTES = S::B_BYTES + (STATIONARY ? 0 : S::A_BYTES);
    static constexpr int RING = STATIONARY * S::A_BYTES, OUT = RING + STAGES * STAGE_BYTES, BARRIERS = OUT + OUT_BYTES;
    static constexpr int SHARED_BYTES = BARRIERS + 8 * (2 * STAGES + 1);
    static_assert(S::B_BYTES % 1024 == 0 && SHARED_BYTES <= 232448);

    struct Place {
        uint32_t m, n;
    };
    // Tiles that blocks take at the same time share rows and columns: bands of rows, in each all columns.
    static __device__ __forceinline__ Place place(const MGrouped90& p, uint32_t m_tiles, uint32_t tile) {
        if constexpr (STATIONARY) return {blockIdx.x / ((p.n_tiles + p.tiles_per_block - 1) / p.tiles_per_block), tile};
        constexpr uint32_t BAND = 16;
        const uint32_t band = tile / (BAND * p.n_tiles), rest = tile % (BAND * p.n_tiles);
        const uint32_t height = min(BAND, m_tiles - band * BAND);
        return {band * BAND + rest % height, rest / height};
    }

    static __device__ __forceinline__ void run(const MGrouped90& p, char* memory) {
        const uint32_t shared = uint32_t(__cvta_generic_to_shared(memory));
        const uint32_t full = shared + BARRIERS, empty = full + 8 * STAGES, rows_full = empty + 8 * STAGES;
        if (threadIdx.x == 0) {
            for (int i = 0; i < STAGES; i++) {
                barrier_init(full + 8 * i, 1);
                barrier_init(empty + 8 * i, CONSUMERS / 32);
            }
            barrier_init(rows_full, 1);
            barrier_init_fence();
        }
        __syncthreads();
        const uint32_t m_tiles = (p.n_rows + BM - 1) / BM + p.n_groups - 1;
        uint32_t begin = blockIdx.x, end = m_tiles * p.n_tiles, by = gridDim.x;
        if constexpr (STATIONARY) {
            begin = blockIdx.x % ((p.n_tiles + p.tiles_per_block - 1) / p.tiles_per_block) * p.tiles_per_block;
            end = min(begin + p.tiles_per_block, p.n_tiles);
            by = 1;
        }
        if (threadIdx.x >= CONSUMERS) {
            if (threadIdx.x == CONSUMERS) produce(p, shared, full, empty, rows_full, m_tiles, begin, end, by);
        } else {
            consume(p, shared, full, empty, rows_full, m_tiles, begin, end, by);
        }
    }

    static __device__ __forceinline__ void produce(const MGrouped90& p, uint32_t shared, uint32_t full, uint32_t empty, uint32_t rows_full,
                                                   uint32_t m_tiles, uint32_t begin, uint32_t end, uint32_t by) {
        const int n_steps = int(p.k + BK - 1) / BK;
        Turn<STAGES> turn;
        for (uint32_t tile = begin; tile < end; tile += by) {
            const Place at = place(p, m_tiles, tile);
            const RowTile rows = row_tile(p, at.m, BM);
            if (rows.n_rows == 0) continue;
            const TensorMap& weight = p.weights[rows.group];
            const int n0 = int(at.n) * BN;
            if (STATIONARY != 0 && tile == begin) {
                barrier_expect(rows_full, n_steps * S::A_BYTES);
                for (int step = 0; step < n_steps; step++) load_box(shared + step * S::A_BYTES, p.x, step * BK, int(rows.row), rows_full);
            }
            for (int step = 0; step < n_steps; step++, turn.next()) {
                uint32_t to = shared + RING + turn.slot * STAGE_BYTES;
                const uint32_t barrier = full + 8 * turn.slot;
                barrier_wait(empty + 8 * turn.slot, turn.parity ^ 1);
                barrier_expect(barrier, STAGE_BYTES);
                if constexpr (STATIONARY == 0) {
                    load_box(to, p.x, step * BK, int(rows.row), barrier);
                    to += S::A_BYTES;
                }
                if constexpr (FORWARD) {
                    load_box(to, weight, step * BK, n0, barrier);
                } else {
#pragma unroll
                    for (int i = 0; i < S::PANELS; i++) load_box(to + i * BK * 128, weight, n0 + i * PANEL, step * BK, barrier);
                }
            }
        }
    }

    static __device__ __forceinline__ void consume(const MGrouped90& p, uint32_t shared, uint32_t full, uint32_t empty, uint32_t rows_full,
                                                   uint32_t m_tiles, uint32_t begin, uint32_t end, uint32_t by) {
        const int n_steps = int(p.k + BK - 1) / BK, lane = threadIdx.x % 32;
        Turn<STAGES> turn;
        uint32_t out = 0;
        for (uint32_t tile = begin; tile < end; tile += by) {
            const Place at = place(p, m_tiles, tile);
            const RowTile rows = row_tile(p, at.m, BM);
            if (rows.n_rows == 0) continue;
            if (STATIONARY != 0 && tile == begin) barrier_wait(rows_full, 0);
            float sums[BN / 2];
            zero(sums);
            uint32_t before = 0;
#pragma unroll 1
            for (int step = 0; step < n_steps; step++, turn.next()) {
                barrier_wait(full + 8 * turn.slot, turn.parity);
                const uint32_t slot = shared + RING + turn.slot * STAGE_BYTES;
                const uint32_t a = STATIONARY ? shared + step * S::A_BYTES : slot;
                S::start(sums, a + S::a_offset(), STATIONARY ? slot : slot + S::A_BYTES, int(p.k) - step * BK);
                if (step > 0) {
                    wgmma_wait<1>();
                    if (lane == 0) barrier_arrive(empty + 8 * before);
                }
                before = turn.slot;
            }
            finish(sums);
            if (lane == 0) barrier_arrive(empty + 8 * before);
            write(p, shared + OUT, rows, int(at.n) * BN, sums, out);
        }
        if (lane == 0) stores_have_read<0>();
    }

    // Each warp writes its 16 rows, 64 columns at a time.
    static __device__ __forceinline__ void write(const MGrouped90& p, uint32_t boxes, const RowTile& rows, int n0, const float (&sums)[BN / 2],
                                                 uint32_t& out) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row0 = warp * 16, n_rows = int(rows.n_rows) - row0;
        const float* bias = p.biases ? p.biases + int64_t(rows.group) * p.n : nullptr;
        T* y = static_cast<T*>(p.to) + (int64_t(rows.row) + row0) * p.y_stride;
        if (n_rows <= 0) return;
#pragma unroll
        for (int panel = 0; panel < S::PANELS; panel++) {
            const int column0 = n0 + panel * PANEL, n_columns = min(int(p.n) - column0, PANEL);
            if (n_columns <= 0) break;
            const uint32_t box = boxes + (warp * 2 + out) * OUT_BOX_BYTES;
            out ^= 1;
            if (lane == 0) stores_have_read<1>();
            __syncwarp();
            if (p.add) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int row = i * 4 + lane / 8, chunk = lane % 8, n = row < n_rows ? n_columns - chunk * 8 : 0;
                    const T* from = y + row * p.y_stride + column0 + chunk * 8;
                    const Vec<T, 8> old = n >= 8 ? load_vec<true, T, 8>(from, 8) : load_vec<false, T, 8>(from, n);
                    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(box + row * 128 + ((chunk ^ (row & 7)) << 4)),
                                 "r"(old.words[0]), "r"(old.words[1]), "r"(old.words[2]), "r"(old.words[3]) : "memory");
                }
                __syncwarp();
            }
#pragma unroll
            for (int j = 0; j < PANEL / 8; j += 2) {
                if (panel * PANEL + j * 8 >= BN) break;
                const int row = lane % 16, chunk = j + lane / 16;
                const uint32_t at = box + row * 128 + ((chunk ^ (row & 7)) << 4);
                uint32_t words[4] = {0, 0, 0, 0};
                if (p.add) ldmatrix4<false>(words, at);
#pragma unroll
                for (int i = 0; i < 4; i++) {  // 8 x 8 matrices: the lower rows of a column block, then the upper ones
                    const int from = (panel * PANEL / 8 + j + i / 2) * 4 + i % 2 * 2, column = column0 + (j + i / 2) * 8 + lane % 4 * 2;
                    float v0 = sums[from], v1 = sums[from + 1];
                    if (bias && column < int(p.n)) v0 += __ldg(bias + column);
                    if (bias && column + 1 < int(p.n)) v1 += __ldg(bias + column + 1);
                    if (p.add) v0 += word_to_f32<T>(words[i], 0), v1 += word_to_f32<T>(words[i], 1);
                    words[i] = words_from_f32<T>(v0, v1);
                }
                store_matrix4(at, words);
            }
            if (n_rows >= 16) {
                fence_shared();
                __syncwarp();
                if (lane == 0) store_box(p.y, column0, int(rows.row) + row0, box);
            } else {
                // The rows behind are another modality's.
                __syncwarp();
#pragma unroll 1
                for (int i = lane; i < n_rows * 8; i += 32) {
                    const int row = i / 8, chunk = i % 8, n = n_columns - chunk * 8;
                    Vec<T, 8> v;
                    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                                 : "=r"(v.words[0]), "=r"(v.words[1]), "=r"(v.words[2]), "=r"(v.words[3])
                                 : "r"(box + row * 128 + ((chunk ^ (row & 7)) << 4)));
                    T* to = y + row * p.y_stride + column0 + chunk * 8;
                    if (n >= 8) store_vec<true, T, 8>(to, v, 8);
                    else store_vec<false, T, 8>(to, v, n);
                }
            }
            if (lane == 0) commit_stores();
        }
    }
};

template <typename T, int BN, int STAGES> struct KGrouped90Tile {
    using S = Step<T, false, false, BN>;
    static constexpr int STAGE_BYTES = S::A_BYTES + S::B_BYTES, BARRIERS = STAGES * STAGE_BYTES;
    static constexpr int SHARED_BYTES = BARRIERS + 16 * STAGES;
    static_assert(SHARED_BYTES <= 232448);

    // Calls `each(group, first, last)` for the rows of each modality in this block's split.
    template <typename Each> static __device__ __forceinline__ void segments(const KGrouped90& p, const Each& each) {
        const uint32_t begin = blockIdx.y * p.rows_per_split, end = min(begin + p.rows_per_split, p.n_rows);
        uint32_t border = 0;
        for (uint32_t group = 0; group < p.n_groups; group++) {
            const uint32_t first = max(begin, border);
            border = offset(p.offsets, p.n_rows, group + 1);
            const uint32_t last = min(end, border);
            if (first < last) each(group, first, last);
        }
    }

    static __device__ __forceinline__ void run(const KGrouped90& p, char* memory) {
        const uint32_t shared = uint32_t(__cvta_generic_to_shared(memory));
        const uint32_t full = shared + BARRIERS, empty = full + 8 * STAGES;
        if (threadIdx.x == 0) {
            for (int i = 0; i < STAGES; i++) {
                barrier_init(full + 8 * i, 1);
                barrier_init(empty + 8 * i, CONSUMERS / 32);
            }
            barrier_init_fence();
        }
        __syncthreads();
        const uint32_t a0 = blockIdx.x / p.b_tiles * BM, b0 = blockIdx.x % p.b_tiles * BN;
        Turn<STAGES> turn;
        if (threadIdx.x >= CONSUMERS) {
            if (threadIdx.x > CONSUMERS) return;
            segments(p, [&](uint32_t, uint32_t first, uint32_t last) {
                for (uint32_t row = first; row < last; row += BK, turn.next()) {
                    const uint32_t a = shared + turn.slot * STAGE_BYTES, b = a + S::A_BYTES, barrier = full + 8 * turn.slot;
                    barrier_wait(empty + 8 * turn.slot, turn.parity ^ 1);
                    barrier_expect(barrier, STAGE_BYTES);
#pragma unroll
                    for (int i = 0; i < BM / PANEL; i++) load_box(a + i * BK * 128, p.a, int(a0) + i * PANEL, int(row), barrier);
#pragma unroll
                    for (int i = 0; i < S::PANELS; i++) load_box(b + i * BK * 128, p.b, int(b0) + i * PANEL, int(row), barrier);
                }
            });
            return;
        }
        const int lane = threadIdx.x % 32, a_valid = min(int(p.a_width - a0), BM), b_valid = min(int(p.b_width - b0), BN);
        segments(p, [&](uint32_t group, uint32_t first, uint32_t last) {
            float sums[BN / 2];
            zero(sums);
            uint32_t before = 0;
#pragma unroll 1
            for (uint32_t row = first; row < last; row += BK, turn.next()) {
                barrier_wait(full + 8 * turn.slot, turn.parity);
                const uint32_t a = shared + turn.slot * STAGE_BYTES;
                if (last - row < BK) keep_rows(a, int(last - row));
                S::start(sums, a + S::a_offset(), a + S::A_BYTES, BK);
                if (row > first) {
                    wgmma_wait<1>();
                    if (lane == 0) barrier_arrive(empty + 8 * before);
                }
                before = turn.slot;
            }
            finish(sums);
            if (lane == 0) barrier_arrive(empty + 8 * before);
            float* to = p.partial + uint64_t(blockIdx.y + group) * p.a_width * p.b_width + a0 * p.to_a + b0 * p.to_b;
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int row = threadIdx.x / 32 * 16 + half * 8 + lane / 4;
                if (row >= a_valid) continue;
#pragma unroll
                for (int j = 0; j < BN / 8; j++) {
                    const int column = j * 8 + lane % 4 * 2;
                    float* at = to + row * p.to_a + column * p.to_b;
                    if (column < b_valid) at[0] = sums[4 * j + 2 * half];
                    if (column + 1 < b_valid) at[p.to_b] = sums[4 * j + 2 * half + 1];
                }
            }
        });
    }

    // Zeroes the rows of a step from `valid` on, in every panel of both operands.
    static __device__ __forceinline__ void keep_rows(uint32_t step, int valid) {
        constexpr int PANELS = BM / PANEL + S::PANELS;
        const int words = (BK - valid) * 8;  // of 16 bytes
        for (int i = threadIdx.x; i < PANELS * words; i += CONSUMERS) {
            const uint32_t at = step + i / words * BK * 128 + valid * 128 + i % words * 16;
            asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(at), "r"(0) : "memory");
        }
        fence_shared();
        asm volatile("bar.sync 1, %0;" ::"n"(CONSUMERS) : "memory");
    }
};

}  // namespace grouped_gemm

#define M_GROUPED_90(NAME, T, FORWARD, BN, STAGES, STATIONARY, BLOCKS)                                                         \
    extern "C" __constant__ const uint32_t NAME##_shared_bytes = grouped_gemm::MGrouped90Tile<T, FORWARD, BN, STAGES, STATIONARY>::SHARED_BYTES; \
    extern "C" __global__ void __launch_bounds__(grouped_gemm::THREADS_90, BLOCKS) NAME(const __grid_constant__ MGrouped90 p) { \
        extern __shared__ __align__(1024) char memory[];                                                                       \
        grouped_gemm::MGrouped90Tile<T, FORWARD, BN, STAGES, STATIONARY>::run(p, memory);                                      \
    }
#define K_GROUPED_90(NAME, T, BN, STAGES, BLOCKS)                                                                              \
    extern "C" __constant__ const uint32_t NAME##_shared_bytes = grouped_gemm::KGrouped90Tile<T, BN, STAGES>::SHARED_BYTES;    \
    extern "C" __global__ void __launch_bounds__(grouped_gemm::THREADS_90, BLOCKS) NAME(const __grid_constant__ KGrouped90 p) { \
        extern __shared__ __align__(1024) char memory[];                                                                       \
        grouped_gemm::KGrouped90Tile<T, BN, STAGES>::run(p, memory);                                                           \
    }
