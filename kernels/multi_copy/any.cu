// Copies of many stretches of memory in one launch.
//
// A block owns 32 KiB of one stretch, by vectors of 16 bytes where both ends lie on them.
#include "../common/entry_of_block.cuh"
#include "params.h"

using cuda::std::uint32_t, cuda::std::uint64_t;

constexpr int THREADS = 256, CHUNK = 32768;

// Whole elements of T, then what is left byte by byte.
template <typename T, int IN_FLIGHT>
__device__ __forceinline__ void copy(const char* from, char* to, uint32_t len) {
    const T* source = reinterpret_cast<const T*>(from);
    T* target = reinterpret_cast<T*>(to);
    const uint32_t n = len / sizeof(T);
    uint32_t i = threadIdx.x;
    for (; i + (IN_FLIGHT - 1) * THREADS < n; i += IN_FLIGHT * THREADS) {
        T x[IN_FLIGHT];
#pragma unroll
        for (int k = 0; k < IN_FLIGHT; k++) x[k] = from ? source[i + k * THREADS] : T{};
#pragma unroll
        for (int k = 0; k < IN_FLIGHT; k++) target[i + k * THREADS] = x[k];
    }
    for (; i < n; i += THREADS) target[i] = from ? source[i] : T{};
    for (uint32_t at = n * sizeof(T) + threadIdx.x; at < len; at += THREADS) to[at] = from ? from[at] : 0;
}

extern "C" __global__ void __launch_bounds__(THREADS) multi_copy(const __grid_constant__ Copies p) {
    const Copy& c = p.copies[entry_of_block<128>(p.copies, p.n_copies)];
    const uint64_t begin = uint64_t(blockIdx.x - c.first_block) * CHUNK;
    const uint32_t len = uint32_t(min(c.len - begin, uint64_t(CHUNK)));
    const char* from = c.from ? static_cast<const char*>(c.from) + begin : nullptr;
    char* to = static_cast<char*>(c.to) + begin;
    const uint64_t off = (reinterpret_cast<uint64_t>(from) | reinterpret_cast<uint64_t>(to)) % 16;
    if (off == 0)
        copy<uint4, 4>(from, to, len);
    else if (off % 2 == 0)
        copy<unsigned short, 4>(from, to, len);
    else
        copy<char, 4>(from, to, len);
}
