// AdamW over many tensors in one launch (Loshchilov & Hutter, arXiv 1711.05101), and the global norm of the gradients.
//
// Master weights and moments are f32 whatever the gradients are; the rounded weight is written in the same pass. Bytes:
// 16 and twice the element's in and out a weight. A block owns 4096 elements of one tensor. Sums of squares leave by
// block of 16,384 elements and are added in a fixed order by one block; the scale of the clipping is read from the
// device.
#pragma once
#include "../common/dtype.cuh"
#include "../common/entry_of_block.cuh"
#include "params.h"

constexpr int THREADS = 256, V = 4, CHUNK = 4096, SQUARES_CHUNK = 16384;

// The tensor of this block, and the first element of its chunk. There are few: a loop is less code than `entry_of_block`.
__device__ __forceinline__ const Tensor& tensor_of_block(const AdamW& p, uint64_t& begin) {
    uint32_t i = 0;
    while (i + 1 < p.n_tensors && blockIdx.x >= p.tensors[i + 1].first_block) i++;
    begin = uint64_t(blockIdx.x - p.tensors[i].first_block) * CHUNK;
    return p.tensors[i];
}

__device__ __forceinline__ float block_sum(float x) {
    __shared__ float sums[THREADS / 32];
#pragma unroll
    for (int d = 16; d >= 1; d /= 2) x += __shfl_xor_sync(~0u, x, d);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
    __syncthreads();
    float total = 0.f;
#pragma unroll
    for (int w = 0; w < THREADS / 32; w++) total += sums[w];
    return total;
}

// Sums of squares. A whole chunk is eight or sixteen vectors of 16 bytes a thread, eight of them in flight.
template <typename T> __device__ __forceinline__ float squares_of(const Vec<T, 16 / sizeof(T)>& x) {
    float sum = 0.f;
#pragma unroll
    for (int k = 0; k < 16 / int(sizeof(T)); k++) sum = fmaf(x.get(k), x.get(k), sum);
    return sum;
}

template <typename T> __device__ __forceinline__ void squares(const Squares& p) {
    constexpr int N = 16 / sizeof(T), BATCH = 8;
    const Grad& g = p.grads[entry_of_block<256>(p.grads, p.n_grads)];
    const uint64_t begin = uint64_t(blockIdx.x - g.first_block) * SQUARES_CHUNK;
    const int left = int(min(g.len - begin, uint64_t(SQUARES_CHUNK)));
    const T* from = static_cast<const T*>(g.grad) + begin;
    const bool aligned = reinterpret_cast<uint64_t>(from) % 16 == 0;
    const auto* vectors = reinterpret_cast<const Vec<T, N>*>(from);
    float sum = 0.f;
    if (aligned && left == SQUARES_CHUNK) {
#pragma unroll
        for (int i = 0; i < SQUARES_CHUNK / N / THREADS; i += BATCH) {
            Vec<T, N> x[BATCH];
#pragma unroll
            for (int j = 0; j < BATCH; j++) x[j] = vectors[(i + j) * THREADS + threadIdx.x];
#pragma unroll
            for (int j = 0; j < BATCH; j++) sum += squares_of<T>(x[j]);
        }
    } else {
        const int n_vectors = aligned ? left / N : 0;
#pragma unroll 4
        for (int i = threadIdx.x; i < n_vectors; i += THREADS) sum += squares_of<T>(vectors[i]);
#pragma unroll 4
        for (int i = n_vectors * N + threadIdx.x; i < left; i += THREADS)
            sum = fmaf(to_f32(from[i]), to_f32(from[i]), sum);
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) p.partial[blockIdx.x] = sum;
}

// Vectors only where the whole tensor lies on them.
template <typename G, typename W> __device__ __forceinline__ bool is_vector(const Tensor& t) {
    auto lies_on = [](const void* at, size_t bytes) { return reinterpret_cast<uint64_t>(at) % bytes == 0; };
    return lies_on(t.master, V * sizeof(float)) && lies_on(t.first, V * sizeof(float)) &&
           lies_on(t.second, V * sizeof(float)) && lies_on(t.grad, V * sizeof(G)) && lies_on(t.weight, V * sizeof(W));
}

