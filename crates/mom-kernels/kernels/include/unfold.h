// Arguments of unfolding, as crates/mom-kernels/src/ops/unfold.rs has them. Units: 16, 4 or 2 bytes.
#pragma once
#include <cuda/std/cstddef>
#include <cuda/std/cstdint>

struct Unfold {
    const void* x;  // (batch, height, width), pixels `pixel_units` apart
    void* windows;  // (n_rows, row_units)
    cuda::std::uint64_t first_row;                                  // of all windows
    cuda::std::uint32_t n_rows, row_units;                          // units behind the taps are zeros
    cuda::std::uint32_t height, width, pixel_units, channel_units;  // channel_units: of a pixel that are read
    cuda::std::uint32_t out_height, out_width;
    cuda::std::uint32_t kernel_height, kernel_width;
    cuda::std::uint32_t stride, dilation, top, left;                // top, left: rows and columns of zeros before the first
};
static_assert(sizeof(Unfold) == 80 && offsetof(Unfold, first_row) == 16 && offsetof(Unfold, height) == 32);
static_assert(offsetof(Unfold, out_height) == 48 && offsetof(Unfold, stride) == 64);
