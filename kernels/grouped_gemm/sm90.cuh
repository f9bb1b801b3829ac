// The grouped products on compute capability 9.0: one thread asks for bulk copies into a ring of shared memory, two
// warpgroups multiply by wgmma what has arrived, 64 rows of the tile each, and write while the next tile is on its way.
//
// m_grouped: blocks stay and take tiles in turn. Where the sum is short (dt_proj forward, x_proj's input gradient) a block
// takes a few column tiles of the same rows, which stay in shared memory meanwhile (STATIONARY), and only weights are
// loaded for each. A copy may bring rows of the next modality behind those of a tile: they are multiplied, and not written.
// k_grouped: rows of the next modality would enter the sum, and are zeroed in shared memory.
#pragma once
#include "k_grouped.cuh"
#include "m_grouped.cuh"
#include "tma.cuh"
#include "wgmma.cuh"

namespace grouped_gemm {

constexpr int CONSUMERS = 256;
constexpr int PANEL = 64;  // elements of a row of a box: 128 bytes, which the copy engine permutes as wgmma reads them

// Threads of a block, of which BLOCKS are on a multiprocessor at a time. Alone there, a block has a whole warpgroup for the
// thread that asks for copies, which leaves its registers to the two that multiply.
template <int BLOCKS> constexpr int THREADS_90 = CONSUMERS + (BLOCKS == 1 ? 128 : 32);
template <int BLOCKS> __device__ __forceinline__ void take_registers() {
    if constexpr (BLOCKS == 1) asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
}
template <int BLOCKS> __device__ __forceinline__ void give_registers() {
    if constexpr (BLOCKS == 1) asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
}

// 16 rows and 64 columns on their way out, of each warp.
constexpr int OUT_BOX_BYTES = 16 * 128, OUT_BYTES = CONSUMERS / 32 * OUT_BOX_BYTES;

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

    // Starts the product, which is the first or adds to what is there; the caller waits. Past the end of the sum there are
    // zeros: a branch around them would make every instruction wait for the one before.
    static __device__ __forceinline__ void start(float (&sums)[BN / 2], uint32_t a, uint32_t b, bool add) {
        wgmma_fence();
#pragma unroll
        for (int kk = 0; kk < BK / 16; kk++)
            Wgmma<T, BN, !A_K, !B_K>::run(sums, wgmma_matrix(a + kk * (A_K ? 32 : 2048), A_K ? 16 : BK * 128),
                                          wgmma_matrix(b + kk * (B_K ? 32 : 2048), B_K ? 16 : BK * 128), add || kk > 0);
        wgmma_commit();
    }
};

// The products are complete, and the compiler reads no sum before.
template <int BN> __device__ __forceinline__ void finish(float (&sums)[BN]) {
    wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < BN; i++) asm volatile("" : "+f"(sums[i])::"memory");
}

