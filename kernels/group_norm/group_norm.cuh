// Group norm of pictures whose channels lie side by side, and the activation behind it (Wu and He 2018, arXiv 1803.08494).
//
// A block owns a chunk of rows (pixels) of one picture. Threads take vectors of channels, and rows in turn. Sums run around the
// chunk's first row, so that a group whose mean is many times its deviation keeps its digits; means and sums of squares around
// them are put together by the formula of Chan, Golub and LeVeque (1979), in a fixed order.
#pragma once
#include "../common/dtype.cuh"
#include "../common/math.cuh"
#include "params.h"

constexpr int THREADS = 256, MAX_CHANNELS = THREADS * 8;  // of 256 vectors of 16 bytes, of elements of 16 bits

// Elements of a row's mean and of its squares around it, n of them each.
struct Moments {
    float n, mean, squares;
    __device__ __forceinline__ void add(const Moments& other) {
        if (other.n == 0.f) return;
        const float both = n + other.n, apart = other.mean - mean, share = other.n / both;
        mean = fmaf(apart, share, mean);
        squares += other.squares + apart * apart * n * share;
        n = both;
    }
};

// Rows of chunk `blockIdx.x` of picture `blockIdx.y`, and what a thread has of them: vectors of V channels.
template <typename T> struct Chunk {
    static constexpr int V = 16 / sizeof(T);
    uint32_t vectors, row_lanes, vector, row_lane;
    uint64_t first, last;

    template <typename P> __device__ __forceinline__ explicit Chunk(const P& p) {
        vectors = p.n_channels / V, row_lanes = THREADS / vectors;
        vector = threadIdx.x % vectors, row_lane = threadIdx.x / vectors;
        first = uint64_t(blockIdx.x) * p.rows_per_chunk;
        last = min(first + p.rows_per_chunk, p.n_rows);
    }
    __device__ __forceinline__ bool works() const { return row_lane < row_lanes; }
    template <typename P> __device__ __forceinline__ uint64_t at(const P& p, uint64_t row) const {
        return (uint64_t(blockIdx.y) * p.n_rows + row) * p.n_channels + vector * V;
    }
};

template <typename T> __device__ __forceinline__ void group_norm_sums(const GroupNorm& p) {
    using C = Chunk<T>;
    constexpr int V = C::V;
    const C chunk(p);
    const T* x = static_cast<const T*>(p.x);
    __shared__ float sums[2][THREADS * V];  // (row_lanes, n_channels) each
    float sum[V], square[V];
#pragma unroll
    for (int k = 0; k < V; k++) sum[k] = square[k] = 0.f;
    if (chunk.works()) {
        const Vec<T, V> origin = *reinterpret_cast<const Vec<T, V>*>(x + chunk.at(p, chunk.first));
#pragma unroll 4
        for (uint64_t row = chunk.first + chunk.row_lane; row < chunk.last; row += chunk.row_lanes) {
            const Vec<T, V> v = *reinterpret_cast<const Vec<T, V>*>(x + chunk.at(p, row));
#pragma unroll
            for (int k = 0; k < V; k++) {
                const float d = v.get(k) - origin.get(k);
                sum[k] += d;
                square[k] = fmaf(d, d, square[k]);
            }
        }
        const uint32_t to = chunk.row_lane * p.n_channels + chunk.vector * V;
#pragma unroll
        for (int k = 0; k < V; k++) sums[0][to + k] = sum[k], sums[1][to + k] = square[k];
    }
    __syncthreads();
    const float n = float(chunk.last - chunk.first);
    const T* origin = x + (uint64_t(blockIdx.y) * p.n_rows + chunk.first) * p.n_channels;
    const uint32_t each = p.n_channels / p.n_groups;
    for (uint32_t group = threadIdx.x; group < p.n_groups; group += THREADS) {
        Moments all{0.f, 0.f, 0.f};
        for (uint32_t channel = group * each; channel < (group + 1) * each; channel++) {
            float s = 0.f, q = 0.f;
            for (uint32_t lane = 0; lane < chunk.row_lanes; lane++) {
                s += sums[0][lane * p.n_channels + channel];
                q += sums[1][lane * p.n_channels + channel];
            }
            const float apart = s / n;
            all.add({n, to_f32(origin[channel]) + apart, fmaxf(fmaf(-s, apart, q), 0.f)});
        }
        float* to = p.partial + ((uint64_t(blockIdx.y) * p.n_chunks + blockIdx.x) * p.n_groups + group) * 2;
        to[0] = all.mean, to[1] = all.squares;
    }
}

