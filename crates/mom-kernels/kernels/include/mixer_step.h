// Arguments of the kernels of a decoding step, as crates/mom-kernels/src/ops/mixer/cuda/step/abi.rs has them. Matrices are dense.
#pragma once
#include <cuda/std/cstddef>
#include <cuda/std/cstdint>

// Norm, in_proj, conv, and each block's share of x_proj.
struct StepIn {
    const void* x;            // (rows, d_model)
    const float* norm;        // (d_model)
    const void* in_proj;      // (2 d_inner, d_model)
    const float* in_bias;     // (2 d_inner) or null
    const float* conv_weight; // (d_inner, d_conv)
    const float* conv_bias;   // (d_inner) or null
    float* window;            // (rows, d_conv - 1, d_inner), in and out
    const void* x_proj;       // (width, d_inner)
    void* u;                  // (rows, d_inner)
    void* z;                  // (rows, d_inner)
    float* partial;           // (rows, blocks, padded)
    cuda::std::uint32_t rows, d_model, d_inner, d_conv;
    cuda::std::uint32_t width, padded;  // dt_rank + 2 d_state, and that rounded up to 16
    float eps;
    cuda::std::uint32_t unused;
};
static_assert(sizeof(StepIn) == 120 && offsetof(StepIn, partial) == 80 && offsetof(StepIn, rows) == 88);
static_assert(offsetof(StepIn, width) == 104 && offsetof(StepIn, eps) == 112);

// dt_proj, the scan's step, the gate.
struct StepScan {
    const float* partial;   // (rows, n_partials, padded)
    const void* u;          // (rows, d_inner)
    const void* z;          // (rows, d_inner)
    const void* dt_proj;    // (d_inner, dt_rank)
    const float* dt_bias;   // (d_inner) or null
    const float* a_log;     // (d_inner, d_state)
    const float* d_skip;    // (d_inner)
    float* state;           // (rows, d_inner, d_state), in and out
    void* y;                // (rows, d_inner)
    cuda::std::uint32_t n_partials, padded, d_inner, d_state, dt_rank;
    cuda::std::uint32_t channels;   // of a block, a multiple of 32
    cuda::std::uint32_t dt_vector;  // not 0: rows of dt_proj are read by 16 bytes
    cuda::std::uint32_t unused;
};
static_assert(sizeof(StepScan) == 104 && offsetof(StepScan, y) == 64 && offsetof(StepScan, dt_vector) == 96);

// out = x W^T + bias: out_proj, added to the residual in place, or the head behind its norm, in f32.
struct StepProduct {
    const void* x;        // (rows, k)
    const float* norm;    // (k), the head's
    const void* weight;   // (n, k)
    const float* bias;    // (n) or null
    void* out;            // (rows, n)
    cuda::std::uint32_t rows, n, k;
    float eps;
};
static_assert(sizeof(StepProduct) == 56 && offsetof(StepProduct, rows) == 40 && offsetof(StepProduct, eps) == 52);