// What is the same for every weight of a step.
struct Constants {
    float lr, correction1, correction2, scale;
};

// Constants of this step; false where nothing is to be done, for all threads of the grid alike.
__device__ __forceinline__ bool constants(const AdamW& p, Constants& c) {
    c = {p.lr, p.correction1, p.correction2, 1.f};
    if (p.norm) {
        const float norm = *p.norm;
        const float given = p.record ? p.record->skip_above : 0.f;
        const float largest = given > 0.f ? given : 3.402823466e38f;
        if (p.skipped && !(norm <= largest)) {
            if (p.tells && blockIdx.x == 0 && threadIdx.x == 0) atomicAdd(p.skipped, 1u);
            return false;
        }
        if (!(norm <= p.max_norm)) c.scale = p.max_norm / norm;  // a norm that is no number makes every weight none
    }
    if (p.record) {
        __shared__ Constants shared;
        if (threadIdx.x == 0) {
            const StepRecord record = *p.record;
            const double step = max(record.step, 1u);
            shared = {record.lr, float(-expm1(step * p.log_beta1)), float(-expm1(step * p.log_beta2)), c.scale};
        }
        __syncthreads();
        c = shared;
    }
    return true;
}

template <typename G, typename W, bool VECTOR>
__device__ __forceinline__ void update_chunk(const AdamW& p, const Constants& c, const Tensor& t, uint64_t begin) {
    const float decay = 1.f - c.lr * t.weight_decay;
    for (int i = threadIdx.x * V; i < CHUNK; i += THREADS * V) {
        const int64_t left = int64_t(t.len) - int64_t(begin + i);
        if (left <= 0) break;
        const int valid = int(min(left, int64_t(V)));
        const uint64_t at = begin + i;
        const bool whole = VECTOR && valid == V;
        auto load32 = [&](const float* from) {
            return whole ? load_vec<true, float, V>(from + at, V) : load_vec<false, float, V>(from + at, valid);
        };
        auto store32 = [&](float* to, const float (&x)[V]) {
            if (whole) {
                store_vec<true, float, V>(to + at, pack<float, V>(x), V);
            } else {
                store_vec<false, float, V>(to + at, pack<float, V>(x), valid);
            }
        };
        const G* from = static_cast<const G*>(t.grad) + at;
        const Vec<G, V> grad = whole ? load_vec<true, G, V>(from, V) : load_vec<false, G, V>(from, valid);
        const Vec<float, V> master = load32(t.master), first = load32(t.first), second = load32(t.second);
        float w[V], m[V], v[V];
#pragma unroll
        for (int k = 0; k < V; k++) {
            const float g = grad.get(k) * c.scale;
            m[k] = fmaf(p.beta1, first.get(k), (1.f - p.beta1) * g);
            v[k] = fmaf(p.beta2, second.get(k), (1.f - p.beta2) * g * g);
            const float step = (m[k] / c.correction1) / (sqrtf(v[k] / c.correction2) + p.eps);
            w[k] = fmaf(-c.lr, step, master.get(k) * decay);
        }
        store32(t.master, w);
        store32(t.first, m);
        store32(t.second, v);
        if (t.weight) {
            W* to = static_cast<W*>(t.weight) + at;
            if (whole) {
                store_vec<true, W, V>(to, pack<W, V>(w), V);
            } else {
                store_vec<false, W, V>(to, pack<W, V>(w), valid);
            }
        }
    }
}

template <typename G, typename W> __device__ __forceinline__ void update(const AdamW& p) {
    Constants c;
    if (!constants(p, c)) return;
    uint64_t begin;
    const Tensor& t = tensor_of_block(p, begin);
    if (is_vector<G, W>(t)) {
        update_chunk<G, W, true>(p, c, t, begin);
    } else {
        update_chunk<G, W, false>(p, c, t, begin);
    }
}

#define UPDATE(NAME, G, W)                                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS) adamw_##NAME(const __grid_constant__ AdamW p) {             \
        update<G, W>(p);                                                                                              \
    }
#define SQUARES(NAME, T)                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS) adamw_squares_##NAME(const __grid_constant__ Squares p) {   \
        squares<T>(p);                                                                                                \
    }
