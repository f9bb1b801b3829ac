// A tile of a product on tensor cores: mma.sync m16n8k16 with f32 sums, operands through a ring of cp.async stages.
//
// Operands lie in shared memory as they lie in device memory, as panels of 64 elements (128 bytes) a row whose 16-byte
// chunks are permuted by the row: eight rows of one chunk are in eight different banks, so ldmatrix, transposing or not,
// has no conflict, and one loader serves all of the four layouts of a product.
#pragma once
#include "../common/dtype.cuh"
#include "../common/tensor_core.cuh"
#include "params.h"

namespace grouped_gemm {

constexpr int BM = 128, BK = 64, THREADS = 256;

__device__ __forceinline__ uint32_t offset(const uint32_t* offsets, uint32_t n_rows, uint32_t group) {
    return offsets ? offsets[group] : (group == 0 ? 0 : n_rows);
}

// One operand: in memory, and its valid part from there. K_MAJOR: rows are the tile's, columns run along the sum. Else the
// other way round.
template <typename T> struct Operand {
    const T* at;
    int64_t stride;
    int valid;    // rows or columns of the tile that exist
    bool vector;  // 16-byte loads are aligned
};

template <typename T, bool K_MAJOR, int EXTENT> struct Tile {
    static constexpr int ROWS = K_MAJOR ? EXTENT : BK;
    static constexpr int CHUNKS = K_MAJOR ? BK / 8 : EXTENT / 8;
    static constexpr int BYTES = (CHUNKS + 7) / 8 * ROWS * 128;

    static __device__ __forceinline__ uint32_t at(int row, int chunk) {
        return uint32_t((chunk >> 3) * ROWS * 128 + row * 128 + (((chunk & 7) ^ (row & 7)) << 4));
    }

    // C chunks of every row of a panel. A thread has one chunk of rows that lie a multiple of 8 apart, so that it computes
    // its addresses once: these instructions are what bounds a tile whose products are few.
    template <int C>
    static __device__ __forceinline__ void load_panel(uint32_t to, const T* from, int64_t stride, int rows, int columns, int k_valid) {
        constexpr int APART = THREADS / C;
        static_assert(THREADS % C == 0 && APART % 8 == 0);
        const int row = threadIdx.x / C, chunk = threadIdx.x % C, k_used = (k_valid + 15) & ~15;
        const int bytes = 2 * min(max(columns - chunk * 8, 0), 8);
        from += row * stride + chunk * 8;
        to += row * 128 + ((chunk ^ (row & 7)) << 4);
#pragma unroll
        for (int i = 0; i < (ROWS + APART - 1) / APART; i++) {
            // Products skip what lies past the sum by 16 or more.
            const bool used = K_MAJOR ? chunk * 8 < k_used : row + i * APART < k_used;
            if ((ROWS % APART == 0 || row + i * APART < ROWS) && used)
                cp_async(to + i * APART * 128, from + i * APART * stride, row + i * APART < rows ? bytes : 0);
        }
    }

    // Step `step` of the sum, of which `k_valid` elements exist.
    static __device__ __forceinline__ void load(uint32_t to, const Operand<T>& from, int step, int k_valid) {
        const T* base = from.at + (K_MAJOR ? int64_t(step) * BK : int64_t(step) * BK * from.stride);
        const int rows = K_MAJOR ? from.valid : k_valid, columns = K_MAJOR ? k_valid : from.valid;
        if (from.vector) {
#pragma unroll
            for (int p = 0; p < CHUNKS / 8; p++) load_panel<8>(to + p * ROWS * 128, base + p * 64, from.stride, rows, columns - p * 64, k_valid);
            constexpr int p = CHUNKS / 8;
            if constexpr (CHUNKS % 8 != 0) load_panel<CHUNKS % 8>(to + p * ROWS * 128, base + p * 64, from.stride, rows, columns - p * 64, k_valid);
        } else {
#pragma unroll 1
            for (int i = threadIdx.x; i < ROWS * CHUNKS; i += THREADS) {
                const int row = i / CHUNKS, chunk = i % CHUNKS;
                const int n = row < rows ? columns - chunk * 8 : 0;
                const Vec<T, 8> x = load_vec<false, T, 8>(base + row * from.stride + chunk * 8, n);
                asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to + at(row, chunk)), "r"(x.words[0]),
                             "r"(x.words[1]), "r"(x.words[2]), "r"(x.words[3]) : "memory");
            }
        }
    }
};

