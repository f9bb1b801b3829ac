// Arguments of the mixer's own kernels, as crates/mom-kernels/src/ops/mixer/cuda/decays.rs has them.
#pragma once
#include <cuda/std/cstddef>
#include <cuda/std/cstdint>

struct Decays {
    const float* a_log;    // (n)
    const float* a;        // (n), read by the gradient alone
    float* out;            // (n)
    cuda::std::uint64_t n;
};
static_assert(sizeof(Decays) == 32 && offsetof(Decays, out) == 16);
