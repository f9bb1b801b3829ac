// AdamW over many tensors in one launch (Loshchilov & Hutter, arXiv 1711.05101), and the global norm of the gradients.
//
// Master weights and moments are f32 whatever the gradients are; the rounded weight is written in the same pass. Bytes: 16
// and twice the element's in and out a weight. A block owns 4096 elements of one tensor. Sums of squares leave by block and
// are added in a fixed order by one block; the scale of the clipping is read from the device.
#include "../common/dtype.cuh"
#include "params.h"

constexpr int THREADS = 256, V = 4, CHUNK = 4096;

// The tensor of this block, and the first element of its chunk.
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

// Vectors only where the whole tensor lies on them.
template <typename T> __device__ __forceinline__ bool is_vector(const Tensor& t) {
    const uint64_t wide = reinterpret_cast<uint64_t>(t.master) | reinterpret_cast<uint64_t>(t.first) | reinterpret_cast<uint64_t>(t.second);
    const uint64_t narrow = reinterpret_cast<uint64_t>(t.grad) | reinterpret_cast<uint64_t>(t.weight);
    return wide % (V * sizeof(float)) == 0 && narrow % (V * sizeof(T)) == 0;
}

template <typename T, bool VECTOR> __device__ __forceinline__ float chunk_squares(const Tensor& t, uint64_t begin) {
    float sum = 0.f;
    for (int i = threadIdx.x * V; i < CHUNK; i += THREADS * V) {
        const int64_t left = int64_t(t.len) - int64_t(begin + i);
        const T* from = static_cast<const T*>(t.grad) + begin + i;
        const Vec<T, V> g = VECTOR && left >= V ? load_vec<true, T, V>(from, V) : load_vec<false, T, V>(from, int(min(left, int64_t(V))));
#pragma unroll
        for (int k = 0; k < V; k++) sum = fmaf(g.get(k), g.get(k), sum);
    }
    return sum;
}

template <typename T> __device__ __forceinline__ void squares(const AdamW& p) {
    uint64_t begin;
    const Tensor& t = tensor_of_block(p, begin);
    const bool vector = reinterpret_cast<uint64_t>(t.grad) % (V * sizeof(T)) == 0;
    const float sum = block_sum(vector ? chunk_squares<T, true>(t, begin) : chunk_squares<T, false>(t, begin));
    if (threadIdx.x == 0) p.partial[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS) adamw_norm_total(const __grid_constant__ NormTotal p) {
    float sum = 0.f;
#pragma unroll 16
    for (uint64_t i = threadIdx.x; i < p.n; i += THREADS) sum += p.partial[i];
    const float total = block_sum(sum);
    if (threadIdx.x == 0) *p.norm = sqrtf(total);
}

template <typename T, bool VECTOR> __device__ __forceinline__ void update_chunk(const AdamW& p, const Tensor& t, uint64_t begin) {
    float scale = 1.f;
    if (p.norm) {
        const float norm = *p.norm;
        if (!(norm <= p.max_norm)) scale = p.max_norm / norm;  // a norm that is no number makes every weight none
    }
    const float decay = 1.f - p.lr * t.weight_decay;
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
        const T* from = static_cast<const T*>(t.grad) + at;
        const Vec<T, V> grad = whole ? load_vec<true, T, V>(from, V) : load_vec<false, T, V>(from, valid);
        const Vec<float, V> master = load32(t.master), first = load32(t.first), second = load32(t.second);
        float w[V], m[V], v[V];
#pragma unroll
        for (int k = 0; k < V; k++) {
            const float g = grad.get(k) * scale;
            m[k] = fmaf(p.beta1, first.get(k), (1.f - p.beta1) * g);
            v[k] = fmaf(p.beta2, second.get(k), (1.f - p.beta2) * g * g);
            const float step = (m[k] / p.correction1) / (sqrtf(v[k] / p.correction2) + p.eps);
            w[k] = fmaf(-p.lr, step, master.get(k) * decay);
        }
        store32(t.master, w);
        store32(t.first, m);
        store32(t.second, v);
        if (t.weight) {
            T* to = static_cast<T*>(t.weight) + at;
            if (whole) {
                store_vec<true, T, V>(to, pack<T, V>(w), V);
            } else {
                store_vec<false, T, V>(to, pack<T, V>(w), valid);
            }
        }
    }
}

template <typename T> __device__ __forceinline__ void update(const AdamW& p) {
    uint64_t begin;
    const Tensor& t = tensor_of_block(p, begin);
    if (is_vector<T>(t)) {
        update_chunk<T, true>(p, t, begin);
    } else {
        update_chunk<T, false>(p, t, begin);
    }
}

#define ADAMW(T_NAME, T)                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS) adamw_##T_NAME(const __grid_constant__ AdamW p) { update<T>(p); } \
    extern "C" __global__ void __launch_bounds__(THREADS) adamw_squares_##T_NAME(const __grid_constant__ AdamW p) {     \
        squares<T>(p);                                                                                                  \
    }
ADAMW(bf16, bf16)
ADAMW(f16, f16)
ADAMW(f32, float)