// STATIONARY: steps of the rows that stay; 0: they go through the ring as well. ROW_SLOTS: places for rows that stay.
template <typename T, bool FORWARD, int BN, int STAGES, int STATIONARY, int ROW_SLOTS, int BLOCKS> struct MGrouped90Tile {
    using S = Step<T, true, FORWARD, BN>;
    static constexpr int STAGE_BYTES = S::B_BYTES + (STATIONARY ? 0 : S::A_BYTES), ROW_BYTES = STATIONARY * S::A_BYTES;
    static constexpr int RING = ROW_SLOTS * ROW_BYTES, OUT = RING + STAGES * STAGE_BYTES, BARRIERS = OUT + OUT_BYTES;
    static constexpr int SHARED_BYTES = BARRIERS + 16 * (STAGES + ROW_SLOTS);
    static_assert(S::B_BYTES % 1024 == 0 && SHARED_BYTES <= 232448);

    // The barriers of a slot: filled, and free.
    static __device__ __forceinline__ uint32_t full(uint32_t shared, uint32_t slot) { return shared + BARRIERS + 16 * slot; }
    static __device__ __forceinline__ uint32_t empty(uint32_t shared, uint32_t slot) { return shared + BARRIERS + 16 * slot + 8; }

    static __device__ __forceinline__ void run(const MGrouped90& p, char* memory) {
        const uint32_t shared = uint32_t(__cvta_generic_to_shared(memory));
        if (threadIdx.x == 0) {
            for (int i = 0; i < STAGES + ROW_SLOTS; i++) {
                barrier_init(full(shared, i), 1);
                barrier_init(empty(shared, i), CONSUMERS / 32);
            }
            barrier_init_fence();
        }
        __syncthreads();
        if (threadIdx.x < CONSUMERS) {
            take_registers<BLOCKS>();
            consume(p, shared);
        } else {
            give_registers<BLOCKS>();
            if (threadIdx.x == CONSUMERS) produce(p, shared);
        }
    }

    // Calls `each(rows, first, last)` for the rows of this block and their column tiles. Blocks that run at the same time
    // share rows and columns, and write whole rows: bands of rows, in each all columns.
    template <typename Each> static __device__ __forceinline__ void tiles(const MGrouped90& p, const Each& each) {
        constexpr uint32_t BAND = STATIONARY ? 1 : 8;
        const uint32_t m_tiles = (p.n_rows + BM - 1) / BM + p.n_groups - 1, per = STATIONARY ? p.tiles_at_once : 1;
        const uint32_t n_parts = (p.n_tiles + per - 1) / per;
        for (uint32_t i = blockIdx.x; i < m_tiles * n_parts; i += gridDim.x) {
            const uint32_t band = i / (BAND * n_parts), rest = i % (BAND * n_parts), height = min(BAND, m_tiles - band * BAND);
            const RowTile rows = row_tile(p, band * BAND + rest % height, BM);
            const uint32_t first = rest / height * per;
            if (rows.n_rows > 0) each(rows, first, min(first + per, p.n_tiles));
        }
    }

    static __device__ __forceinline__ void produce(const MGrouped90& p, uint32_t shared) {
        const int n_steps = int(p.k + BK - 1) / BK;
        Turn<STAGES> turn;
        Turn<ROW_SLOTS ? ROW_SLOTS : 1> row_turn;
        tiles(p, [&](const RowTile& rows, uint32_t first, uint32_t last) {
            const TensorMap& weight = p.weights[rows.group];
            if constexpr (STATIONARY != 0) {
                const uint32_t barrier = full(shared, STAGES + row_turn.slot), to = shared + row_turn.slot * ROW_BYTES;
                barrier_wait(empty(shared, STAGES + row_turn.slot), row_turn.parity ^ 1);
                barrier_expect(barrier, n_steps * S::A_BYTES);
                for (int step = 0; step < n_steps; step++) load_box(to + step * S::A_BYTES, p.x, step * BK, int(rows.row), barrier);
                row_turn.next();
            }
            for (uint32_t tile = first; tile < last; tile++) {
                const int n0 = int(tile) * BN;
                for (int step = 0; step < n_steps; step++, turn.next()) {
                    uint32_t to = shared + RING + turn.slot * STAGE_BYTES;
                    const uint32_t barrier = full(shared, turn.slot);
                    barrier_wait(empty(shared, turn.slot), turn.parity ^ 1);
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
        });
    }

    static __device__ __forceinline__ void consume(const MGrouped90& p, uint32_t shared) {
        const int n_steps = int(p.k + BK - 1) / BK, lane = threadIdx.x % 32;
        Turn<STAGES> turn;
        Turn<ROW_SLOTS ? ROW_SLOTS : 1> row_turn;
        tiles(p, [&](const RowTile& rows, uint32_t first, uint32_t last) {
            if constexpr (STATIONARY != 0) barrier_wait(full(shared, STAGES + row_turn.slot), row_turn.parity);
#pragma unroll 1
            for (uint32_t tile = first; tile < last; tile++) {
                float sums[BN / 2];
                uint32_t before = 0;
#pragma unroll 1
                for (int step = 0; step < n_steps; step++, turn.next()) {
                    barrier_wait(full(shared, turn.slot), turn.parity);
                    const uint32_t slot = shared + RING + turn.slot * STAGE_BYTES;
                    const uint32_t a = STATIONARY ? shared + row_turn.slot * ROW_BYTES + step * S::A_BYTES : slot;
                    S::start(sums, a + S::a_offset(), STATIONARY ? slot : slot + S::A_BYTES, step > 0);
                    if (step > 0) {
                        wgmma_wait<1>();
                        if (lane == 0) barrier_arrive(empty(shared, before));
                    }
                    before = turn.slot;
                }
                finish(sums);
                if (lane == 0) {
                    barrier_arrive(empty(shared, before));
                    if (STATIONARY != 0 && tile + 1 == last) barrier_arrive(empty(shared, STAGES + row_turn.slot));
                }
                write(p, shared + OUT, rows, int(tile) * BN, sums);
            }
            row_turn.next();
        });
    }

    // Each warp writes its 16 rows, 64 columns at a time, by way of shared memory: whole lines leave.
    static __device__ __forceinline__ void write(const MGrouped90& p, uint32_t boxes, const RowTile& rows, int n0, float (&sums)[BN / 2]) {
        const int lane = threadIdx.x % 32, row0 = threadIdx.x / 32 * 16, n_rows = int(rows.n_rows) - row0;
        if (n_rows <= 0) return;
        if (p.biases) {
            const float* bias = p.biases + int64_t(rows.group) * p.n;
#pragma unroll
            for (int j = 0; j < BN / 8; j++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const int column = n0 + j * 8 + lane % 4 * 2 + i;
                    const float b = column < int(p.n) ? __ldg(bias + column) : 0.f;
                    sums[4 * j + i] += b;
                    sums[4 * j + 2 + i] += b;
                }
        }
        // Vectors of 8: this lane's places in the box and in memory, rows 4 apart; and those of its 8 x 8 matrices.
        const uint32_t box = boxes + threadIdx.x / 32 * OUT_BOX_BYTES;
        const int row = lane / 8, chunk = lane % 8;
        const uint32_t place = box + row * 128, swizzle = (chunk ^ row) << 4;  // of rows 4 further: ^ 64
        const uint32_t matrix = box + lane % 16 * 128, matrix_row = lane % 8;
        T* y = static_cast<T*>(p.to) + (int64_t(rows.row) + row0 + row) * p.y_stride + n0 + chunk * 8;
#pragma unroll
        for (int panel = 0; panel < S::PANELS; panel++) {
            const int n_columns = int(p.n) - n0 - panel * PANEL;
            if (n_columns <= 0) break;
            const bool whole = n_rows >= 16 && n_columns >= PANEL;
            if (p.add) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int n = whole ? 8 : row + 4 * i < n_rows ? n_columns - chunk * 8 : 0;
                    const T* from = y + 4 * i * p.y_stride + panel * PANEL;
                    const Vec<T, 8> old = n >= 8 ? load_vec<true, T, 8>(from, 8) : load_vec<false, T, 8>(from, n);
                    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(place + 512 * i + (swizzle ^ (i % 2 * 64))),
                                 "r"(old.words[0]), "r"(old.words[1]), "r"(old.words[2]), "r"(old.words[3]) : "memory");
                }
                __syncwarp();
            }
#pragma unroll
            for (int j = 0; j < PANEL / 8; j += 2) {
                if (panel * PANEL + j * 8 >= BN) break;
                // The upper and the lower rows of a column block, then of the next one.
                const float* v = sums + (panel * PANEL / 8 + j) * 4;
                const uint32_t at = matrix + (((j + lane / 16) ^ matrix_row) << 4);
                uint32_t words[4];
                if (p.add) {
                    uint32_t old[4];
                    ldmatrix4<false>(old, at);
#pragma unroll
                    for (int i = 0; i < 4; i++)
                        words[i] = words_from_f32<T>(v[2 * i] + word_to_f32<T>(old[i], 0), v[2 * i + 1] + word_to_f32<T>(old[i], 1));
                } else {
#pragma unroll
                    for (int i = 0; i < 4; i++) words[i] = words_from_f32<T>(v[2 * i], v[2 * i + 1]);
                }
                store_matrix4(at, words);
            }
            __syncwarp();
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int n = whole ? 8 : row + 4 * i < n_rows ? n_columns - chunk * 8 : 0;
                Vec<T, 8> v;
                asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                             : "=r"(v.words[0]), "=r"(v.words[1]), "=r"(v.words[2]), "=r"(v.words[3])
                             : "r"(place + 512 * i + (swizzle ^ (i % 2 * 64))) : "memory");
                T* to = y + 4 * i * p.y_stride + panel * PANEL;
                if (n >= 8) store_vec<true, T, 8>(to, v, 8);
                else store_vec<false, T, 8>(to, v, n);
            }
            __syncwarp();
        }
    }
};

