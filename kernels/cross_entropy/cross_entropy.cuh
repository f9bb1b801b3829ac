// Softmax cross-entropy of rows of logits with a z-loss, and its gradient, perhaps in place.
//
// Floor: a read and a write of the logits, and two exponentials a logit (0.6 of the time of the copy at 16 a clock and
// multiprocessor in bf16). A block holds a row in registers, packed as it came, while the next one arrives in shared
// memory by cp.async, in slots that only their own thread reads: loads, exponentials and stores of one multiprocessor
// overlap though a row of 128 KiB leaves room for one block. A row is read once; one that fits no block is read twice.
//
// A row may start at any element: it is walked in granules of 16 bytes, those at its ends element by element with -inf
// around it. Exponents are l log2(e) - c with one c a row, so that c's rounding cancels between sum and gradient.
#pragma once
#include "../common/dtype.cuh"
#include "../common/math.cuh"
#include "params.h"

constexpr uint32_t NO_TARGET = ~0u;
constexpr int SLOTS = 8;  // granules of a thread

template <typename T>
__device__ __forceinline__ T minus_infinity() { return from_f32<T>(-__uint_as_float(0x7f800000u)); }

// The greater of the elements of two words; a NaN is never the greater one.
template <typename T> __device__ __forceinline__ uint32_t max_words(uint32_t a, uint32_t b);
template <> __device__ __forceinline__ uint32_t max_words<float>(uint32_t a, uint32_t b) {
    return __float_as_uint(fmaxf(__uint_as_float(a), __uint_as_float(b)));
}
template <> __device__ __forceinline__ uint32_t max_words<bf16>(uint32_t a, uint32_t b) {
    const __nv_bfloat162 m = __hmax2(*reinterpret_cast<__nv_bfloat162*>(&a), *reinterpret_cast<__nv_bfloat162*>(&b));
    return *reinterpret_cast<const uint32_t*>(&m);
}
template <> __device__ __forceinline__ uint32_t max_words<f16>(uint32_t a, uint32_t b) {
    const __half2 m = __hmax2(*reinterpret_cast<__half2*>(&a), *reinterpret_cast<__half2*>(&b));
    return *reinterpret_cast<const uint32_t*>(&m);
}

// A row of logits as granules of V elements.
template <typename T> struct Row {
    static constexpr int V = 16 / sizeof(T);
    using Granule = Vec<T, V>;

    const T* logits;
    int shift;  // elements of the first granule that lie before the row
    int width, n_granules;

    __device__ __forceinline__ Row(const CrossEntropy& p, uint32_t row)
        : logits(at_row<T>(p.logits, row, p.logits_stride, 0)), width(int(p.vocabulary)) {
        shift = int(reinterpret_cast<uint64_t>(logits) % 16 / sizeof(T));
        n_granules = (shift + width + V - 1) / V;
    }
    __device__ __forceinline__ int column(int granule) const { return granule * V - shift; }
    __device__ __forceinline__ bool is_whole(int granule) const {
        return column(granule) >= 0 && column(granule) + V <= width;
    }
    // One at an end of the row.
    __device__ __forceinline__ Granule edge(int granule) const {
        float x[V];
#pragma unroll
        for (int k = 0; k < V; k++) {
            const int c = column(granule) + k;
            x[k] = to_f32(c >= 0 && c < width ? logits[c] : minus_infinity<T>());
        }
        return pack<T, V>(x);
    }
    __device__ __forceinline__ Granule load(int granule) const {
        if (is_whole(granule)) return *reinterpret_cast<const Granule*>(logits + column(granule));
        return edge(granule);
    }
    __device__ __forceinline__ int granule_of(uint32_t c) const { return (shift + int(c)) / V; }
};

// The elements of a granule that are a row's. (A call: inline, this would be most of the kernel.)
template <typename T>
__device__ __noinline__ void store_elements(T* grad, int column, int width, typename Row<T>::Granule x) {
#pragma unroll
    for (int k = 0; k < Row<T>::V; k++)
        if (column + k >= 0 && column + k < width) grad[column + k] = from_f32<T>(x.get(k));
}

