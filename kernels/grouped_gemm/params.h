// Arguments of the grouped products, as crates/mom-kernels/src/ops/grouped_gemm/cuda/abi.rs has them. Strides in elements.
#pragma once
#include <cuda/std/cstddef>
#include <cuda/std/cstdint>

constexpr int MAX_GROUPS = 256;

// y_r = x_r W_m^T + b_m, or dx_r = dy_r W_m.
struct MGrouped {
    const void* x;                       // rows (n_rows, k)
    void* y;                             // rows (n_rows, n)
    const cuda::std::uint32_t* offsets;  // [n_groups + 1] or null: one group
    const float* biases;                 // (n_groups, n) or null
    cuda::std::int64_t x_stride, y_stride;
    cuda::std::uint32_t n_rows, n, k, n_groups;
    cuda::std::uint32_t n_tiles;         // tiles of columns
    cuda::std::uint32_t add;             // not 0: y += product
    cuda::std::uint32_t x_vector, w_vector, y_vector;  // not 0: 16-byte accesses are aligned
    cuda::std::uint32_t unused;
    const void* weights[MAX_GROUPS];     // (n, k) each forward, (k, n) each for the input gradient
};
static_assert(sizeof(MGrouped) == 88 + 8 * MAX_GROUPS && offsetof(MGrouped, x_stride) == 32);
static_assert(offsetof(MGrouped, n_rows) == 48 && offsetof(MGrouped, n_tiles) == 64 && offsetof(MGrouped, weights) == 88);

// dW_m = a^T b over the rows of m, where they are all in one split; else partial[split + m] over those in the split. a is the
// wider of x and dy.
struct KGrouped {
    const void *a, *b;                   // rows (n_rows, a_width), (n_rows, b_width)
    const cuda::std::uint32_t* offsets;  // [n_groups + 1] or null: one group
    float* partial;                      // (n_splits + n_groups - 1, out_features, in_features)
    cuda::std::int64_t a_stride, b_stride;
    cuda::std::int64_t to_a, to_b;       // steps in a gradient for one column of a, of b
    cuda::std::uint32_t n_rows, a_width, b_width, n_groups;
    cuda::std::uint32_t rows_per_split, b_tiles;
    cuda::std::uint32_t a_vector, b_vector;
    cuda::std::uint32_t f32;             // not 0: gradients are f32, else of the operands' type
    cuda::std::uint32_t unused;
    void* grads[MAX_GROUPS];             // (out_features, in_features) each
};
static_assert(sizeof(KGrouped) == 104 + 8 * MAX_GROUPS && offsetof(KGrouped, a_stride) == 32);
static_assert(offsetof(KGrouped, n_rows) == 64 && offsetof(KGrouped, f32) == 96 && offsetof(KGrouped, grads) == 104);

// dW_m = sum over splits of partial[split + m], in order, where there are several.
struct KGroupedSum {
    const float* partial;
    const cuda::std::uint32_t* offsets;
    cuda::std::uint64_t size;            // out_features * in_features
    cuda::std::uint32_t n_rows, n_groups, rows_per_split, unused;
    void* grads[MAX_GROUPS];             // (out_features, in_features) each
};
static_assert(sizeof(KGroupedSum) == 40 + 8 * MAX_GROUPS && offsetof(KGroupedSum, n_rows) == 24);
static_assert(offsetof(KGroupedSum, grads) == 40);

// A tensor map as the driver encodes it: a matrix in memory, and the box of it that a bulk copy moves.
struct alignas(128) TensorMap {
    cuda::std::uint64_t words[16];
};

// Modalities whose weights have a map.
constexpr int MAX_MAPS = 16;

// As MGrouped, for compute capability 9.0.
struct MGrouped90 {
    TensorMap x;                         // (n_rows, k), boxes of a tile's rows x 64
    TensorMap y;                         // (n_rows, n), boxes 64 x 64; for tiles that leave by boxes, as `addend` is
    TensorMap addend;                    // as y, where the product is added to it; it may be y
    TensorMap weights[MAX_MAPS];         // (n, k), boxes tile columns x 64; for the input gradient (k, n), boxes 64 x 64
    void* to;                            // y
    const cuda::std::uint32_t* offsets;
    const float* biases;
    cuda::std::int64_t y_stride;
    cuda::std::uint32_t n_rows, n, k, n_groups;
    cuda::std::uint32_t n_tiles, add;
    cuda::std::uint32_t tiles_at_once;   // tiles of columns that a block takes of the same rows, where these stay
    cuda::std::uint32_t unused;
    const void* addend_rows;             // the addend's memory, for tiles that leave by rows
    cuda::std::int64_t addend_stride;
};
static_assert(offsetof(MGrouped90, to) == 128 * (3 + MAX_MAPS) && offsetof(MGrouped90, n_rows) == 128 * (3 + MAX_MAPS) + 32);
static_assert(sizeof(MGrouped90) == 128 * (4 + MAX_MAPS));

// As KGrouped, for compute capability 9.0, but that either operand may be a. Rows of a modality that are all in one split make
// its gradient at once.
struct KGrouped90 {
    TensorMap a, b;                      // boxes 64 x 64; of b as many rows as one block of a cluster loads
    const cuda::std::uint32_t* offsets;
    float* partial;                      // (n_splits + n_groups - 1, n_tiles, 4-element fragments of a tile, threads)
    cuda::std::int64_t to_a, to_b;       // steps in a gradient for one column of a, of b
    cuda::std::uint32_t n_rows, a_width, b_width, n_groups;
    cuda::std::uint32_t rows_per_split, b_tiles, n_tiles, n_splits;  // of tiles in a as many as whole clusters take
    cuda::std::uint32_t f32;             // not 0: gradients are f32, else of the operands' type
    cuda::std::uint32_t vector;          // not 0: four elements of a gradient's row are aligned and at once
    cuda::std::uint32_t rows_leave;      // not 0: gradients are of the operands' type, their rows begin at multiples of 16 bytes
    cuda::std::uint32_t border_rows;     // that a border between modalities counts for where rows are cut into splits
    void* grads[MAX_GROUPS];             // (out_features, in_features) each
};
static_assert(offsetof(KGrouped90, offsets) == 256 && offsetof(KGrouped90, n_rows) == 288);
static_assert(offsetof(KGrouped90, grads) == 336 && sizeof(KGrouped90) == 384 + 8 * MAX_GROUPS);
