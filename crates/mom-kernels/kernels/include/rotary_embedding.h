// Arguments of the rotary embedding's kernels. Strides in bytes.
#pragma once
#include <cuda/std/cstddef>
#include <cuda/std/cstdint>

struct Rotary {
    const cuda::std::uint32_t* row_of_position;  // [n_positions] or null: rows are positions
    const cuda::std::uint32_t* positions;        // [n_positions]: rows of the table
    const float* table;                          // (.., head_dim / 2, 2): cosine and sine
    const void* x;                               // rows of (n_heads, head_dim)
    void* out;                                   // the same, perhaps in the same memory
    cuda::std::uint32_t n_positions, n_heads, head_dim, x_stride, out_stride;
    float direction;                             // 1, or -1: back
};
static_assert(sizeof(Rotary) == 64 && offsetof(Rotary, n_positions) == 40 && offsetof(Rotary, direction) == 60);
