// Arguments of copies, as crates/mom-kernels/src/ops/multi_copy.rs has them: up to 120 a launch.
#pragma once
#include <cuda/std/cstddef>
#include <cuda/std/cstdint>

constexpr int MAX_COPIES = 120;

struct Copy {
    const void* from;  // or null: zeros
    void* to;
    cuda::std::uint64_t len;  // in bytes
    cuda::std::uint32_t first_block, unused;
};
static_assert(sizeof(Copy) == 32 && offsetof(Copy, first_block) == 24);

struct Copies {
    Copy copies[MAX_COPIES];
    cuda::std::uint32_t n_copies, unused;
};
static_assert(sizeof(Copies) == 32 * 120 + 8 && offsetof(Copies, n_copies) == 3840);
