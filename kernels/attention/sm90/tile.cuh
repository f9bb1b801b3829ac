// How the kernels of compute capability 9.0 share a block's rows: two warpgroups of 64, a warp has one fragment of 16. Products are wgmma's: of
// rows as they lie in shared memory, whose permutation is that of 128-byte swizzling, or of weights in registers.
#pragma once
#include "../../common/wgmma.cuh"
#include "../tile.cuh"

namespace attention {
namespace sm90 {

constexpr int F = 1, ROWS = 64, D = 64;  // fragments of a warp; rows of a warpgroup; elements of a row
constexpr int BLOCK = THREADS<F>;
template <typename T> using Own = Rows<T, OWN, D, BLOCK>;
template <typename T> using Met = Rows<T, MET, D, BLOCK>;

__device__ __forceinline__ int own_rows() { return int(threadIdx.x) / WARPGROUP * ROWS; }

// sums = own rows times met rows, along D. Begins; `wgmma_wait` ends it. Own rows are read from shared memory each time: where they were kept
// in registers, the assembler (12.4 to 13.0) took those registers for the weights too.
template <typename T> __device__ __forceinline__ void scores(float (&sums)[MET / 2], uint32_t own, uint32_t met) {
    wgmma_fence();
#pragma unroll
    for (int kk = 0; kk < D / 16; kk++)
        Wgmma<T, MET, false, false>::run(sums, wgmma_matrix(own + own_rows() * D * 2 + kk * 32, 16), wgmma_matrix(met + kk * 32, 16), kk > 0);
    wgmma_commit();
}

// sums += weights times met rows, along those. Begins.
template <typename T> __device__ __forceinline__ void weigh(float (&sums)[D / 2], const uint32_t (&weights)[MET / 16][4], uint32_t met) {
    wgmma_fence();
#pragma unroll
    for (int kk = 0; kk < MET / 16; kk++) wgmma_n64<T, true>(sums, weights[kk], wgmma_matrix(met + kk * 16 * D * 2, 16), 1);
    wgmma_commit();
}

// Sums become a left operand: rounded to T.
template <typename T> __device__ __forceinline__ void as_left(uint32_t (&a)[MET / 16][4], const float (&sums)[MET / 2]) {
#pragma unroll
    for (int kk = 0; kk < MET / 16; kk++)
#pragma unroll
        for (int i = 0; i < 4; i++) a[kk][i] = words_from_f32<T>(sums[8 * kk + 2 * i], sums[8 * kk + 2 * i + 1]);
}

template <typename T>
__device__ __forceinline__ void store(uint32_t shared, const float (&sums)[D / 2], const float (&scale)[2], void* to, uint32_t stride,
                                      const AttentionInputs& in, const Place& place) {
    float fragments[F][D / 8][4], scales[F][2] = {{scale[0], scale[1]}};
#pragma unroll
    for (int j = 0; j < D / 2; j++) fragments[0][j / 4][j % 4] = sums[j];
    store_rows<T, D, F>(shared, fragments, scales, to, stride, in, place);
}

}  // namespace sm90
}  // namespace attention
