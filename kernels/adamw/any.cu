#include "adamw.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) adamw_norm_total(const __grid_constant__ NormTotal p) {
    float sum = 0.f;
#pragma unroll 16
    for (uint64_t i = threadIdx.x; i < p.n; i += THREADS) sum += p.partial[i];
    const float total = block_sum(sum);
    if (threadIdx.x == 0) *p.norm = sqrtf(total);
}
