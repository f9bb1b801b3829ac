// Sums over the rows of each modality: gradients of biases. Fixed order: rows by chunks of 128, then chunks.
//
// A chunk's rows belong to consecutive modalities, so the pairs (chunk, modality) in row order are a staircase: each step
// raises one of the two by at least one, and chunk + modality names a pair's partial sum uniquely. The second kernel reads
// only pairs that exist: nothing has to be zeroed, and the offsets stay on the device.
#pragma once
#include "../common/dtype.cuh"
#include "params.h"

constexpr int CHUNK = 128, LANES = 32, ROWS = 8, V = 4;

__device__ __forceinline__ uint32_t offset(const ColumnSums& p, uint32_t group) {
    return p.offsets ? p.offsets[group] : (group == 0 ? 0 : p.n_rows);
}

// Grid (columns / 128, chunks), block (32, 8): 4 columns a thread.
template <typename T> __device__ __forceinline__ void sum_chunk(const ColumnSums& p) {
    __shared__ float s[ROWS][LANES * V];
    const uint32_t column = (blockIdx.x * LANES + threadIdx.x) * V, chunk = blockIdx.y;
    const uint32_t begin = chunk * CHUNK, end = min(begin + CHUNK, p.n_rows);
    const bool vector = p.width % V == 0 && p.stride % V == 0 && reinterpret_cast<uint64_t>(p.x) % (V * sizeof(T)) == 0;
    const int valid = int(p.width) - int(column);
    for (uint32_t group = 0; group < p.n_groups; group++) {
        const uint32_t first = max(begin, offset(p, group)), last = min(end, offset(p, group + 1));
        if (first >= last) continue;
        float sum[V] = {0.f, 0.f, 0.f, 0.f};
        for (uint32_t row = first + threadIdx.y; row < last; row += ROWS) {
            const T* from = static_cast<const T*>(p.x) + int64_t(row) * p.stride + column;
            const Vec<T, V> x = vector ? load_vec<true, T, V>(from, valid) : load_vec<false, T, V>(from, valid);
#pragma unroll
            for (int i = 0; i < V; i++) sum[i] += x.get(i);
        }
#pragma unroll
        for (int i = 0; i < V; i++) s[threadIdx.y][threadIdx.x * V + i] = sum[i];
        __syncthreads();
        const uint32_t t = threadIdx.y * LANES + threadIdx.x, to = blockIdx.x * LANES * V + t;
        if (t < LANES * V && to < p.width) {
            float total = 0.f;
#pragma unroll
            for (int r = 0; r < ROWS; r++) total += s[r][t];
            p.partial[int64_t(chunk + group) * p.width + to] = total;
        }
        __syncthreads();
    }
}

#define SUM_CHUNK(T_NAME, T) \
    extern "C" __global__ void __launch_bounds__(256) column_sums_chunk_##T_NAME(const __grid_constant__ ColumnSums p) { \
        sum_chunk<T>(p);                                                                                                   \
    }
