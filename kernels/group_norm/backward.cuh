// The gradients of group norm, around the same chunks as the norm itself.
//
//   z = x_hat weight + bias,  dz = dy activation'(z)
//   dbias = sum dz,  dweight = sum dz x_hat  (over pixels, then pictures)
//   dx = (dz weight - mean(dz weight) - x_hat mean(dz weight x_hat)) / deviation  (means over a group's pixels and channels)
#pragma once
#include "group_norm.cuh"

// What a thread needs of its channels, and an element's x_hat and dz.
template <int V> struct Channels {
    float mean[V], scale[V], weight[V], bias[V];
    __device__ __forceinline__ Channels(const GroupNormBackward& p, uint32_t first) {
        const uint32_t each = p.n_channels / p.n_groups;
#pragma unroll
        for (int k = 0; k < V; k++) {
            const float* of = p.statistics + (uint64_t(blockIdx.y) * p.n_groups + (first + k) / each) * 2;
            mean[k] = of[0], scale[k] = of[1], weight[k] = p.weight[first + k], bias[k] = p.bias[first + k];
        }
    }
    __device__ __forceinline__ float2 at(const GroupNormBackward& p, int k, float x, float grad) const {
        const float x_hat = (x - mean[k]) * scale[k], z = fmaf(x_hat, weight[k], bias[k]), s = sigmoid(z);
        return {x_hat, p.activation == 1 ? grad * s * fmaf(z, 1.f - s, 1.f) : grad};
    }
};

template <typename T> __device__ __forceinline__ void group_norm_backward_sums(const GroupNormBackward& p) {
    using C = Chunk<T>;
    constexpr int V = C::V;
    const C chunk(p);
    __shared__ float sums[2][THREADS * V];  // (row_lanes, n_channels) each
    if (chunk.works()) {
        const Channels<V> of(p, chunk.vector * V);
        float dz_sum[V], along[V];
#pragma unroll
        for (int k = 0; k < V; k++) dz_sum[k] = along[k] = 0.f;
#pragma unroll 2
        for (uint64_t row = chunk.first + chunk.row_lane; row < chunk.last; row += chunk.row_lanes) {
            const Vec<T, V> x = *reinterpret_cast<const Vec<T, V>*>(static_cast<const T*>(p.x) + chunk.at(p, row));
            const Vec<T, V> grad = *reinterpret_cast<const Vec<T, V>*>(static_cast<const T*>(p.grad_y) + chunk.at(p, row));
#pragma unroll
            for (int k = 0; k < V; k++) {
                const float2 at = of.at(p, k, x.get(k), grad.get(k));
                dz_sum[k] += at.y;
                along[k] = fmaf(at.y, at.x, along[k]);
            }
        }
        const uint32_t to = chunk.row_lane * p.n_channels + chunk.vector * V;
#pragma unroll
        for (int k = 0; k < V; k++) sums[0][to + k] = dz_sum[k], sums[1][to + k] = along[k];
    }
    __syncthreads();
    float* to = p.partial + (uint64_t(blockIdx.y) * p.n_chunks + blockIdx.x) * 2 * p.n_channels;
    for (uint32_t i = threadIdx.x; i < 2 * p.n_channels; i += THREADS) {
        const float* from = i < p.n_channels ? sums[0] + i : sums[1] + i - p.n_channels;
        float sum = 0.f;
#pragma unroll 1
        for (uint32_t lane = 0; lane < chunk.row_lanes; lane++) sum += from[lane * p.n_channels];
        to[i] = sum;
    }
}

template <typename T> __device__ __forceinline__ void group_norm_backward_apply(const GroupNormBackward& p) {
    using C = Chunk<T>;
    constexpr int V = C::V;
    const C chunk(p);
    if (!chunk.works()) return;
    const Channels<V> of(p, chunk.vector * V);
    const uint32_t each = p.n_channels / p.n_groups;
    float mean[V], along[V];
#pragma unroll
    for (int k = 0; k < V; k++) {
        const float* from = p.means + (uint64_t(blockIdx.y) * p.n_groups + (chunk.vector * V + k) / each) * 2;
        mean[k] = from[0], along[k] = from[1];
    }
#pragma unroll 2
    for (uint64_t row = chunk.first + chunk.row_lane; row < chunk.last; row += chunk.row_lanes) {
        const uint64_t at = chunk.at(p, row);
        const Vec<T, V> x = *reinterpret_cast<const Vec<T, V>*>(static_cast<const T*>(p.x) + at);
        const Vec<T, V> grad = *reinterpret_cast<const Vec<T, V>*>(static_cast<const T*>(p.grad_y) + at);
        float out[V];
#pragma unroll
        for (int k = 0; k < V; k++) {
            const float2 one = of.at(p, k, x.get(k), grad.get(k));
            out[k] = (fmaf(one.y, of.weight[k], -mean[k]) - one.x * along[k]) * of.scale[k];
        }
        *reinterpret_cast<Vec<T, V>*>(static_cast<T*>(p.grad_x) + at) = pack<T, V>(out);
    }
}

#define GROUP_NORM_BACKWARD(NAME, T)                                                                                                           \
    extern "C" __global__ void __launch_bounds__(THREADS) group_norm_backward_sums_##NAME(const __grid_constant__ GroupNormBackward p) {       \
        group_norm_backward_sums<T>(p);                                                                                                        \
    }                                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS) group_norm_backward_apply_##NAME(const __grid_constant__ GroupNormBackward p) {      \
        group_norm_backward_apply<T>(p);                                                                                                       \
    }
