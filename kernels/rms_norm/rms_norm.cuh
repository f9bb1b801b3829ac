// RMS norm of rows: y = x r w, r = (mean(x^2) + eps)^-1/2, with an optional sum x + residual in front.
//
// With n = x r the backward pass is dx = r (dy w - n mean(dy w n)), dw = sum over rows of dy n.
//
// Up to 6144 columns a row is held in registers by a team of 1 to 8 warps, and read once; blocks stay for many rows,
// with the weights, and backward with a sum for each weight, in registers too. Each block leaves one partial sum a
// weight, which a second kernel adds in order. Other rows (wider, or not on vectors of 16 bytes) are a warp's, read
// twice, the second time from the cache; there a block owns 16 rows, whose dw it sums behind a barrier, and column_sums
// adds the blocks' sums.
#pragma once
#include "../common/dtype.cuh"
#include "params.h"

constexpr int WARPS = 8, CHUNK = 16, V = 8;

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int d = 16; d >= 1; d /= 2) x += __shfl_xor_sync(~0u, x, d);
    return x;
}

// The weights of V columns.
template <bool ALIGNED>
__device__ __forceinline__ void load_weights(float (&w)[V], const float* weight, int column, int valid) {
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

// Rows held in registers: vector i of lane l of a team stands at vector i * lanes + l of the row.
struct Team {
    uint32_t warps, lane, row, rows;  // of a row; in the team; of the block's first rows, and how many rows those are
    uint32_t turn = 0;

    __device__ __forceinline__ explicit Team(uint32_t warps) : warps(warps) {
        const uint32_t warp = threadIdx.x / 32;
        lane = warp % warps * 32 + threadIdx.x % 32;
        rows = WARPS / warps;
        row = blockIdx.x * rows + warp / warps;
    }
    __device__ __forceinline__ int column(int i) const { return int((i * warps * 32 + lane) * V); }
    __device__ __forceinline__ uint32_t stride() const { return gridDim.x * rows; }

    // Sums over the team. Every warp of it calls this as often.
    __device__ __forceinline__ float2 sum(float2 x) {
        __shared__ float2 parts[2][WARPS];
        x.x = warp_sum(x.x);
        x.y = warp_sum(x.y);
        if (warps == 1) return x;
        const uint32_t warp = threadIdx.x / 32, first = warp / warps * warps;
        if (threadIdx.x % 32 == 0) parts[turn][warp] = x;
        asm volatile("bar.sync %0, %1;" ::"r"(1 + warp / warps), "r"(warps * 32) : "memory");
        float2 total = {0.f, 0.f};
        for (uint32_t w = first; w < first + warps; w++) {
            total.x += parts[turn][w].x;
            total.y += parts[turn][w].y;
        }
        turn ^= 1;  // these parts are written again behind another barrier
        return total;
    }
};

// Makes the compiler unpack the elements again, rather than keep them as f32 in twice the registers.
template <typename T, int NV> __device__ __forceinline__ void keep_packed(Vec<T, V> (&x)[NV]) {
#pragma unroll
    for (int i = 0; i < NV; i++)
#pragma unroll
        for (int w = 0; w < Vec<T, V>::WORDS; w++) asm volatile("" : "+r"(x[i].words[w]));
}

template <typename T, int NV> __device__ __forceinline__ void held_forward(const NormForward& p) {
    Team team(p.team);
    const int width = p.width;
    float w[NV][V];
#pragma unroll
    for (int i = 0; i < NV; i++) load_weights<true>(w[i], p.weight, team.column(i), width - team.column(i));
    for (uint32_t row = team.row; row < p.n_rows; row += team.stride()) {
        Vec<T, V> x[NV], residual[NV];
#pragma unroll
        for (int i = 0; i < NV; i++) {
            const int column = team.column(i);
            x[i] = load_vec<true, T, V>(at_row<T>(p.x, row, p.x_stride, column), width - column);
            if (p.residual)
                residual[i] =
                    load_vec<true, T, V>(at_row<T>(p.residual, row, p.residual_stride, column), width - column);
        }
        float squares = 0.f;
#pragma unroll
        for (int i = 0; i < NV; i++) {
            if (p.residual) {
                float v[V];
#pragma unroll
                for (int k = 0; k < V; k++) v[k] = x[i].get(k) + residual[i].get(k);
                // What is normed is the sum as it is stored: the backward pass reads that.
                x[i] = pack<T, V>(v);
                const int column = team.column(i);
                store_vec<true, T, V>(at_row<T>(p.sum, row, p.sum_stride, column), x[i], width - column);
            }
#pragma unroll
            for (int k = 0; k < V; k++) squares = fmaf(x[i].get(k), x[i].get(k), squares);
        }
        const float r = rsqrtf(team.sum({squares, 0.f}).x / float(width) + p.eps);
#pragma unroll
        for (int i = 0; i < NV; i++) {
            const int column = team.column(i);
            float y[V];
#pragma unroll
            for (int k = 0; k < V; k++) y[k] = x[i].get(k) * r * w[i][k];
            store_vec<true, T, V>(at_row<T>(p.y, row, p.y_stride, column), pack<T, V>(y), width - column);
        }
    }
}

template <typename T, int NV> __device__ __forceinline__ void held_backward(const NormBackward& p) {
    __shared__ float sums[WARPS][NV * V][32];
    Team team(p.team);
    const int width = p.width;
    float w[NV][V], sum[NV][V] = {};
#pragma unroll
    for (int i = 0; i < NV; i++) load_weights<true>(w[i], p.weight, team.column(i), width - team.column(i));
    // All teams of a block take as many turns, the last perhaps without a row: faster, and what racecheck can follow.
    for (uint32_t first = blockIdx.x * team.rows; first < p.n_rows; first += team.stride()) {
        const uint32_t row = first + team.row - blockIdx.x * team.rows;
        const int there = row < p.n_rows ? width : 0;
        Vec<T, V> x[NV], g[NV], past[NV];
#pragma unroll
        for (int i = 0; i < NV; i++) {
            const int column = team.column(i), valid = there - column;
            x[i] = load_vec<true, T, V>(at_row<T>(p.x, row, p.x_stride, column), valid);
            g[i] = load_vec<true, T, V>(at_row<T>(p.grad_y, row, p.grad_y_stride, column), valid);
            past[i].zero();
            if (p.grad_sum)
                past[i] = load_vec<true, T, V>(at_row<T>(p.grad_sum, row, p.grad_sum_stride, column), valid);
        }
        float2 both = {0.f, 0.f};  // squares, and dy w x
#pragma unroll
        for (int i = 0; i < NV; i++) {
#pragma unroll
            for (int k = 0; k < V; k++) {
                both.x = fmaf(x[i].get(k), x[i].get(k), both.x);
                both.y = fmaf(g[i].get(k) * w[i][k], x[i].get(k), both.y);
            }
        }
        both = team.sum(both);
        keep_packed(x);
        keep_packed(g);
        const float r = rsqrtf(both.x / float(width) + p.eps), back = both.y / float(width) * r * r;
#pragma unroll
        for (int i = 0; i < NV; i++) {
            const int column = team.column(i);
            float out[V];
#pragma unroll
            for (int k = 0; k < V; k++) {
                out[k] = fmaf(r, fmaf(-x[i].get(k), back, g[i].get(k) * w[i][k]), past[i].get(k));
                sum[i][k] = fmaf(g[i].get(k) * r, x[i].get(k), sum[i][k]);
            }
            store_vec<true, T, V>(at_row<T>(p.grad_x, row, p.grad_x_stride, column), pack<T, V>(out), there - column);
        }
    }
    // Over the block's teams, in order.
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int i = 0; i < NV; i++)
#pragma unroll
        for (int k = 0; k < V; k++) sums[warp][i * V + k][lane] = sum[i][k];
    __syncthreads();
    float* to = p.partial + uint64_t(blockIdx.x) * p.width;
    for (uint32_t at = threadIdx.x; at < team.warps * NV * V * 32; at += WARPS * 32) {
        const uint32_t of = at % 32, element = at / 32 % (NV * V), member = at / 32 / (NV * V);
        const uint32_t column = ((element / V * team.warps + member) * 32 + of) * V + element % V;
        float total = 0.f;
        for (uint32_t t = 0; t < team.rows; t++) total += sums[t * team.warps + member][element][of];
        if (column < p.width) to[column] = total;
    }
}

// FORWARD, BACKWARD: blocks that a multiprocessor is to hold; Rust launches as many.
#define NORM(NAME, T)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(WARPS * 32)                                                           \
        rms_norm_forward_##NAME(const __grid_constant__ NormForward p) {                                               \
        norm_forward<T, false>(p);                                                                                     \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(WARPS * 32)                                                           \
        rms_norm_backward_##NAME(const __grid_constant__ NormBackward p) {                                             \
        norm_backward<T, false>(p);                                                                                    \
    }
#define HELD(NAME, T, NV, FORWARD, BACKWARD)                                                                           \
    extern "C" __global__ void __launch_bounds__(WARPS * 32, FORWARD)                                                  \
        rms_norm_forward_held_##NAME##_##NV(const __grid_constant__ NormForward p) {                                   \
        held_forward<T, NV>(p);                                                                                        \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(WARPS * 32, BACKWARD)                                                 \
        rms_norm_backward_held_##NAME##_##NV(const __grid_constant__ NormBackward p) {                                 \
        held_backward<T, NV>(p);                                                                                       \
    }
