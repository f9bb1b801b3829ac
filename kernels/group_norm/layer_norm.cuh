// Layer norm: group norm of rows, each of which is one group (Ba, Kiros and Hinton 2016, arXiv 1607.06450).
//
// A warp holds a row: its mean first, then the squares around it.
#pragma once
#include "group_norm.cuh"

__device__ __forceinline__ float sum_of_warp(float x) {
#pragma unroll
    for (int d = 16; d >= 1; d /= 2) x += __shfl_xor_sync(~0u, x, d);
    return x;
}

// N vectors of a row for each lane.
template <typename T, int N> __device__ __forceinline__ void layer_norm_rows(const LayerNorm& p) {
    constexpr int V = 16 / sizeof(T);
    const uint32_t lane = threadIdx.x % 32, vectors = p.width / V;
    const uint64_t row = (uint64_t(blockIdx.x) * THREADS + threadIdx.x) / 32;
    if (row >= p.n_rows) return;
    const auto* from = reinterpret_cast<const Vec<T, V>*>(static_cast<const T*>(p.x) + row * p.width);
    Vec<T, V> v[N];
    float sum = 0.f, squares = 0.f;
#pragma unroll
    for (int i = 0; i < N; i++) {
        if (i * 32 + lane < vectors) v[i] = from[i * 32 + lane];
        else v[i].zero();
#pragma unroll
        for (int k = 0; k < V; k++) sum += v[i].get(k);
    }
    const float mean = sum_of_warp(sum) / float(p.width);
#pragma unroll
    for (int i = 0; i < N; i++)
        if (i * 32 + lane < vectors)
#pragma unroll
            for (int k = 0; k < V; k++) squares = fmaf(v[i].get(k) - mean, v[i].get(k) - mean, squares);
    const float scale = rsqrtf(sum_of_warp(squares) / float(p.width) + p.eps);
    auto* to = reinterpret_cast<Vec<T, V>*>(static_cast<T*>(p.y) + row * p.width);
#pragma unroll
    for (int i = 0; i < N; i++) {
        if (i * 32 + lane >= vectors) continue;
        float out[V];
#pragma unroll
        for (int k = 0; k < V; k++) {
            const uint32_t column = (i * 32 + lane) * V + k;
            out[k] = fmaf((v[i].get(k) - mean) * scale, p.weight[column], p.bias[column]);
        }
        to[i * 32 + lane] = pack<T, V>(out);
    }
}

// Up to 8 vectors a lane.
template <typename T> __device__ __forceinline__ void layer_norm(const LayerNorm& p) {
    const uint32_t vectors = p.width / (16 / sizeof(T));
    if (vectors <= 64) layer_norm_rows<T, 2>(p);
    else if (vectors <= 128) layer_norm_rows<T, 4>(p);
    else layer_norm_rows<T, 8>(p);
}

#define LAYER_NORM(NAME, T) \
    extern "C" __global__ void __launch_bounds__(THREADS) layer_norm_##NAME(const __grid_constant__ LayerNorm p) { layer_norm<T>(p); }
