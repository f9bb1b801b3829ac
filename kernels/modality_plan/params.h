// Arguments of the modality plan, as crates/mom-kernels/src/ops/plan/cuda/abi.rs has them.
#pragma once
#include <cuda/std/cstddef>
#include <cuda/std/cstdint>

struct Plan {
    const cuda::std::uint8_t* modality_ids;  // [n]
    cuda::std::uint32_t* counts;             // [n_modalities][n_blocks], then their exclusive prefix sums
    cuda::std::uint32_t* row_of_position;    // [n]
    cuda::std::uint32_t* position_of_row;    // [n]
    cuda::std::uint32_t* modality_offsets;   // [n_modalities + 1]
    cuda::std::uint32_t* first_bad;          // [1]: first position whose id names no modality; 2^32 - 1 without one
    cuda::std::uint32_t n, n_modalities, n_blocks, unused;
};
static_assert(sizeof(Plan) == 64 && offsetof(Plan, first_bad) == 40 && offsetof(Plan, n) == 48);
