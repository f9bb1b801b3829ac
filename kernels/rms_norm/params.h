// Arguments of the norm, as crates/mom-kernels/src/ops/rms_norm/cuda/abi.rs has them. Strides in bytes.
#pragma once
#include <cuda/std/cstddef>
#include <cuda/std/cstdint>

struct NormForward {
    const void *x, *residual;  // rows; residual may be null
    const float* weight;
    void *y, *sum;  // rows; sum = x + residual, null exactly where residual is
    cuda::std::uint32_t x_stride, residual_stride, y_stride, sum_stride;
    cuda::std::uint32_t n_rows, width;
    float eps;
    cuda::std::uint32_t team;  // warps of a row, where it is held
};
static_assert(sizeof(NormForward) == 72 && offsetof(NormForward, x_stride) == 40 && offsetof(NormForward, eps) == 64);

struct NormBackward {
    const void *x, *grad_y, *grad_sum;  // rows; grad_sum, added to the result, may be null
    const float* weight;
    void* grad_x;    // rows
    float* partial;  // (chunks or blocks, width)
    cuda::std::uint32_t x_stride, grad_y_stride, grad_sum_stride, grad_x_stride;
    cuda::std::uint32_t n_rows, width;
    float eps;
    cuda::std::uint32_t team;  // warps of a row, where it is held
};
static_assert(sizeof(NormBackward) == 80 && offsetof(NormBackward, partial) == 40 && offsetof(NormBackward, eps) == 72);

struct NormWeight {
    const float* partial;  // (n_partial, width)
    float* grad_weight;    // [width]
    cuda::std::uint32_t n_partial, width;
};
static_assert(sizeof(NormWeight) == 24 && offsetof(NormWeight, n_partial) == 16);
