// Arguments of the column sums, as crates/mom-kernels/src/ops/column_sums.rs has them. Strides in elements.
#pragma once
#include <cuda/std/cstddef>
#include <cuda/std/cstdint>

struct ColumnSums {
    const void* x;                         // rows
    const cuda::std::uint32_t* offsets;    // [n_groups + 1] or null: one group
    float* partial;                        // (chunks + n_groups, width)
    float* sums;                           // (n_groups, width)
    cuda::std::int64_t stride;
    cuda::std::uint32_t n_rows, width, n_groups, unused;
};
static_assert(sizeof(ColumnSums) == 56 && offsetof(ColumnSums, stride) == 32 && offsetof(ColumnSums, n_groups) == 48);
