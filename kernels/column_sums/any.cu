#include "column_sums.cuh"

// Grid (columns / 32, groups), block (32, 8).
extern "C" __global__ void __launch_bounds__(256) column_sums_total(const __grid_constant__ ColumnSums p) {
    __shared__ float s[ROWS][LANES];
    const uint32_t column = blockIdx.x * LANES + threadIdx.x, group = blockIdx.y;
    const uint32_t first = offset(p, group), last = offset(p, group + 1);
    float sum = 0.f;
    if (first < last && column < p.width)
        for (uint32_t chunk = first / CHUNK + threadIdx.y; chunk <= (last - 1) / CHUNK; chunk += ROWS)
            sum += p.partial[int64_t(chunk + group) * p.width + column];
    s[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < p.width) {
        float total = 0.f;
#pragma unroll
        for (int r = 0; r < ROWS; r++) total += s[r][threadIdx.x];
        p.sums[int64_t(group) * p.width + column] = total;
    }
}
