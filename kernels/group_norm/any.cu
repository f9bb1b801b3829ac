#include "backward.cuh"
extern "C" __global__ void __launch_bounds__(THREADS) group_norm_moments(const __grid_constant__ GroupNorm p) { group_norm_statistics(p); }

// A block for each picture: its sums over chunks, and the means of each group.
extern "C" __global__ void __launch_bounds__(THREADS) group_norm_backward_means(const __grid_constant__ GroupNormBackward p) {
    __shared__ float weighted[2][MAX_CHANNELS];
    const float* from = p.partial + uint64_t(blockIdx.x) * p.n_chunks * 2 * p.n_channels;
    for (uint32_t i = threadIdx.x; i < 2 * p.n_channels; i += THREADS) {
        float sum = 0.f;
#pragma unroll 1
        for (uint32_t chunk = 0; chunk < p.n_chunks; chunk++) sum += from[uint64_t(chunk) * 2 * p.n_channels + i];
        p.sums[uint64_t(blockIdx.x) * 2 * p.n_channels + i] = sum;
        const uint32_t channel = i < p.n_channels ? i : i - p.n_channels;
        weighted[i < p.n_channels ? 0 : 1][channel] = sum * p.weight[channel];
    }
    __syncthreads();
    const uint32_t each = p.n_channels / p.n_groups;
    const float n = float(each) * float(p.n_rows);
    for (uint32_t i = threadIdx.x; i < 2 * p.n_groups; i += THREADS) {
        float sum = 0.f;
#pragma unroll 1
        for (uint32_t channel = i / 2 * each; channel < (i / 2 + 1) * each; channel++) sum += weighted[i % 2][channel];
        p.means[uint64_t(blockIdx.x) * 2 * p.n_groups + i] = sum / n;
    }
}