// Where a row's gradient goes: whole granules if they lie as the logits' do.
template <typename T> struct GradRow {
    T* grad;
    bool aligned;

    __device__ __forceinline__ GradRow(const CrossEntropy& p, const Row<T>& row, uint32_t i)
        : grad(at_row<T>(p.grad, i, p.grad_stride, 0)) {
        aligned = (reinterpret_cast<uint64_t>(grad) - row.shift * sizeof(T)) % 16 == 0;
    }
    __device__ __forceinline__ void store(const Row<T>& row, int granule, const typename Row<T>::Granule& x) const {
        const int column = row.column(granule);
        if (aligned && row.is_whole(granule)) {
            *reinterpret_cast<typename Row<T>::Granule*>(grad + column) = x;
        } else {
            store_elements<T>(grad, column, row.width, x);
        }
    }
};

// sum_v 2^(l_v log2(e) - c).
struct Normaliser {
    float c, sum;
};

__device__ __forceinline__ float exponent(float l, float c) { return fmaf(l, LOG2_E, -c); }

__device__ __forceinline__ Normaliser over_warp(Normaliser n) {
    float c = n.c;
#pragma unroll
    for (int d = 16; d >= 1; d /= 2) c = fmaxf(c, __shfl_xor_sync(~0u, c, d));
    float sum = n.sum * exp2_approx(n.c - c);
#pragma unroll
    for (int d = 16; d >= 1; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
    return {c, sum};
}

// Over all threads; `parts` may be written again behind another barrier.
template <int THREADS> __device__ __forceinline__ Normaliser over_block(Normaliser n, Normaliser* parts) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    n = over_warp(n);
    if (lane == 0) parts[warp] = n;
    __syncthreads();
    return over_warp(lane < THREADS / 32 ? parts[lane] : Normaliser{parts[0].c, 0.f});
}

// The scale of the exponents of a thread whose greatest logit is `max`. A maximum of -inf has nothing to scale.
__device__ __forceinline__ float scale_of(float max) { return fmaxf(max, -1e30f) * LOG2_E; }

__device__ __forceinline__ float share_of(const CrossEntropy& p, uint32_t row) {
    return p.weights ? p.scale * p.weights[row] : p.scale;
}

// What a row's gradient is made of: g_v = factor 2^(l_v log2(e) - c) - [v = target] share.
struct Gradient {
    float c, factor, share;

    __device__ __forceinline__ float at(float l) const { return exp2_approx(exponent(l, c)) * factor; }
    template <typename T>
    __device__ __forceinline__ typename Row<T>::Granule of(const typename Row<T>::Granule& x) const {
        float g[Row<T>::V];
#pragma unroll
        for (int k = 0; k < Row<T>::V; k++) g[k] = at(x.get(k));
        return pack<T, Row<T>::V>(g);
    }
};

// Writes a row's losses and returns what its gradient is made of. `share`: the row's factor on it, loaded long before.
__device__ __forceinline__ Gradient finish_row(const CrossEntropy& p, uint32_t row, Normaliser n, float at_target,
                                               float share) {
    const float log2_sum = log2f(n.sum), lse = (n.c + log2_sum) * LN_2;
    if (threadIdx.x == 0) {
        // c cancels before anything is rounded to its size.
        p.loss[row] = (log2_sum - exponent(at_target, n.c)) * LN_2;
        p.lse[row] = lse;
    }
    return {n.c, share * fmaf(2.f * p.z, lse, 1.f) / n.sum, share};
}

// A row without a target: it is not read.
template <typename T, int THREADS>
__device__ __forceinline__ void skip_row(const CrossEntropy& p, uint32_t i, uint32_t target) {
    if (threadIdx.x == 0) {
        p.loss[i] = 0.f;
        p.lse[i] = 0.f;
        if (target != NO_TARGET) atomicAdd(p.out_of_range, 1u);
    }
    if (!p.grad) return;
    const Row<T> row(p, i);
    const GradRow<T> grad(p, row, i);
    typename Row<T>::Granule zero;
    zero.zero();
    for (int granule = threadIdx.x; granule < row.n_granules; granule += THREADS) grad.store(row, granule, zero);
}

