#include "../common/dtype.cuh"
#include "params.h"

// Sums of each group, in f64: rows by blocks of 2048, 8 a thread, then blocks, all in a fixed order.
constexpr int SUM_THREADS = 256, SUM_ROWS = 2048;

// Adds over the threads of the block; thread 0 has the total. Behind a barrier `s` may be used again.
__device__ __forceinline__ double block_sum(double x, double* s) {
#pragma unroll
    for (int d = 16; d >= 1; d /= 2) x += __shfl_xor_sync(~0u, x, d);
    if (threadIdx.x % 32 == 0) s[threadIdx.x / 32] = x;
    __syncthreads();
    double total = 0.;
    if (threadIdx.x == 0)
        for (int w = 0; w < SUM_THREADS / 32; w++) total += s[w];
    __syncthreads();
    return total;
}

extern "C" __global__ void __launch_bounds__(SUM_THREADS)
    cross_entropy_group_partial(const __grid_constant__ GroupSums p) {
    __shared__ double s[SUM_THREADS / 32];
    uint32_t group[SUM_ROWS / SUM_THREADS];
    float weight[SUM_ROWS / SUM_THREADS], loss[SUM_ROWS / SUM_THREADS], lse[SUM_ROWS / SUM_THREADS];
    uint32_t n_bad = 0;
#pragma unroll
    for (int k = 0; k < SUM_ROWS / SUM_THREADS; k++) {
        const uint64_t row = uint64_t(blockIdx.x) * SUM_ROWS + k * SUM_THREADS + threadIdx.x;
        group[k] = MAX_GROUPS;
        weight[k] = loss[k] = lse[k] = 0.f;
        if (row < p.n_rows && p.targets[row] < p.vocabulary) {
            group[k] = p.groups ? p.groups[row] : 0;
            if (group[k] >= p.n_groups) n_bad++;
            weight[k] = p.weights ? p.weights[row] : 1.f;
            loss[k] = p.loss[row];
            lse[k] = p.lse[row];
        }
    }
    if (n_bad) atomicAdd(p.out_of_range, n_bad);
    for (uint32_t g = 0; g < p.n_groups; g++) {
        double sums[SUMS] = {};
#pragma unroll
        for (int k = 0; k < SUM_ROWS / SUM_THREADS; k++) {
            if (group[k] == g) {
                const double w = weight[k], z = lse[k];
                sums[0] += w;
                sums[1] += w * loss[k];
                sums[2] += w * z * z;
            }
        }
        double* to = p.partial + (uint64_t(blockIdx.x) * p.n_groups + g) * SUMS;
#pragma unroll
        for (int j = 0; j < SUMS; j++) {
            const double total = block_sum(sums[j], s);
            if (threadIdx.x == 0) to[j] = total;
        }
    }
}

// A block for each sum.
extern "C" __global__ void __launch_bounds__(SUM_THREADS)
    cross_entropy_group_total(const __grid_constant__ GroupSums p) {
    __shared__ double s[SUM_THREADS / 32];
    double sum = 0.;
    for (uint32_t b = threadIdx.x; b < p.n_blocks; b += SUM_THREADS)
        sum += p.partial[uint64_t(b) * gridDim.x + blockIdx.x];
    sum = block_sum(sum, s);
    if (threadIdx.x == 0) p.sums[blockIdx.x] = sum;
}

// What is trained on, in one block: a row costs 12 bytes of the second-level cache.
extern "C" __global__ void __launch_bounds__(1024) cross_entropy_total(const __grid_constant__ Total p) {
    __shared__ double s[32];
    double sum = 0.;
    for (uint32_t row = threadIdx.x; row < p.n_rows; row += 1024) {
        const double w = p.weights ? p.weights[row] : 1.f, lse = p.lse[row];
        sum += w * (p.loss[row] + p.z * lse * lse);
    }
#pragma unroll
    for (int d = 16; d >= 1; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
    if (threadIdx.x % 32 == 0) s[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x >= 32) return;
    sum = s[threadIdx.x];
#pragma unroll
    for (int d = 16; d >= 1; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
    if (threadIdx.x == 0) p.total[0] = float(p.scale * sum);
}