template <typename T, int BN, int STAGES, int BLOCKS> struct KGrouped90Tile {
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
        if (threadIdx.x < CONSUMERS) {
            take_registers<BLOCKS>();
            consume(p, shared, full, empty);
        } else {
            give_registers<BLOCKS>();
            if (threadIdx.x == CONSUMERS) produce(p, shared, full, empty);
        }
    }

    static __device__ __forceinline__ void produce(const KGrouped90& p, uint32_t shared, uint32_t full, uint32_t empty) {
        const int a0 = int(blockIdx.x / p.b_tiles) * BM, b0 = int(blockIdx.x % p.b_tiles) * BN;
        Turn<STAGES> turn;
        segments(p, [&](uint32_t, uint32_t first, uint32_t last) {
            for (uint32_t row = first; row < last; row += BK, turn.next()) {
                const uint32_t a = shared + turn.slot * STAGE_BYTES, b = a + S::A_BYTES, barrier = full + 8 * turn.slot;
                barrier_wait(empty + 8 * turn.slot, turn.parity ^ 1);
                barrier_expect(barrier, STAGE_BYTES);
#pragma unroll
                for (int i = 0; i < BM / PANEL; i++) load_box(a + i * BK * 128, p.a, a0 + i * PANEL, int(row), barrier);
#pragma unroll
                for (int i = 0; i < S::PANELS; i++) load_box(b + i * BK * 128, p.b, b0 + i * PANEL, int(row), barrier);
            }
        });
    }

    static __device__ __forceinline__ void consume(const KGrouped90& p, uint32_t shared, uint32_t full, uint32_t empty) {
        const uint32_t a0 = blockIdx.x / p.b_tiles * BM, b0 = blockIdx.x % p.b_tiles * BN;
        const int lane = threadIdx.x % 32, a_valid = min(int(p.a_width - a0), BM), b_valid = min(int(p.b_width - b0), BN);
        Turn<STAGES> turn;
        segments(p, [&](uint32_t group, uint32_t first, uint32_t last) {
            float sums[BN / 2];
            uint32_t before = 0;
#pragma unroll 1
            for (uint32_t row = first; row < last; row += BK, turn.next()) {
                barrier_wait(full + 8 * turn.slot, turn.parity);
                const uint32_t a = shared + turn.slot * STAGE_BYTES;
                if (last - row < BK) keep_rows(a, int(last - row));
                S::start(sums, a + S::a_offset(), a + S::A_BYTES, row > first);
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

#define M_GROUPED_90(NAME, T, FORWARD, BN, STAGES, STATIONARY, ROW_SLOTS, BLOCKS)                                              \
    extern "C" __constant__ const uint32_t NAME##_shared_bytes = grouped_gemm::MGrouped90Tile<T, FORWARD, BN, STAGES, STATIONARY, ROW_SLOTS, BLOCKS>::SHARED_BYTES; \
    extern "C" __global__ void __launch_bounds__(grouped_gemm::THREADS_90<BLOCKS>, BLOCKS) NAME(const __grid_constant__ MGrouped90 p) { \
        extern __shared__ __align__(1024) char memory[];                                                                       \
        grouped_gemm::MGrouped90Tile<T, FORWARD, BN, STAGES, STATIONARY, ROW_SLOTS, BLOCKS>::run(p, memory);                                      \
    }
#define K_GROUPED_90(NAME, T, BN, STAGES, BLOCKS)                                                                              \
    extern "C" __constant__ const uint32_t NAME##_shared_bytes = grouped_gemm::KGrouped90Tile<T, BN, STAGES, BLOCKS>::SHARED_BYTES;    \
    extern "C" __global__ void __launch_bounds__(grouped_gemm::THREADS_90<BLOCKS>, BLOCKS) NAME(const __grid_constant__ KGrouped90 p) { \
        extern __shared__ __align__(1024) char memory[];                                                                       \
        grouped_gemm::KGrouped90Tile<T, BN, STAGES, BLOCKS>::run(p, memory);                                                           \
    }
