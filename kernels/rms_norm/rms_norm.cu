// RMS norm of rows: y = x r w, r = (mean(x^2) + eps)^-1/2, with an optional sum x + residual in front.
//
// A warp owns a row and reads it twice, the second time from the cache. With n = x r the backward pass is
// dx = r (dy w - n mean(dy w n)), dw = sum over rows of dy n: a block owns 16 rows, whose dw it sums column by column behind
// a barrier, again from the cache; column_sums adds the blocks' sums.
#include "../common/dtype.cuh"
#include "params.h"

constexpr int WARPS = 8, CHUNK = 16, V = 8;

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int d = 16; d >= 1; d /= 2) x += __shfl_xor_sync(~0u, x, d);
    return x;
}

// The weights of V columns.
template <bool ALIGNED> __device__ __forceinline__ void load_weights(float (&w)[V], const float* weight, int column, int valid) {
#pragma unroll
    for (int i = 0; i < V; i += 4) {
        const Vec<float, 4> part = load_vec<ALIGNED, float, 4>(weight + column + i, valid - i);
#pragma unroll
        for (int j = 0; j < 4; j++) w[i + j] = part.get(j);
    }
}

template <typename T, bool ALIGNED> __device__ __forceinline__ void norm_forward(const NormForward& p) {
    const uint32_t row = blockIdx.x * WARPS + threadIdx.x / 32;
    if (row >= p.n_rows) return;
    const int lane = threadIdx.x % 32, width = p.width;
    float squares = 0.f;
    for (int column = lane * V; column < width; column += 32 * V) {
        const int valid = width - column;
        const Vec<T, V> x = load_vec<ALIGNED, T, V>(at_row<T>(p.x, row, p.x_stride, column), valid);
        float v[V];
#pragma unroll
        for (int i = 0; i < V; i++) v[i] = x.get(i);
        if (p.residual) {
            const T* from = at_row<T>(p.residual, row, p.residual_stride, column);
            const Vec<T, V> residual = load_vec<ALIGNED, T, V>(from, valid);
#pragma unroll
            for (int i = 0; i < V; i++) v[i] += residual.get(i);
            // What is normed is the sum as it is stored: the backward pass reads that.
            const Vec<T, V> sum = pack<T, V>(v);
            store_vec<ALIGNED, T, V>(at_row<T>(p.sum, row, p.sum_stride, column), sum, valid);
#pragma unroll
            for (int i = 0; i < V; i++) v[i] = sum.get(i);
        }
#pragma unroll
        for (int i = 0; i < V; i++) squares = fmaf(v[i], v[i], squares);
    }
    const float r = rsqrtf(warp_sum(squares) / float(width) + p.eps);
    for (int column = lane * V; column < width; column += 32 * V) {
        const int valid = width - column;
        // Each lane reads what it has itself written.
        const T* from = p.residual ? at_row<T>(static_cast<const void*>(p.sum), row, p.sum_stride, column)
                                   : at_row<T>(p.x, row, p.x_stride, column);
        const Vec<T, V> x = load_vec<ALIGNED, T, V>(from, valid);
        float w[V], y[V];
        load_weights<ALIGNED>(w, p.weight, column, valid);
#pragma unroll
        for (int i = 0; i < V; i++) y[i] = x.get(i) * r * w[i];
        store_vec<ALIGNED, T, V>(at_row<T>(p.y, row, p.y_stride, column), pack<T, V>(y), valid);
    }
}

template <typename T, bool ALIGNED> __device__ __forceinline__ void norm_backward(const NormBackward& p) {
    __shared__ float scales[CHUNK];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, width = p.width;
    const uint32_t first = blockIdx.x * CHUNK, last = min(first + CHUNK, p.n_rows);
    for (uint32_t row = first + warp; row < last; row += WARPS) {
        float squares = 0.f, dot = 0.f;
        for (int column = lane * V; column < width; column += 32 * V) {
            const int valid = width - column;
            const Vec<T, V> x = load_vec<ALIGNED, T, V>(at_row<T>(p.x, row, p.x_stride, column), valid);
            const Vec<T, V> g = load_vec<ALIGNED, T, V>(at_row<T>(p.grad_y, row, p.grad_y_stride, column), valid);
            float w[V];
            load_weights<ALIGNED>(w, p.weight, column, valid);
#pragma unroll
            for (int i = 0; i < V; i++) {
                squares = fmaf(x.get(i), x.get(i), squares);
                dot = fmaf(g.get(i) * w[i], x.get(i), dot);
            }
        }
        const float r = rsqrtf(warp_sum(squares) / float(width) + p.eps);
        const float back = warp_sum(dot) / float(width) * r * r;
        if (lane == 0) scales[row - first] = r;
        for (int column = lane * V; column < width; column += 32 * V) {
            const int valid = width - column;
            const Vec<T, V> x = load_vec<ALIGNED, T, V>(at_row<T>(p.x, row, p.x_stride, column), valid);
            const Vec<T, V> g = load_vec<ALIGNED, T, V>(at_row<T>(p.grad_y, row, p.grad_y_stride, column), valid);
            float w[V], out[V];
            load_weights<ALIGNED>(w, p.weight, column, valid);
#pragma unroll
            for (int i = 0; i < V; i++) out[i] = r * fmaf(-x.get(i), back, g.get(i) * w[i]);
            if (p.grad_sum) {
                const T* from = at_row<T>(p.grad_sum, row, p.grad_sum_stride, column);
                const Vec<T, V> sum = load_vec<ALIGNED, T, V>(from, valid);
#pragma unroll
                for (int i = 0; i < V; i++) out[i] += sum.get(i);
            }
            store_vec<ALIGNED, T, V>(at_row<T>(p.grad_x, row, p.grad_x_stride, column), pack<T, V>(out), valid);
        }
    }
    __syncthreads();
    for (int column = threadIdx.x * V; column < width; column += WARPS * 32 * V) {
        const int valid = width - column;
        float sum[V] = {};
        for (uint32_t row = first; row < last; row++) {
            const Vec<T, V> x = load_vec<ALIGNED, T, V>(at_row<T>(p.x, row, p.x_stride, column), valid);
            const Vec<T, V> g = load_vec<ALIGNED, T, V>(at_row<T>(p.grad_y, row, p.grad_y_stride, column), valid);
            const float r = scales[row - first];
#pragma unroll
            for (int i = 0; i < V; i++) sum[i] = fmaf(g.get(i) * r, x.get(i), sum[i]);
        }
        float* to = p.partial + uint64_t(blockIdx.x) * p.width + column;
#pragma unroll
        for (int i = 0; i < V; i++)
            if (i < valid) to[i] = sum[i];
    }
}

#define NORM(NAME, T, ALIGNED)                                                                                       \
    extern "C" __global__ void __launch_bounds__(WARPS * 32) rms_norm_forward_##NAME(const __grid_constant__ NormForward p) { \
        norm_forward<T, ALIGNED>(p);                                                                                    \
    }                                                                                                                   \
    extern "C" __global__ void __launch_bounds__(WARPS * 32) rms_norm_backward_##NAME(const __grid_constant__ NormBackward p) { \
        norm_backward<T, ALIGNED>(p);                                                                                   \
    }
NORM(bf16, bf16, false)
NORM(bf16_aligned, bf16, true)
NORM(f16, f16, false)
NORM(f16_aligned, f16, true)
NORM(f32, float, false)
NORM(f32_aligned, float, true)
