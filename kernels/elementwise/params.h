// Arguments of the elementwise operations, as crates/mom-kernels/src/ops/elementwise/abi.rs has them.
#pragma once
#include <cuda/std/cstddef>
#include <cuda/std/cstdint>

// out = alpha a + beta b
struct Combine {
    const void* a;  // [n], or null: without the first term
    const void* b;  // [n]
    void* out;      // [n]
    cuda::std::uint64_t n;
    float alpha, beta;
};
static_assert(sizeof(Combine) == 40 && offsetof(Combine, n) == 24 && offsetof(Combine, beta) == 36);

// out = silu(x), or grad times silu's derivative at x
struct Silu {
    const void* x;     // [n]
    const void* grad;  // [n]: backward alone
    void* out;         // [n]
    cuda::std::uint64_t n;
};
static_assert(sizeof(Silu) == 32 && offsetof(Silu, n) == 24);

// out_r = factors_r[0] clean_r + factors_r[1] epsilon_r
struct AddNoise {
    const float* clean;    // [n_rows][width]
    const float* epsilon;  // [n_rows][width]
    const float* factors;  // [n_rows][2]
    void* out;             // [n_rows][width]
    cuda::std::uint64_t n;
    cuda::std::uint32_t width, unused;
};
static_assert(sizeof(AddNoise) == 48 && offsetof(AddNoise, width) == 40);

// error = scale sum (predicted - target)^2, and its gradient
struct SquaredError {
    const void* predicted;  // [n]
    const float* target;    // [n]
    float* partial;         // forward: [n_partial]
    const float* grad;      // backward: [1], that of the error
    void* out;              // the total: [1] f32; backward: [n]
    cuda::std::uint64_t n;
    cuda::std::uint32_t n_partial;
    float scale;
};
static_assert(sizeof(SquaredError) == 56 && offsetof(SquaredError, n) == 40 && offsetof(SquaredError, scale) == 52);
