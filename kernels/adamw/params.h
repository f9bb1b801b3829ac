// Arguments of the optimiser, as crates/mom-kernels/src/ops/adamw/abi.rs has them: up to 32 tensors a launch.
#pragma once
#include <cuda/std/cstddef>
#include <cuda/std/cstdint>

constexpr int MAX_TENSORS = 32;

struct Tensor {
    const void* grad;              // of the gradients' type
    float *master, *first, *second;
    void* weight;                  // of the weights' type, a copy of master; or null
    cuda::std::uint64_t len;
    float weight_decay;
    cuda::std::uint32_t first_block;
};
static_assert(sizeof(Tensor) == 56 && offsetof(Tensor, len) == 40 && offsetof(Tensor, first_block) == 52);

// What a captured graph reads again at each launch.
struct StepRecord {
    float lr;
    cuda::std::uint32_t step;  // from 1
    float skip_above;          // a larger norm makes every weight none, if `skipped` is given; 0: only one that is not finite
};
static_assert(sizeof(StepRecord) == 12 && offsetof(StepRecord, skip_above) == 8);

struct AdamW {
    Tensor tensors[MAX_TENSORS];
    const float* norm;              // global norm of the gradients, or null: no clipping
    const StepRecord* record;       // or null: lr and corrections below
    cuda::std::uint32_t* skipped;   // [1], or null: a norm that is not finite makes every weight none
    double log_beta1, log_beta2;    // with a record
    cuda::std::uint32_t n_tensors, tells;  // tells: this launch is the one that counts a skipped step
    float max_norm, lr, beta1, beta2, eps, correction1, correction2;  // corrections: 1 - beta^step
    cuda::std::uint32_t unused;
};
static_assert(sizeof(AdamW) == 56 * 32 + 80 && offsetof(AdamW, norm) == 1792 && offsetof(AdamW, log_beta1) == 1816);
static_assert(offsetof(AdamW, max_norm) == 1840);

constexpr int MAX_GRADS = 160;

struct Grad {
    const void* grad;
    cuda::std::uint64_t len;
    cuda::std::uint32_t first_block, unused;
};
static_assert(sizeof(Grad) == 24);

struct Squares {
    Grad grads[MAX_GRADS];
    float* partial;  // one sum of squares a block
    cuda::std::uint32_t n_grads, unused;
};
static_assert(sizeof(Squares) == 24 * 160 + 16 && offsetof(Squares, n_grads) == 3848);

struct NormTotal {
    const float* partial;
    float* norm;
    cuda::std::uint64_t n;
};
static_assert(sizeof(NormTotal) == 24);