__device__ __forceinline__ uint32_t target_of(const CrossEntropy& p, uint64_t row) {
    return row < p.n_rows ? p.targets[row] : NO_TARGET;
}

template <typename T, int THREADS> struct Held {
    static constexpr int V = Row<T>::V;
    using Granule = typename Row<T>::Granule;

    struct Shared {
        Granule slots[SLOTS][THREADS];
        Normaliser parts[2][32];
        float at_target[2];
    };

    // Starts the loads of this thread's slots.
    static __device__ __forceinline__ void fetch(const CrossEntropy& p, Shared& s, uint64_t i, uint32_t target) {
        if (target >= p.vocabulary) return;
        const Row<T> row(p, uint32_t(i));
#pragma unroll 1
        for (int slot = 0; slot < SLOTS; slot++) {
            const int granule = slot * THREADS + threadIdx.x;
            if (granule >= row.n_granules) break;
            Granule* to = &s.slots[slot][threadIdx.x];
            if (row.is_whole(granule)) {
                asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(uint32_t(__cvta_generic_to_shared(to))),
                             "l"(row.logits + row.column(granule))
                             : "memory");
            } else {
                *to = row.edge(granule);
            }
        }
    }

    static __device__ __forceinline__ void rows(const CrossEntropy& p, Shared& s) {
        uint64_t i = blockIdx.x;
        uint32_t target = target_of(p, i), next_target = target_of(p, i + gridDim.x);
        fetch(p, s, i, target);
        int turn = 0;
        while (i < p.n_rows) {
            const uint64_t next = i + gridDim.x;
            const uint32_t after_next = target_of(p, next + gridDim.x);
            if (target < p.vocabulary) {
                one(p, s, uint32_t(i), target, next, next_target, turn);
                turn ^= 1;  // the parts of this row are written again two barriers from now
            } else {
                fetch(p, s, next, next_target);
                skip_row<T, THREADS>(p, uint32_t(i), target);
            }
            i = next;
            target = next_target;
            next_target = after_next;
        }
    }

    static __device__ __forceinline__ void one(const CrossEntropy& p, Shared& s, uint32_t i, uint32_t target,
                                               uint64_t next, uint32_t next_target, int turn) {
        const Row<T> row(p, i);
        const float share = share_of(p, i);
        asm volatile("cp.async.wait_all;" ::: "memory");
        Granule x[SLOTS];
#pragma unroll
        for (int slot = 0; slot < SLOTS; slot++) x[slot] = s.slots[slot][threadIdx.x];
        const int of_target = row.granule_of(target);
        const bool has_target = of_target % THREADS == threadIdx.x;
        if (has_target) {
            const T* granule = reinterpret_cast<const T*>(&s.slots[of_target / THREADS][threadIdx.x]);
            s.at_target[turn] = to_f32(granule[(row.shift + target) % V]);
        }
        fetch(p, s, next, next_target);

        uint32_t max = words_of_minus_infinity();
#pragma unroll
        for (int slot = 0; slot < SLOTS; slot++) {
            if (slot * THREADS + threadIdx.x < row.n_granules) {
#pragma unroll
                for (int w = 0; w < 4; w++) max = max_words<T>(max, x[slot].words[w]);
            }
        }
        Normaliser n = {scale_of(fmaxf(word_to_f32<T>(max, 0), word_to_f32<T>(max, 1))), 0.f};
#pragma unroll
        for (int slot = 0; slot < SLOTS; slot++) {
            if (slot * THREADS + threadIdx.x < row.n_granules) {
                float sum = 0.f;
#pragma unroll
                for (int k = 0; k < V; k++) sum += exp2_approx(exponent(x[slot].get(k), n.c));
                n.sum += sum;
            }
        }
        n = over_block<THREADS>(n, s.parts[turn]);
        const Gradient g = finish_row(p, i, n, s.at_target[turn], share);
        if (!p.grad) return;
        const GradRow<T> grad(p, row, i);
#pragma unroll
        for (int slot = 0; slot < SLOTS; slot++) {
            const int granule = slot * THREADS + threadIdx.x;
            if (granule < row.n_granules) grad.store(row, granule, g.of<T>(x[slot]));
        }
        // Behind this thread's own store of the granule.
        if (has_target) grad.grad[target] = from_f32<T>(g.at(s.at_target[turn]) - g.share);
    }

    static __device__ __forceinline__ uint32_t words_of_minus_infinity() {
        const float least[2] = {-__uint_as_float(0x7f800000u), -__uint_as_float(0x7f800000u)};
        return pack<T, 2>(least).words[0];
    }
};

