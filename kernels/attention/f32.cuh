// Attention in f32, without tensor cores, which would cut its operands: two neighbouring threads own a row, half of its features
// each, and meet the other side's rows one by one, which lie in shared memory 32 at a time. For checks and small models.
#pragma once
#include "../common/dtype.cuh"
#include "../common/math.cuh"
#include "params.h"

namespace attention_f32 {

constexpr int THREADS = 128, OWN = THREADS / 2, MET = 32, D = 64, HALF = D / 2;

struct Place {
    uint32_t head, sequence, base;
    int t, part;   // position of this thread's row, and which half of it
    bool exists;

    __device__ __forceinline__ explicit Place(const AttentionInputs& in) {
        head = blockIdx.y % in.n_heads;
        sequence = blockIdx.y / in.n_heads;
        base = sequence * in.seqlen;
        t = int(blockIdx.x) * OWN + int(threadIdx.x) / 2;
        part = threadIdx.x % 2;
        exists = t < int(in.seqlen);
    }
    __device__ __forceinline__ int last(const AttentionInputs& in) const { return min(int(blockIdx.x) * OWN + OWN, int(in.seqlen)) - 1; }
    __device__ __forceinline__ int first() const { return int(blockIdx.x) * OWN; }
    __device__ __forceinline__ uint64_t at(const AttentionInputs& in, int position) const {
        return (uint64_t(sequence) * in.n_heads + head) * in.seqlen + position;
    }
    __device__ __forceinline__ uint32_t row(const AttentionInputs& in, int position) const {
        return in.row_of_position ? in.row_of_position[base + position] : base + position;
    }
};

// This thread's half of a row; zero past head_dim.
__device__ __forceinline__ void load(float (&x)[HALF], const void* from, uint32_t stride, const AttentionInputs& in, const Place& place) {
    const float* row = place.exists ? at_row<float>(from, place.row(in, place.t), stride, place.head * in.head_dim) : nullptr;
#pragma unroll
    for (int i = 0; i < HALF; i++) {
        const int feature = place.part * HALF + i;
        x[i] = place.exists && feature < int(in.head_dim) ? row[feature] : 0.f;
    }
}
__device__ __forceinline__ void store(void* to, uint32_t stride, const float (&x)[HALF], float scale, const AttentionInputs& in, const Place& place) {
    if (!place.exists) return;
    float* row = at_row<float>(to, place.row(in, place.t), stride, place.head * in.head_dim);
#pragma unroll
    for (int i = 0; i < HALF; i++) {
        const int feature = place.part * HALF + i;
        if (feature < int(in.head_dim)) row[feature] = x[i] * scale;
    }
}
// Rows from position `first` on, as long as the sequence lasts.
__device__ __forceinline__ void stage(float (&to)[MET][D], const void* from, uint32_t stride, int first, const AttentionInputs& in, const Place& place) {
    for (int i = threadIdx.x; i < MET * D; i += THREADS) {
        const int t = first + i / D, feature = i % D;
        const bool there = t < int(in.seqlen) && feature < int(in.head_dim);
        to[i / D][feature] = there ? at_row<float>(from, place.row(in, t), stride, place.head * in.head_dim)[feature] : 0.f;
    }
}
// Of both halves.
__device__ __forceinline__ float dot(const float (&x)[HALF], const float* y) {
    float sum = 0.f;
#pragma unroll
    for (int i = 0; i < HALF; i++) sum = fmaf(x[i], y[i], sum);
    return sum + __shfl_xor_sync(~0u, sum, 1);
}
__device__ __forceinline__ void add(float (&to)[HALF], float weight, const float* x) {
#pragma unroll
    for (int i = 0; i < HALF; i++) to[i] = fmaf(weight, x[i], to[i]);
}

__device__ __forceinline__ void forward(const AttentionForward& p) {
    const AttentionInputs& in = p.in;
    const Place place(in);
    __shared__ float k[MET][D], v[MET][D];
    float q[HALF], out[HALF] = {};
    load(q, in.q, in.q_stride, in, place);
    const int from = place.exists ? int(in.key_first[place.base + place.t]) : 0, to = place.exists ? int(in.key_end[place.base + place.t]) : 0;
    const int begin = int(in.key_first[place.base + place.first()]), end = int(in.key_end[place.base + place.last(in)]);
    const float scale = in.scale * LOG2_E;
    float most = -INFINITY, sum = 0.f;
    for (int first = begin; first < end; first += MET) {
        __syncthreads();
        stage(k, in.k, in.k_stride, first, in, place);
        stage(v, in.v, in.v_stride, first, in, place);
        __syncthreads();
        for (int n = 0; n < MET && first + n < end; n++) {
            const float score = dot(q, k[n] + place.part * HALF) * scale;
            if (first + n < from || first + n >= to) continue;
            const float now = fmaxf(most, score), keep = exp2f(most - now), weight = exp2f(score - now);
            most = now;
            sum = fmaf(sum, keep, weight);
#pragma unroll
            for (int i = 0; i < HALF; i++) out[i] *= keep;
            add(out, weight, v[n] + place.part * HALF);
        }
    }
    store(p.out, uint32_t(p.out_stride), out, 1.f / sum, in, place);
    if (place.exists && place.part == 0) p.lse[place.at(in, place.t)] = most * LN_2 + logf(sum);
}

__device__ __forceinline__ void backward_q(const AttentionBackward& p) {
    const AttentionInputs& in = p.in;
    const Place place(in);
    __shared__ float k[MET][D], v[MET][D];
    float q[HALF], grad_out[HALF], grad_q[HALF] = {};
    load(q, p.out, p.out_stride, in, place);
    load(grad_out, p.grad_out, p.grad_out_stride, in, place);
    const float delta = dot(q, grad_out);
    if (place.exists && place.part == 0) p.delta[place.at(in, place.t)] = delta;
    load(q, in.q, in.q_stride, in, place);
    const float lse = place.exists ? p.lse[place.at(in, place.t)] * LOG2_E : 0.f, scale = in.scale * LOG2_E;
    const int from = place.exists ? int(in.key_first[place.base + place.t]) : 0, to = place.exists ? int(in.key_end[place.base + place.t]) : 0;
    const int begin = int(in.key_first[place.base + place.first()]), end = int(in.key_end[place.base + place.last(in)]);
    for (int first = begin; first < end; first += MET) {
        __syncthreads();
        stage(k, in.k, in.k_stride, first, in, place);
        stage(v, in.v, in.v_stride, first, in, place);
        __syncthreads();
        for (int n = 0; n < MET && first + n < end; n++) {
            const float score = dot(q, k[n] + place.part * HALF) * scale, grad = dot(grad_out, v[n] + place.part * HALF);
            if (first + n < from || first + n >= to) continue;
            add(grad_q, exp2f(score - lse) * (grad - delta), k[n] + place.part * HALF);
        }
    }
    store(p.grad_q, p.grad_q_stride, grad_q, in.scale, in, place);
}

__device__ __forceinline__ void backward_kv(const AttentionBackward& p) {
    const AttentionInputs& in = p.in;
    const Place place(in);
    __shared__ float q[MET][D], grad_out[MET][D], sums[2][MET];
    float k[HALF], v[HALF], grad_k[HALF] = {}, grad_v[HALF] = {};
    load(k, in.k, in.k_stride, in, place);
    load(v, in.v, in.v_stride, in, place);
    const int from = place.exists ? int(in.query_first[place.base + place.t]) : 0, to = place.exists ? int(in.query_end[place.base + place.t]) : 0;
    const int begin = int(in.query_first[place.base + place.first()]), end = int(in.query_end[place.base + place.last(in)]);
    const float scale = in.scale * LOG2_E;
    for (int first = begin; first < end; first += MET) {
        __syncthreads();
        stage(q, in.q, in.q_stride, first, in, place);
        stage(grad_out, p.grad_out, p.grad_out_stride, first, in, place);
        if (threadIdx.x < 2 * MET) {
            const int t = first + int(threadIdx.x) % MET;
            const float* from_sums = threadIdx.x < MET ? p.lse : p.delta;
            const float x = t < int(in.seqlen) ? from_sums[place.at(in, t)] : 0.f;
            sums[threadIdx.x / MET][threadIdx.x % MET] = threadIdx.x < MET ? x * LOG2_E : x;
        }
        __syncthreads();
        for (int n = 0; n < MET && first + n < end; n++) {
            const float score = dot(k, q[n] + place.part * HALF) * scale, grad = dot(v, grad_out[n] + place.part * HALF);
            if (first + n < from || first + n >= to) continue;
            const float weight = exp2f(score - sums[0][n]);
            add(grad_v, weight, grad_out[n] + place.part * HALF);
            add(grad_k, weight * (grad - sums[1][n]), q[n] + place.part * HALF);
        }
    }
    store(p.grad_k, p.grad_k_stride, grad_k, in.scale, in, place);
    store(p.grad_v, p.grad_v_stride, grad_v, 1.f, in, place);
}

}  // namespace attention_f32
