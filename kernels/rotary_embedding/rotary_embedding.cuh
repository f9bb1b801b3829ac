// Rotary position embedding: features i and i + head_dim / 2 of a head turn by an angle of their position. A thread has one pair.
#pragma once
#include "../common/dtype.cuh"
#include "params.h"

namespace rotary_embedding {

constexpr int THREADS = 256;

template <typename T> __device__ __forceinline__ void rotate(const Rotary& p) {
    const uint32_t half = p.head_dim / 2;
    const uint64_t pair = uint64_t(blockIdx.x) * THREADS + threadIdx.x, each = uint64_t(p.n_heads) * half;
    const uint64_t position = pair / each;
    if (position >= p.n_positions) return;
    const uint32_t head = uint32_t(pair % each) / half, i = uint32_t(pair % each) % half;
    const uint32_t row = p.row_of_position ? p.row_of_position[position] : uint32_t(position);
    const float2 turn = reinterpret_cast<const float2*>(p.table)[uint64_t(p.positions[position]) * half + i];
    const float sine = turn.y * p.direction;
    const T* from = at_row<T>(p.x, row, p.x_stride, head * p.head_dim + i);
    T* to = at_row<T>(p.out, row, p.out_stride, head * p.head_dim + i);
    const float a = to_f32(from[0]), b = to_f32(from[half]);
    to[0] = from_f32<T>(a * turn.x - b * sine);
    to[half] = from_f32<T>(b * turn.x + a * sine);
}

}  // namespace rotary_embedding

#define ROTARY(NAME, T)                                                                                                \
    extern "C" __global__ void __launch_bounds__(rotary_embedding::THREADS) rotary_embedding_##NAME(                   \
        const __grid_constant__ Rotary p) {                                                                            \
        rotary_embedding::rotate<T>(p);                                                                                \
    }
