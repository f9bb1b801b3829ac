#include "elementwise.cuh"
OF_TYPE(f32, float)

// Adds the sums of all blocks: one block.
extern "C" __global__ void __launch_bounds__(THREADS)
    elementwise_squared_error_total(const __grid_constant__ SquaredError p) {
    float sum = 0.f;
    for (uint32_t i = threadIdx.x; i < p.n_partial; i += THREADS) sum += p.partial[i];
    sum = block_sum<THREADS>(sum);
    if (threadIdx.x == 0) *static_cast<float*>(p.out) = p.scale * sum;
}