// A row of any length, read twice. Four granules a thread are in flight.
template <typename T, int THREADS> __device__ __forceinline__ void streamed(const CrossEntropy& p) {
    constexpr int V = Row<T>::V, BATCH = 4;
    __shared__ Normaliser parts[32];
    const uint32_t i = blockIdx.x, target = p.targets[i];
    if (target >= p.vocabulary) {
        skip_row<T, THREADS>(p, i, target);
        return;
    }
    const Row<T> row(p, i);
    const float at_target = to_f32(row.logits[target]), share = share_of(p, i);
    Normaliser n = {scale_of(-1e30f), 0.f};
    for (int first = threadIdx.x; first < row.n_granules; first += THREADS * BATCH) {
        typename Row<T>::Granule x[BATCH];
#pragma unroll
        for (int b = 0; b < BATCH; b++)
            if (first + b * THREADS < row.n_granules) x[b] = row.load(first + b * THREADS);
        float max = -1e30f;
#pragma unroll
        for (int b = 0; b < BATCH; b++) {
            if (first + b * THREADS < row.n_granules) {
#pragma unroll
                for (int k = 0; k < V; k++) max = fmaxf(max, x[b].get(k));
            }
        }
        const float c = fmaxf(n.c, scale_of(max));
        n.sum *= exp2_approx(n.c - c);
        n.c = c;
#pragma unroll
        for (int b = 0; b < BATCH; b++) {
            if (first + b * THREADS < row.n_granules) {
                float sum = 0.f;
#pragma unroll
                for (int k = 0; k < V; k++) sum += exp2_approx(exponent(x[b].get(k), c));
                n.sum += sum;
            }
        }
    }
    n = over_block<THREADS>(n, parts);  // its barrier stands between the reads of the target and the writes
    const Gradient g = finish_row(p, i, n, at_target, share);
    if (!p.grad) return;
    const GradRow<T> grad(p, row, i);
    for (int first = threadIdx.x; first < row.n_granules; first += THREADS * BATCH) {
        typename Row<T>::Granule x[BATCH];
#pragma unroll
        for (int b = 0; b < BATCH; b++)
            if (first + b * THREADS < row.n_granules) x[b] = row.load(first + b * THREADS);
#pragma unroll
        for (int b = 0; b < BATCH; b++)
            if (first + b * THREADS < row.n_granules) grad.store(row, first + b * THREADS, g.of<T>(x[b]));
    }
    if (row.granule_of(target) % THREADS == threadIdx.x) grad.grad[target] = from_f32<T>(g.at(at_target) - g.share);
}

#define HELD(NAME, T, THREADS)                                                                                         \
    extern "C" __constant__ const uint32_t NAME##_shared_bytes = sizeof(Held<T, THREADS>::Shared);                     \
    extern "C" __global__ void __launch_bounds__(THREADS, 1024 / THREADS)                                              \
        NAME(const __grid_constant__ CrossEntropy p) {                                                                 \
        extern __shared__ __align__(16) unsigned char shared[];                                                        \
        Held<T, THREADS>::rows(p, *reinterpret_cast<Held<T, THREADS>::Shared*>(shared));                               \
    }
#define CROSS_ENTROPY(NAME, T)                                                                                         \
    HELD(cross_entropy_64_##NAME, T, 64)                                                                              \
    HELD(cross_entropy_256_##NAME, T, 256)                                                                             \
    HELD(cross_entropy_512_##NAME, T, 512)                                                                             \
    HELD(cross_entropy_1024_##NAME, T, 1024)                                                                           \
    extern "C" __global__ void __launch_bounds__(512, 2)                                                               \
        cross_entropy_streamed_##NAME(const __grid_constant__ CrossEntropy p) {                                        \
        streamed<T, 512>(p);                                                                                           \
    }
