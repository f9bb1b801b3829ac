// Sums over the rows of each modality: gradients of biases. Fixed order: rows by chunks of 128, then chunks.
//
// A chunk's rows belong to consecutive modalities, so the pairs (chunk, modality) in row order are a staircase: each step
// raises one of the two by at least one, and chunk + modality names a pair's partial sum uniquely. The second kernel reads
// only pairs that exist: nothing has to be zeroed, and the offsets stay on the device.
#pragma once
#include "../common/dtype.cuh"
#include "params.h"

constexpr int CHUNK = 128, LANES = 32, ROWS = 8;

// Columns of a thread: 16 bytes, as much as one load brings.
template <typename T> constexpr int V = 16 / sizeof(T);

__device__ __forceinline__ uint32_t offset(const ColumnSums& p, uint32_t group) {
    return p.offsets ? p.offsets[group] : (group == 0 ? 0 : p.n_rows);
}

// Grid (columns / (32 V), chunks), block (32, 8).
template <typename T> __device__ __forceinline__ void sum_chunk(const ColumnSums& p) {
    constexpr int V = ::V<T>, COLUMNS = LANES * V, AT_ONCE = 4;
    __shared__ float s[ROWS][COLUMNS];
    const uint32_t column = (blockIdx.x * LANES + threadIdx.x) * V, chunk = blockIdx.y;
    const uint32_t begin = chunk * CHUNK, end = min(begin + CHUNK, p.n_rows);
    const bool vector = p.width % V == 0 && p.stride % V == 0 && reinterpret_cast<uint64_t>(p.x) % (V * sizeof(T)) == 0;
    const int valid = int(p.width) - int(column);
    for (uint32_t group = 0; group < p.n_groups; group++) {
        const uint32_t first = max(begin, offset(p, group)), last = min(end, offset(p, group + 1));
        if (first >= last) continue;
        float sum[V];
#pragma unroll
        for (int i = 0; i < V; i++) sum[i] = 0.f;
        // Several rows are on their way at once; they are added in their order.
        for (uint32_t row = first + threadIdx.y; row < last; row += ROWS * AT_ONCE) {
            Vec<T, V> x[AT_ONCE];
#pragma unroll
            for (int k = 0; k < AT_ONCE; k++) {
                const uint32_t at = row + k * ROWS;
                const T* from = static_cast<const T*>(p.x) + int64_t(at) * p.stride + column;
                const int n = at < last ? valid : 0;
                x[k] = vector ? load_vec<true, T, V>(from, n) : load_vec<false, T, V>(from, n);
            }
#pragma unroll
            for (int k = 0; k < AT_ONCE; k++)
#pragma unroll
                for (int i = 0; i < V; i++) sum[i] += x[k].get(i);
        }
#pragma unroll
        for (int i = 0; i < V; i++) s[threadIdx.y][threadIdx.x * V + i] = sum[i];
        __syncthreads();
        const uint32_t t = threadIdx.y * LANES + threadIdx.x, to = blockIdx.x * COLUMNS + t;
        if (t < COLUMNS && to < p.width) {
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
