// Arguments of averages of weights, as crates/mom-kernels/src/ops/weight_average.rs has them: up to 96 tensors a launch.
#pragma once
#include <cuda/std/cstddef>
#include <cuda/std/cstdint>

constexpr int MAX_TENSORS = 96;

struct Tensor {
    float* average;
    const float* weight;
    cuda::std::uint64_t len;
    cuda::std::uint32_t first_block, unused;
};
static_assert(sizeof(Tensor) == 32 && offsetof(Tensor, first_block) == 24);

struct Averages {
    Tensor tensors[MAX_TENSORS];
    cuda::std::uint32_t n_tensors;
    float share;  // of the weight in the new average
};
static_assert(sizeof(Averages) == 32 * 96 + 8 && offsetof(Averages, n_tensors) == 3072);
