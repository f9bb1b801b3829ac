// Which entry of a list a block works on, where each has blocks of its own in a row.
#pragma once
#include <cuda/std/cstdint>

// The last of `n` entries, at least one and at most MOST, whose first block is not behind this one. First blocks ascend from zero; MOST is
// a power of two.
template <cuda::std::uint32_t MOST, typename Entry>
__device__ __forceinline__ cuda::std::uint32_t entry_of_block(const Entry* entries, cuda::std::uint32_t n) {
    cuda::std::uint32_t at = 0;
#pragma unroll
    for (cuda::std::uint32_t step = MOST / 2; step >= 1; step /= 2)
        if (at + step < n && entries[at + step].first_block <= blockIdx.x) at += step;
    return at;
}
