// Arguments of the optimiser, as crates/mom-kernels/src/cuda/adamw.rs has them: up to 32 tensors a launch.
#pragma once
#include <cuda/std/cstddef>
#include <cuda/std/cstdint>

constexpr int MAX_TENSORS = 32;

struct Tensor {
    const void* grad;              // of the element type
    float *master, *first, *second;
    void* weight;                  // of the element type, a copy of master; or null
    cuda::std::uint64_t len;
    float weight_decay;
    cuda::std::uint32_t first_block;
};
static_assert(sizeof(Tensor) == 56 && offsetof(Tensor, len) == 40 && offsetof(Tensor, first_block) == 52);

struct AdamW {
    Tensor tensors[MAX_TENSORS];
    const float* norm;  // global norm of the gradients, or null: no clipping
    float* partial;     // norm: one sum of squares a block
    cuda::std::uint32_t n_tensors;
    float max_norm, lr, beta1, beta2, eps, correction1, correction2;  // corrections: 1 - beta^step
};
static_assert(sizeof(AdamW) == 56 * 32 + 48 && offsetof(AdamW, norm) == 1792 && offsetof(AdamW, max_norm) == 1812);

struct NormTotal {
    const float* partial;
    float* norm;
    cuda::std::uint64_t n;
};
static_assert(sizeof(NormTotal) == 24);