// One warp for each group of each picture.
__device__ __forceinline__ void group_norm_statistics(const GroupNorm& p) {
    const uint32_t lane = threadIdx.x % 32, at = (blockIdx.x * THREADS + threadIdx.x) / 32;
    const uint32_t picture = at / p.n_groups, group = at % p.n_groups;
    if (picture >= p.batch) return;
    const float each = float(p.n_channels / p.n_groups);
    Moments all{0.f, 0.f, 0.f};
    for (uint32_t chunk = lane; chunk < p.n_chunks; chunk += 32) {
        const uint64_t rows = min(uint64_t(p.rows_per_chunk), p.n_rows - uint64_t(chunk) * p.rows_per_chunk);
        const float* from = p.partial + ((uint64_t(picture) * p.n_chunks + chunk) * p.n_groups + group) * 2;
        all.add({each * float(rows), from[0], from[1]});
    }
#pragma unroll
    for (int d = 16; d >= 1; d /= 2) {
        const Moments other{__shfl_down_sync(~0u, all.n, d), __shfl_down_sync(~0u, all.mean, d), __shfl_down_sync(~0u, all.squares, d)};
        all.add(other);
    }
    if (lane == 0) {
        float* to = p.statistics + uint64_t(at) * 2;
        to[0] = all.mean, to[1] = rsqrtf(all.squares / all.n + p.eps);
    }
}

__device__ __forceinline__ float activated(float x, uint32_t activation) {
    if (activation == 1) return x * sigmoid(x);
    if (activation == 2) return 0.5f * x * (1.f + erff(x * 0.70710678118654752f));
    return x;
}

template <typename T> __device__ __forceinline__ void group_norm_apply(const GroupNorm& p) {
    using C = Chunk<T>;
    constexpr int V = C::V;
    const C chunk(p);
    if (!chunk.works()) return;
    const T* x = static_cast<const T*>(p.x);
    T* y = static_cast<T*>(p.y);
    const uint32_t each = p.n_channels / p.n_groups;
    float mean[V], scale[V], bias[V];
#pragma unroll
    for (int k = 0; k < V; k++) {
        const uint32_t channel = chunk.vector * V + k;
        const float* of = p.statistics + (uint64_t(blockIdx.y) * p.n_groups + channel / each) * 2;
        mean[k] = of[0], scale[k] = of[1] * p.weight[channel], bias[k] = p.bias[channel];
    }
#pragma unroll 4
    for (uint64_t row = chunk.first + chunk.row_lane; row < chunk.last; row += chunk.row_lanes) {
        const uint64_t at = chunk.at(p, row);
        const Vec<T, V> v = *reinterpret_cast<const Vec<T, V>*>(x + at);
        float out[V];
#pragma unroll
        for (int k = 0; k < V; k++) out[k] = activated(fmaf(v.get(k) - mean[k], scale[k], bias[k]), p.activation);
        *reinterpret_cast<Vec<T, V>*>(y + at) = pack<T, V>(out);
    }
}

#define GROUP_NORM(NAME, T)                                                                                                           \
    extern "C" __global__ void __launch_bounds__(THREADS) group_norm_sums_##NAME(const __grid_constant__ GroupNorm p) { group_norm_sums<T>(p); }   \
    extern "C" __global__ void __launch_bounds__(THREADS) group_norm_apply_##NAME(const __grid_constant__ GroupNorm p) { group_norm_apply<T>(p); }
