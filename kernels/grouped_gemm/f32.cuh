// The f32 tiles: multiply-adds, for tensor cores round f32 operands to 10 bits. BM x BN tiles, 8 x 4 sums a thread.
#pragma once
#include "k_grouped.cuh"
#include "m_grouped.cuh"

namespace grouped_gemm {

constexpr int F32_BN = 64, F32_BK = 16;

struct F32Shared {
    float a[F32_BK][BM + 4], b[F32_BK][F32_BN + 4];
};

// EXTENT x F32_BK of an operand, into [k][extent].
template <bool K_MAJOR, int EXTENT, int PAD>
__device__ __forceinline__ void f32_load(float (&to)[F32_BK][PAD], const Operand<float>& from, int k0, int k) {
    for (int i = threadIdx.x; i < EXTENT * F32_BK; i += THREADS) {
        const int e = K_MAJOR ? i / F32_BK : i % EXTENT, kk = K_MAJOR ? i % F32_BK : i / EXTENT;
        const bool valid = e < from.valid && k0 + kk < k;
        to[kk][e] = valid ? from.at[(K_MAJOR ? e : k0 + kk) * from.stride + (K_MAJOR ? k0 + kk : e)] : 0.f;
    }
}

// sums[i][j] is at row 8 (t / 16) + i, column 4 (t % 16) + j.
template <bool A_K, bool B_K>
__device__ __forceinline__ void f32_product(F32Shared& s, const Operand<float>& a, const Operand<float>& b, int k, float (&sums)[8][4]) {
    const int row = threadIdx.x / 16 * 8, column = threadIdx.x % 16 * 4;
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) sums[i][j] = 0.f;
    for (int k0 = 0; k0 < k; k0 += F32_BK) {
        f32_load<A_K, BM>(s.a, a, k0, k);
        f32_load<B_K, F32_BN>(s.b, b, k0, k);
        __syncthreads();
#pragma unroll
        for (int kk = 0; kk < F32_BK; kk++) {
            float x[8], y[4];
#pragma unroll
            for (int i = 0; i < 8; i++) x[i] = s.a[kk][row + i];
#pragma unroll
            for (int j = 0; j < 4; j++) y[j] = s.b[kk][column + j];
#pragma unroll
            for (int i = 0; i < 8; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) sums[i][j] = fmaf(x[i], y[j], sums[i][j]);
        }
        __syncthreads();
    }
}

template <bool FORWARD> __device__ __forceinline__ void f32_m_grouped(const MGrouped& p, F32Shared& s) {
    const uint32_t n0 = blockIdx.x % p.n_tiles * F32_BN;
    const RowTile tile = row_tile(p, blockIdx.x / p.n_tiles, BM);
    if (tile.n_rows == 0) return;
    const int n_valid = min(int(p.n - n0), F32_BN);
    const float* weight = static_cast<const float*>(p.weights[tile.group]);
    const Operand<float> a{static_cast<const float*>(p.x) + int64_t(tile.row) * p.x_stride, p.x_stride, int(tile.n_rows), false};
    const Operand<float> b{FORWARD ? weight + int64_t(n0) * p.k : weight + n0, FORWARD ? p.k : p.n, n_valid, false};
    float sums[8][4];
    f32_product<true, FORWARD>(s, a, b, int(p.k), sums);
    const int row = threadIdx.x / 16 * 8, column = threadIdx.x % 16 * 4;
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if (row + i >= int(tile.n_rows) || column + j >= n_valid) continue;
            float* y = static_cast<float*>(p.y) + int64_t(tile.row + row + i) * p.y_stride + n0 + column + j;
            const float bias = p.biases ? p.biases[int64_t(tile.group) * p.n + n0 + column + j] : 0.f;
            *y = (p.add ? *y : 0.f) + (sums[i][j] + bias);
        }
}

__device__ __forceinline__ void f32_k_grouped(const KGrouped& p, F32Shared& s) {
    const uint32_t a0 = blockIdx.x / p.b_tiles * BM, b0 = blockIdx.x % p.b_tiles * F32_BN, split = blockIdx.y;
    const int a_valid = min(int(p.a_width - a0), BM), b_valid = min(int(p.b_width - b0), F32_BN);
    const float *a = static_cast<const float*>(p.a) + a0, *b = static_cast<const float*>(p.b) + b0;
    const int row = threadIdx.x / 16 * 8, column = threadIdx.x % 16 * 4;
    segments(p, split, [&](const Segment& segment) {
        float sums[8][4];
        f32_product<false, false>(s, {a + int64_t(segment.first) * p.a_stride, p.a_stride, a_valid, false},
                                  {b + int64_t(segment.first) * p.b_stride, p.b_stride, b_valid, false},
                                  int(segment.last - segment.first), sums);
        float* to = segment.whole ? static_cast<float*>(p.grads[segment.group])
                                  : p.partial + uint64_t(split + segment.group) * p.a_width * p.b_width;
        to += a0 * p.to_a + b0 * p.to_b;
#pragma unroll
        for (int i = 0; i < 8; i++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                if (row + i < a_valid && column + j < b_valid) to[(row + i) * p.to_a + (column + j) * p.to_b] = sums[i][j];
    });
}

}  // namespace grouped_gemm
