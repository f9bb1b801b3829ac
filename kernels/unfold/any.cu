// The window of pixels that each value of a convolution reads, as a row: what makes a convolution a product.
//
// A warp writes one row: its window is found once, and lanes take units of 16 bytes (or of 4, or 2) side by side.
#include "params.h"

using cuda::std::int64_t, cuda::std::uint32_t, cuda::std::uint64_t;

constexpr int THREADS = 256, WARPS = THREADS / 32;

template <typename T> __device__ __forceinline__ void unfold(const Unfold& p) {
    const uint32_t lane = threadIdx.x % 32, n_taps = p.kernel_height * p.kernel_width, n_units = n_taps * p.channel_units;
    for (uint32_t row = blockIdx.x * WARPS + threadIdx.x / 32; row < p.n_rows; row += gridDim.x * WARPS) {
        const uint64_t at = p.first_row + row;
        const uint32_t column = uint32_t(at % p.out_width);
        const uint64_t line = at / p.out_width;
        const int y0 = int(line % p.out_height * p.stride) - int(p.top), x0 = int(column * p.stride) - int(p.left);
        const T* picture = static_cast<const T*>(p.x) + line / p.out_height * p.height * p.width * p.pixel_units;
        T* to = static_cast<T*>(p.windows) + uint64_t(row) * p.row_units;
#pragma unroll 4
        for (uint32_t unit = lane; unit < p.row_units; unit += 32) {
            const uint32_t tap = unit / p.channel_units, channel = unit - tap * p.channel_units;
            const int y = y0 + int(tap / p.kernel_width * p.dilation), x = x0 + int(tap % p.kernel_width * p.dilation);
            // A negative place is a large one.
            const bool is_inside = unit < n_units && uint32_t(y) < p.height && uint32_t(x) < p.width;
            to[unit] = is_inside ? picture[(uint64_t(y) * p.width + x) * p.pixel_units + channel] : T{};
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) unfold_16(const __grid_constant__ Unfold p) { unfold<uint4>(p); }
extern "C" __global__ void __launch_bounds__(THREADS) unfold_4(const __grid_constant__ Unfold p) { unfold<uint32_t>(p); }
extern "C" __global__ void __launch_bounds__(THREADS) unfold_2(const __grid_constant__ Unfold p) { unfold<unsigned short>(p); }
