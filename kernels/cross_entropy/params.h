// Arguments of the cross-entropy, as crates/mom-kernels/src/ops/cross_entropy/cuda/abi.rs has them. Strides in bytes.
#pragma once
#include <cuda/std/cstddef>
#include <cuda/std/cstdint>

struct CrossEntropy {
    const void* logits;                      // rows
    void* grad;                              // rows, perhaps the logits themselves; null: losses alone
    const cuda::std::uint32_t* targets;      // [n_rows]
    const float* weights;                    // [n_rows] or null: 1
    float *loss, *lse;                       // [n_rows]
    cuda::std::uint32_t* out_of_range;       // [1]: targets that name no class are added to it
    cuda::std::uint32_t logits_stride, grad_stride;
    cuda::std::uint32_t n_rows, vocabulary;
    float scale, z;
};
static_assert(sizeof(CrossEntropy) == 80 &&
              offsetof(CrossEntropy, logits_stride) == 56 && offsetof(CrossEntropy, z) == 76);

constexpr int MAX_GROUPS = 8, SUMS = 3;  // of a group: weights, weighted losses, weighted squares of lse

struct GroupSums {
    const float *loss, *lse;                 // [n_rows]
    const cuda::std::uint32_t* targets;      // [n_rows]
    const float* weights;                    // [n_rows] or null: 1
    const cuda::std::uint8_t* groups;        // [n_rows] or null: one group
    double* partial;                         // [n_blocks][n_groups][SUMS]
    double* sums;                            // [n_groups][SUMS]
    cuda::std::uint32_t* out_of_range;       // [1]: rows of no group are added to it
    cuda::std::uint32_t n_rows, vocabulary, n_groups, n_blocks;
};
static_assert(sizeof(GroupSums) == 80 && offsetof(GroupSums, partial) == 40 && offsetof(GroupSums, n_rows) == 64);

struct Total {
    const float *loss, *lse;                 // [n_rows]; zero where there is no target
    const float* weights;                    // [n_rows] or null: 1
    float* total;                            // [1]
    cuda::std::uint32_t n_rows;
    float scale, z;
    cuda::std::uint32_t unused;
};
static_assert(sizeof(Total) == 48 && offsetof(Total, n_rows) == 32 && offsetof(Total, z) == 40);

struct Scaling {
    const void* from;                        // [n]
    void* to;                                // [n], perhaps the same memory where the types are
    const float* factor;                     // [1]
    cuda::std::uint64_t n;
};
static_assert(sizeof(Scaling) == 32 && offsetof(Scaling, n) == 24);
