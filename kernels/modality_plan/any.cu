// Stable counting sort of positions by modality, in three kernels and without a word to the host.
//
// An id that names no modality counts as the last one, so that rows stay a permutation whatever the ids hold; the first
// such position is kept for whoever asks.
#include "../common/dtype.cuh"
#include "params.h"

constexpr int THREADS = 1024, WARPS = THREADS / 32, MAX_MODALITIES = 256;

__device__ __forceinline__ uint32_t id_of(const Plan& p, uint32_t position) {
    return min(uint32_t(p.modality_ids[position]), p.n_modalities - 1);
}

extern "C" __global__ void __launch_bounds__(1) modality_plan_clear(const __grid_constant__ Plan p) { *p.first_bad = ~0u; }

// Counts of each block.
extern "C" __global__ void __launch_bounds__(THREADS) modality_plan_count(const __grid_constant__ Plan p) {
    __shared__ uint32_t counts[MAX_MODALITIES];
    for (uint32_t m = threadIdx.x; m < p.n_modalities; m += THREADS) counts[m] = 0;
    __syncthreads();
    const uint64_t position = uint64_t(blockIdx.x) * THREADS + threadIdx.x;
    if (position < p.n) {
        atomicAdd(&counts[id_of(p, position)], 1u);
        if (p.modality_ids[position] >= p.n_modalities) atomicMin(p.first_bad, uint32_t(position));
    }
    __syncthreads();
    for (uint32_t m = threadIdx.x; m < p.n_modalities; m += THREADS) p.counts[uint64_t(m) * p.n_blocks + blockIdx.x] = counts[m];
}

// Exclusive prefix sums of all counts, by one block.
extern "C" __global__ void __launch_bounds__(THREADS) modality_plan_scan(const __grid_constant__ Plan p) {
    __shared__ uint32_t warp_sums[WARPS];
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint64_t n = uint64_t(p.n_modalities) * p.n_blocks;
    uint32_t before = 0;
    for (uint64_t first = 0; first < n; first += THREADS) {
        const uint64_t at = first + threadIdx.x;
        const uint32_t count = at < n ? p.counts[at] : 0;
        uint32_t sum = count;
#pragma unroll
        for (int d = 1; d < 32; d *= 2) {
            const uint32_t left = __shfl_up_sync(~0u, sum, d);
            if (lane >= d) sum += left;
        }
        if (lane == 31) warp_sums[warp] = sum;
        __syncthreads();
        uint32_t total = 0, warps_before = 0;
        for (int w = 0; w < WARPS; w++) {
            if (w < warp) warps_before += warp_sums[w];
            total += warp_sums[w];
        }
        const uint32_t exclusive = before + warps_before + sum - count;
        if (at < n) {
            p.counts[at] = exclusive;
            if (at % p.n_blocks == 0) p.modality_offsets[at / p.n_blocks] = exclusive;
        }
        before += total;
        __syncthreads();
    }
    if (threadIdx.x == 0) p.modality_offsets[p.n_modalities] = p.n;
}

// A position's row: the block's base for its modality, plus how many of it stand before in the block.
extern "C" __global__ void __launch_bounds__(THREADS) modality_plan_scatter(const __grid_constant__ Plan p) {
    __shared__ uint32_t counts[WARPS][MAX_MODALITIES];
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (uint32_t i = threadIdx.x; i < WARPS * p.n_modalities; i += THREADS) counts[i / p.n_modalities][i % p.n_modalities] = 0;
    __syncthreads();
    const uint64_t position = uint64_t(blockIdx.x) * THREADS + threadIdx.x;
    const bool valid = position < p.n;
    const uint32_t id = valid ? id_of(p, position) : MAX_MODALITIES;  // past the end: a modality of its own
    const uint32_t same = __match_any_sync(~0u, id), rank = __popc(same & ((1u << lane) - 1));
    if (valid && rank == 0) counts[warp][id] = __popc(same);
    __syncthreads();
    if (!valid) return;
    uint32_t row = p.counts[uint64_t(id) * p.n_blocks + blockIdx.x] + rank;
    for (uint32_t w = 0; w < warp; w++) row += counts[w][id];
    p.row_of_position[position] = row;
    p.position_of_row[row] = uint32_t(position);
}
