// Operations on elements that know nothing of each other: sums, SiLU, noise, squared errors.
//
// Floor: what goes in and out, once. 8 elements a thread, a block's neighbours side by side; whole vectors where all arrays
// are aligned, else one by one.
#pragma once
#include "../common/dtype.cuh"
#include "params.h"

constexpr int THREADS = 256, N = 8;

__device__ __forceinline__ uint64_t first_element() { return (uint64_t(blockIdx.x) * THREADS + threadIdx.x) * N; }

// Whether N elements from each of these on can be moved as vectors.
template <typename... P> __device__ __forceinline__ bool aligned(const P*... arrays) {
    return ((reinterpret_cast<uint64_t>(arrays) | ...) % 16) == 0;
}

// N elements from `first` on, at most 16 bytes an access; those past n are zero.
template <typename T> __device__ __forceinline__ void load(float (&to)[N], const T* from, uint64_t first, uint64_t n, bool whole) {
    constexpr int V = 16 / int(sizeof(T)) < N ? 16 / int(sizeof(T)) : N;
    if (whole) {
#pragma unroll
        for (int k = 0; k < N; k += V) {
            const Vec<T, V> x = *reinterpret_cast<const Vec<T, V>*>(from + first + k);
#pragma unroll
            for (int v = 0; v < V; v++) to[k + v] = x.get(v);
        }
    } else {
#pragma unroll
        for (int k = 0; k < N; k++) to[k] = first + k < n ? to_f32(from[first + k]) : 0.f;
    }
}

template <typename T> __device__ __forceinline__ void store(T* to, const float (&from)[N], uint64_t first, uint64_t n, bool whole) {
    constexpr int V = 16 / int(sizeof(T)) < N ? 16 / int(sizeof(T)) : N;
    if (whole) {
#pragma unroll
        for (int k = 0; k < N; k += V) {
            float x[V];
#pragma unroll
            for (int v = 0; v < V; v++) x[v] = from[k + v];
            *reinterpret_cast<Vec<T, V>*>(to + first + k) = pack<T, V>(x);
        }
    } else {
#pragma unroll
        for (int k = 0; k < N; k++)
            if (first + k < n) to[first + k] = from_f32<T>(from[k]);
    }
}

template <typename A, typename B, typename Out> __device__ __forceinline__ void combine(const Combine& p) {
    const uint64_t first = first_element();
    if (first >= p.n) return;
    const A* a = static_cast<const A*>(p.a);
    const B* b = static_cast<const B*>(p.b);
    Out* out = static_cast<Out*>(p.out);
    const bool whole = first + N <= p.n && aligned(a, b, out);
    float x[N] = {}, y[N];
    if (a) load(x, a, first, p.n, whole);
    load(y, b, first, p.n, whole);
#pragma unroll
    for (int k = 0; k < N; k++) y[k] = a ? fmaf(p.alpha, x[k], p.beta * y[k]) : p.beta * y[k];
    store(out, y, first, p.n, whole);
}

template <typename T, bool BACKWARD> __device__ __forceinline__ void silu(const Silu& p) {
    const uint64_t first = first_element();
    if (first >= p.n) return;
    const T *from = static_cast<const T*>(p.x), *grad = static_cast<const T*>(p.grad);
    T* out = static_cast<T*>(p.out);
    const bool whole = first + N <= p.n && aligned(from, out) && (!BACKWARD || aligned(grad));
    float x[N], g[N];
    load(x, from, first, p.n, whole);
    if (BACKWARD) load(g, grad, first, p.n, whole);
#pragma unroll
    for (int k = 0; k < N; k++) {
        const float sigmoid = 1.f / (1.f + expf(-x[k]));
        x[k] = BACKWARD ? g[k] * sigmoid * (1.f + x[k] * (1.f - sigmoid)) : x[k] * sigmoid;
    }
    store(out, x, first, p.n, whole);
}

template <typename T> __device__ __forceinline__ void add_noise(const AddNoise& p) {
    const uint64_t first = first_element();
    if (first >= p.n) return;
    T* out = static_cast<T*>(p.out);
    const bool whole = first + N <= p.n && aligned(p.clean, p.epsilon, out);
    float x[N], e[N];
    load(x, p.clean, first, p.n, whole);
    load(e, p.epsilon, first, p.n, whole);
#pragma unroll
    for (int k = 0; k < N; k++) {
        const uint64_t row = min(first + k, p.n - 1) / p.width;
        // Each product rounded apart, as on the processor.
        x[k] = __fadd_rn(__fmul_rn(x[k], p.factors[2 * row]), __fmul_rn(e[k], p.factors[2 * row + 1]));
    }
    store(out, x, first, p.n, whole);
}

// The sum over a block, in an order that its size decides; thread 0 has it.
template <int WIDTH> __device__ __forceinline__ float block_sum(float x) {
    __shared__ float sums[WIDTH / 32];
#pragma unroll
    for (int d = 16; d >= 1; d /= 2) x += __shfl_down_sync(~0u, x, d);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0.f;
    if (threadIdx.x == 0)
        for (int w = 0; w < WIDTH / 32; w++) x += sums[w];
    return x;
}

// The sum of each block's elements.
template <typename T> __device__ __forceinline__ void squared_error(const SquaredError& p) {
    const uint64_t first = first_element();
    float sum = 0.f;
    if (first < p.n) {
        const T* predicted = static_cast<const T*>(p.predicted);
        const bool whole = first + N <= p.n && aligned(predicted, p.target);
        float x[N], y[N];
        load(x, predicted, first, p.n, whole);
        load(y, p.target, first, p.n, whole);
#pragma unroll
        for (int k = 0; k < N; k++) sum += (x[k] - y[k]) * (x[k] - y[k]);
    }
    sum = block_sum<THREADS>(sum);
    if (threadIdx.x == 0) p.partial[blockIdx.x] = sum;
}

template <typename T> __device__ __forceinline__ void squared_error_backward(const SquaredError& p) {
    const uint64_t first = first_element();
    if (first >= p.n) return;
    const T* predicted = static_cast<const T*>(p.predicted);
    T* out = static_cast<T*>(p.out);
    const bool whole = first + N <= p.n && aligned(predicted, p.target, out);
    const float factor = 2.f * p.scale * *p.grad;
    float x[N], y[N];
    load(x, predicted, first, p.n, whole);
    load(y, p.target, first, p.n, whole);
#pragma unroll
    for (int k = 0; k < N; k++) x[k] = factor * (x[k] - y[k]);
    store(out, x, first, p.n, whole);
}

#define KERNEL(NAME, PARAMS, CALL)                                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS) elementwise_##NAME(const __grid_constant__ PARAMS p) { CALL(p); }
#define OF_TYPE(NAME, T)                                                                                               \
    KERNEL(combine_##NAME, Combine, (combine<T, T, T>))                                                                \
    KERNEL(silu_##NAME, Silu, (silu<T, false>))                                                                        \
    KERNEL(silu_backward_##NAME, Silu, (silu<T, true>))                                                                \
    KERNEL(add_noise_##NAME, AddNoise, (add_noise<T>))                                                                 \
    KERNEL(squared_error_##NAME, SquaredError, (squared_error<T>))                                                     \
    KERNEL(squared_error_backward_##NAME, SquaredError, (squared_error_backward<T>))
// Between 16 bits and f32.
#define CONVERSIONS(NAME, T)                                                                                           \
    KERNEL(widen_##NAME, Combine, (combine<float, T, float>))                                                          \
    KERNEL(narrow_##NAME, Combine, (combine<float, float, T>))