// Tile BM x BN of sum_k a[.][k] b[.][k]: eight warps, 4 x 2, of 32 x BN / 2 each.
template <typename T, bool A_K, bool B_K, int BN, int STAGES> struct Product {
    using A = Tile<T, A_K, BM>;
    using B = Tile<T, B_K, BN>;
    static constexpr int STAGE_BYTES = A::BYTES + B::BYTES, SHARED_BYTES = STAGES * STAGE_BYTES;
    static constexpr int NT = BN / 16;  // n8 tiles of a warp
    static_assert(BN % 16 == 0 && STAGE_BYTES % 128 == 0);

    float sums[2][NT][4];

    // Row and column in the tile of sums[i][j][2 * half].
    static __device__ __forceinline__ int row(int i, int half) {
        return (threadIdx.x >> 5) % 4 * 32 + i * 16 + half * 8 + (threadIdx.x & 31) / 4;
    }
    static __device__ __forceinline__ int column(int j) {
        return (threadIdx.x >> 7) * (BN / 2) + j * 8 + threadIdx.x % 4 * 2;
    }

    // All threads call it; shared memory is free again for all once it returns.
    __device__ __forceinline__ void run(uint32_t shared, const Operand<T>& a, const Operand<T>& b, int k) {
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int j = 0; j < NT; j++)
#pragma unroll
                for (int c = 0; c < 4; c++) sums[i][j][c] = 0.f;
        const int n_steps = (k + BK - 1) / BK;
#pragma unroll
        for (int s = 0; s < STAGES - 1; s++) {
            if (s < n_steps) load(shared + s * STAGE_BYTES, a, b, s, k - s * BK);
            cp_async_commit();
        }
        int from = 0, to = STAGES - 1;
        for (int s = 0; s < n_steps; s++) {
            cp_async_wait<STAGES - 2>();
            __syncthreads();
            const int next = s + STAGES - 1;
            if (next < n_steps) load(shared + to * STAGE_BYTES, a, b, next, k - next * BK);
            cp_async_commit();
            step(shared + from * STAGE_BYTES, k - s * BK);
            from = from + 1 == STAGES ? 0 : from + 1;
            to = to + 1 == STAGES ? 0 : to + 1;
        }
        cp_async_wait<0>();
        __syncthreads();
    }

    static __device__ __forceinline__ void load(uint32_t to, const Operand<T>& a, const Operand<T>& b, int s, int k) {
        A::load(to, a, s, min(k, BK));
        B::load(to + A::BYTES, b, s, min(k, BK));
    }

    __device__ __forceinline__ void step(uint32_t stage, int k) {
        const int lane = threadIdx.x & 31, m0 = (threadIdx.x >> 5) % 4 * 32, n0 = (threadIdx.x >> 7) * (BN / 2);
        const uint32_t b_stage = stage + A::BYTES;
#pragma unroll
        for (int kk = 0; kk < BK / 16; kk++) {
            if (kk * 16 >= k) break;
            uint32_t a[2][4], b[NT][2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int m = m0 + i * 16;
                ldmatrix4<!A_K>(a[i], stage + (A_K ? A::at(m + (lane & 15), kk * 2 + (lane >> 4))
                                                   : A::at(kk * 16 + (lane & 7) + (lane >> 4) * 8, m / 8 + (lane >> 3) % 2)));
            }
#pragma unroll
            for (int j = 0; j < NT; j += 2) {
                const int n = n0 + j * 8;
                const uint32_t at = b_stage + (B_K ? B::at(n + (lane & 7) + (j + 1 < NT ? lane >> 4 : 0) * 8, kk * 2 + (lane >> 3) % 2)
                                                   : B::at(kk * 16 + (lane & 15), n / 8 + (j + 1 < NT ? lane >> 4 : 0)));
                if (j + 1 < NT) ldmatrix4<!B_K>(b[j], at);
                else ldmatrix2<!B_K>(b[j], at);
            }
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int j = 0; j < NT; j++) mma<T>(sums[i][j], a[i], b[j]);
        }
    }
};

}  // namespace grouped_gemm
