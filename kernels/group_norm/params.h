// Arguments of group norm and layer norm, as crates/mom-kernels/src/ops/group_norm has them.
#pragma once
#include <cuda/std/cstddef>
#include <cuda/std/cstdint>

struct GroupNorm {
    const void* x;        // (batch, n_rows, n_channels)
    void* y;              // the same
    const float *weight, *bias;  // [n_channels]
    float* partial;       // (batch, n_chunks, n_groups, 2): mean, and sum of squares around it
    float* statistics;    // (batch, n_groups, 2): mean, 1 / deviation
    cuda::std::uint64_t n_rows;
    cuda::std::uint32_t n_channels, n_groups, rows_per_chunk, n_chunks;
    float eps;
    cuda::std::uint32_t activation;  // 0: none, 1: SiLU, 2: GELU by the error function
    cuda::std::uint32_t batch, unused;
};
static_assert(sizeof(GroupNorm) == 88 && offsetof(GroupNorm, n_rows) == 48 && offsetof(GroupNorm, eps) == 72);

struct GroupNormBackward {
    const void *x, *grad_y;      // (batch, n_rows, n_channels)
    void* grad_x;                // the same
    const float *weight, *bias;  // [n_channels]
    const float* statistics;     // (batch, n_groups, 2): mean, 1 / deviation
    float* partial;              // (batch, n_chunks, 2, n_channels): sums of dz, and of dz x_hat
    float* sums;                 // (batch, 2, n_channels): the same over a picture
    float* means;                // (batch, n_groups, 2): of dz weight, and of dz weight x_hat
    cuda::std::uint64_t n_rows;
    cuda::std::uint32_t n_channels, n_groups, rows_per_chunk, n_chunks;
    cuda::std::uint32_t activation, batch;  // activation: 0: none, 1: SiLU
};
static_assert(sizeof(GroupNormBackward) == 104 && offsetof(GroupNormBackward, n_rows) == 72 && offsetof(GroupNormBackward, activation) == 96);

struct LayerNorm {
    const void* x;  // (n_rows, width)
    void* y;        // the same
    const float *weight, *bias;  // [width]
    cuda::std::uint64_t n_rows;
    cuda::std::uint32_t width;
    float eps;
};
static_assert(sizeof(LayerNorm) == 48 && offsetof(LayerNorm, n_rows) == 32);
