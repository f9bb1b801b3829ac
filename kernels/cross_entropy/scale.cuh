#pragma once
#include "../common/dtype.cuh"
#include "params.h"

// A gradient times the gradient of what it belongs to: 8 elements a thread, a block's neighbours side by side.
template <typename In, typename Out> __device__ __forceinline__ void scale_elements(const Scaling& p) {
    constexpr int N = 8;
    const float factor = *p.factor;
    const uint64_t first = (uint64_t(blockIdx.x) * 256 + threadIdx.x) * N;
    const In* from = static_cast<const In*>(p.from) + first;
    Out* to = static_cast<Out*>(p.to) + first;
    const bool aligned = (reinterpret_cast<uint64_t>(from) % 16 | reinterpret_cast<uint64_t>(to) % 16) == 0;
    if (aligned && first + N <= p.n) {
        constexpr int V = 16 / int(sizeof(In) > sizeof(Out) ? sizeof(In) : sizeof(Out));
#pragma unroll
        for (int k = 0; k < N; k += V) {
            const Vec<In, V> x = *reinterpret_cast<const Vec<In, V>*>(from + k);
            float y[V];
#pragma unroll
            for (int v = 0; v < V; v++) y[v] = x.get(v) * factor;
            *reinterpret_cast<Vec<Out, V>*>(to + k) = pack<Out, V>(y);
        }
    } else {
        for (int k = 0; k < N && first + k < p.n; k++) to[k] = from_f32<Out>(to_f32(from[k]) * factor);
    }
}

#define SCALING(IN, OUT, In, Out)                                                                                      \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        cross_entropy_scale_##IN##_##OUT(const __grid_constant__ Scaling p) {                                          \
        scale_elements<In, Out>(p);                                                                                    \
    }
