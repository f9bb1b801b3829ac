#include "rms_norm.cuh"

// Adds the blocks' sums: block (32, 32), 32 columns, every 32nd block of rows a thread.
extern "C" __global__ void __launch_bounds__(1024) rms_norm_weight(const __grid_constant__ NormWeight p) {
    __shared__ float s[32][33];
    const uint32_t column = blockIdx.x * 32 + threadIdx.x;
    float sum = 0.f;
    if (column < p.width) {
#pragma unroll 8
        for (uint32_t b = threadIdx.y; b < p.n_partial; b += 32) sum += p.partial[uint64_t(b) * p.width + column];
    }
    s[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    const float total = warp_sum(s[threadIdx.x][threadIdx.y]);
    const uint32_t to = blockIdx.x * 32 + threadIdx.y;
    if (threadIdx.x == 0 && to < p.width) p.grad_weight[to] = total;
}
