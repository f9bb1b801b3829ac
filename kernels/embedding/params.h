// Arguments of the embedding, as crates/mom-kernels/src/ops/embedding/abi.rs has them. Strides in bytes.
#pragma once
#include <cuda/std/cstddef>
#include <cuda/std/cstdint>

struct EmbeddingForward {
    const void* table;                   // rows: (vocabulary, width)
    const cuda::std::uint32_t* ids;      // [n_rows]
    void* out;                           // rows: (n_rows, width)
    cuda::std::uint32_t* out_of_range;   // [1]: ids that name no row of the table are added to it
    cuda::std::uint32_t table_stride, out_stride;
    cuda::std::uint32_t n_rows, width, vocabulary, unused;
};
static_assert(sizeof(EmbeddingForward) == 56 &&
              offsetof(EmbeddingForward, table_stride) == 32 && offsetof(EmbeddingForward, vocabulary) == 48);

// One pass of the sort of rows by id, by 8 bits from `shift` on.
struct EmbeddingSort {
    const cuda::std::uint32_t *keys, *rows;   // [n]: of the pass before; the first pass reads ids, and rows is null
    cuda::std::uint32_t *to_keys, *to_rows;   // [n]
    cuda::std::uint32_t* counts;              // [256][n_blocks], then their prefix sums for each digit
    cuda::std::uint32_t* totals;              // [256]
    cuda::std::uint32_t* out_of_range;        // [1], or null behind the first pass
    cuda::std::uint32_t n, n_blocks, vocabulary, shift;
};
static_assert(sizeof(EmbeddingSort) == 72 &&
              offsetof(EmbeddingSort, out_of_range) == 48 && offsetof(EmbeddingSort, n) == 56);

struct EmbeddingBackward {
    const cuda::std::uint32_t *keys, *rows;   // [n]: sorted, rows of one id in their order
    const void* grad_out;                     // rows: (n_rows, width)
    void* grad_table;                         // rows: (vocabulary, width)
    float* partial;                           // [pieces][2][width]
    cuda::std::uint32_t grad_out_stride, grad_table_stride;
    cuda::std::uint32_t n, width, vocabulary, add;
};
static_assert(sizeof(EmbeddingBackward) == 64 &&
              offsetof(EmbeddingBackward, partial) == 32 && offsetof(EmbeddingBackward, n) == 48);
