// What the forward and the backward scan share: how a tile of steps is read.
//
// G lanes own a channel, 4 states each, and walk time; a block has THREADS / G channels. G = 4 takes d_state up to 16,
// 8 up to 32, 16 up to 64; states above d_state have A = B = C = 0 and stay zero. A step past seqlen has delta = 0:
// the state passes through it. A channel past d_inner computes on zeros and is not written.
#pragma once
#include "../common/dtype.cuh"
#include "../common/math.cuh"
#include "../common/reduce.cuh"
#include "params.h"

constexpr int STATE_STRIDE = 16;
constexpr int NS = 4;  // states of a lane

// A matrix at the first column that a thread wants; `at` is one multiply-add.
template <typename T> struct RowsFrom {
    uint64_t base;
    uint32_t stride;

    __device__ __forceinline__ RowsFrom(const void* rows, uint32_t stride_bytes, int column)
        : base(reinterpret_cast<uint64_t>(rows) + column * int(sizeof(T))), stride(stride_bytes) {}
    __device__ __forceinline__ T* at(uint32_t row) const {
        uint64_t address;
        asm("mad.wide.u32 %0, %1, %2, %3;" : "=l"(address) : "r"(row), "r"(stride), "l"(base));
        return reinterpret_cast<T*>(__cvta_global_to_generic(address));
    }
};

__device__ __forceinline__ uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
__device__ __forceinline__ void store_shared(uint32_t address, float x) {
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(x) : "memory");
}

template <int BYTES> __device__ __forceinline__ void copy_async(void* to, const void* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(shared_address(to)),
                 "l"(from), "n"(BYTES)
                 : "memory");
}
// 16 bytes, or zeros.
__device__ __forceinline__ void copy_async_or_zero(void* to, const void* from, bool is_there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(is_there ? 16 : 0)
                 : "memory");
}
__device__ __forceinline__ void wait_async() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// N elements into a slot of this thread's own.
template <bool ALIGNED, typename T, int N> __device__ __forceinline__ void fetch(Vec<T, N>& slot, const T* from, int valid) {
    constexpr int BYTES = sizeof(T) * N;
    if constexpr (ALIGNED && (BYTES == 4 || BYTES == 8 || BYTES == 16)) {
        if (valid > 0) {
            copy_async<BYTES>(&slot, from);
        } else {
            slot.zero();
        }
    } else {
        slot = load_vec<ALIGNED, T, N>(from, valid);
    }
}

// The steps that a block walks: a sequence or, CHUNKED, one of the chunks that it is cut into.
template <bool CHUNKED> struct Span {
    uint32_t sequence, chunk, n_chunks;
    uint32_t first_position;
    int n_steps;

    __device__ __forceinline__ Span(const ScanInputs& in, uint32_t sequence, uint32_t chunk, uint32_t n_chunks)
        : sequence(sequence), chunk(chunk), n_chunks(n_chunks) {
        const uint32_t before = chunk * in.chunk, seqlen = in.layout.seqlen;
        first_position = sequence * seqlen + before;
        n_steps = min(seqlen - before, in.chunk);
    }
    // One of the chunks of all sequences.
    static __device__ __forceinline__ Span of(const ScanInputs& in, uint32_t index) {
        const uint32_t n = n_chunks_of(in);
        return Span(in, index / n, index % n, n);
    }
    // `span` of a block of one of n_blocks groups of channels, found anew: kept until now it would have cost registers.
    static __device__ __forceinline__ Span again(const Span&, const ScanInputs& in, int n_blocks) {
        uint32_t block;
        asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(block));
        return of(in, block / n_blocks);
    }
    // At least one.
    static __device__ __forceinline__ uint32_t n_chunks_of(const ScanInputs& in) {
        return max(1u, (in.layout.seqlen + in.chunk - 1) / in.chunk);
    }
    __device__ __forceinline__ uint32_t first(const ScanLayout&) const { return first_position; }
    __device__ __forceinline__ int steps(const ScanLayout&) const { return n_steps; }
    __device__ __forceinline__ bool is_last() const { return chunk + 1 == n_chunks; }
    __device__ __forceinline__ uint32_t index() const { return sequence * n_chunks + chunk; }
};
template <> struct Span<false> {
    static constexpr uint32_t chunk = 0, n_chunks = 1;
    uint32_t sequence;

    static __device__ __forceinline__ Span of(const ScanInputs&, uint32_t sequence) { return {sequence}; }
    static __device__ __forceinline__ Span again(const Span& span, const ScanInputs&, int) { return span; }
    __device__ __forceinline__ uint32_t first(const ScanLayout& layout) const { return sequence * layout.seqlen; }
    __device__ __forceinline__ int steps(const ScanLayout& layout) const { return layout.seqlen; }
    __device__ __forceinline__ bool is_last() const { return true; }
    __device__ __forceinline__ uint32_t index() const { return sequence; }
};

// Row of a step and what else is known of it.
struct Step {
    uint32_t row;
    bool valid, starts_document;
};

// CLAMPED: of a step past the end, the row of the last one; there is a step.
template <bool CLAMPED = false, bool CHUNKED>
__device__ __forceinline__ Step read_step(const ScanLayout& layout, const Span<CHUNKED>& span, int t) {
    const int n = span.steps(layout);
    Step step{0, t >= 0 && t < n, false};
    if (CLAMPED || step.valid) {
        const uint32_t position = span.first(layout) + (CLAMPED ? min(t, n - 1) : t);
        step.row = layout.row_of_position ? layout.row_of_position[position] : position;
        step.starts_document = layout.document_starts && layout.document_starts[position] && step.valid;
    }
    return step;
}

// The same of a step that there is.
template <bool CHUNKED>
__device__ __forceinline__ Step read_whole_step(const ScanLayout& layout, const Span<CHUNKED>& span, int t) {
    const uint32_t position = span.first(layout) + t;
    return {layout.row_of_position ? layout.row_of_position[position] : position, true,
            layout.document_starts && layout.document_starts[position]};
}

// What a kernel may take for granted. ALIGNED: vectors of channels are whole and lie on their size, d_state is 16. FULL:
// moreover there is all that a block of a model has (softplus, skip, gate; biases of at most four modalities, MANY: of at
// most sixteen; or none, which are zeros), so that what is per element has no branch and is scheduled as one piece. TENSOR: sums over lanes run on the tensor cores.
// CHUNKED: a sequence may be cut into chunks; a kernel that is FULL is made twice, since it has no register to spare.
// WHOLE: sequences are of whole tiles, so that nothing asks whether a step exists.
template <bool ALIGNED_, bool FULL_, bool TENSOR_, bool CHUNKED_ = !FULL_, bool WHOLE_ = false, bool MANY_ = false>
struct Assume {
    static constexpr bool ALIGNED = ALIGNED_, FULL = FULL_, TENSOR = TENSOR_, CHUNKED = CHUNKED_, WHOLE = WHOLE_;
    static constexpr bool MANY = MANY_;
};

// The biases of dt for a block's channels. FULL: biases and borders lie in shared memory, since a load from global memory
// in every tile is waited for.
template <int WIDTH, bool MANY = false> struct NearBiases {
    static constexpr int QUADS = MANY ? 4 : 1;  // of modalities
    alignas(16) float bias[4 * QUADS][WIDTH];
    uint4 borders[QUADS + MANY];  // first rows of modalities 1, 2, ..., ~0 where there is none; MANY: then of 4, 8, 12

    __device__ __forceinline__ int modality(uint32_t row) const {
        int quad = 0;
        if constexpr (MANY) {
            const uint4 quads = borders[QUADS];
            quad = (row >= quads.x) + (row >= quads.y) + (row >= quads.z);
        }
        const uint4 from = borders[quad];
        return 4 * quad + (row >= from.x) + (row >= from.y) + (row >= from.z);
    }

    // Must be followed by a barrier.
    __device__ __forceinline__ void stage(const ScanInputs& in, int first) {
        const uint32_t n = in.layout.n_biases, d_inner = in.layout.d_inner;
        const uint32_t* offsets = in.layout.bias_offsets;
        for (uint32_t i = threadIdx.x; i < max(n, 1u) * WIDTH; i += blockDim.x) {
            const uint32_t channel = first + i % WIDTH;
            bias[i / WIDTH][i % WIDTH] =
                n > 0 && channel < d_inner ? in.dt_bias[uint64_t(i / WIDTH) * d_inner + channel] : 0.f;
        }
        if (threadIdx.x < 4 * QUADS) {
            const uint32_t modality = threadIdx.x + 1, border = offsets && modality < n ? offsets[modality] : ~0u;
            reinterpret_cast<uint32_t*>(borders)[threadIdx.x] = border;
            if (MANY && modality % 4 == 0) reinterpret_cast<uint32_t*>(borders + QUADS)[modality / 4 - 1] = border;
        }
    }
};

// dt_bias of the modality of a row, at its first channel.
__device__ __forceinline__ const float* far_bias(const ScanInputs& in, uint32_t row) {
    uint32_t modality = 0;
    if (in.layout.bias_offsets)
        while (modality + 1 < in.layout.n_biases && row >= in.layout.bias_offsets[modality + 1]) modality++;
    return in.dt_bias + uint64_t(modality) * in.layout.d_inner;
}

// dt plus bias for N channels: those from `at` on of the block, `channel` on of the matrix.
template <typename A, int N, typename T, int WIDTH>
__device__ __forceinline__ void add_bias(float (&x)[N], const Vec<T, N>& dt, const ScanInputs& in,
                                         const NearBiases<WIDTH, A::MANY>& near, uint32_t row, int at, int channel,
                                         int valid) {
    constexpr int STEP = N < 4 ? N : 4;
#pragma unroll
    for (int i = 0; i < N; i++) x[i] = dt.get(i);
    if (A::FULL || in.dt_bias) {
        const float* bias;
        if constexpr (A::FULL) {
            bias = &near.bias[near.modality(row)][at];
        } else {
            bias = far_bias(in, row) + channel;
        }
#pragma unroll
        for (int i = 0; i < N; i += STEP) {
            const Vec<float, STEP> b = load_vec<A::ALIGNED, float, STEP>(bias + i, A::FULL ? N : valid - i);
#pragma unroll
            for (int j = 0; j < STEP; j++) x[i + j] += b.get(j);
        }
    }
}

// The four states of a lane from (.., d_inner, d_state), zero where there is none.
__device__ __forceinline__ void load_states(
    float (&h)[NS], const float* from, int64_t channel, bool valid, int state, int d_state) {
#pragma unroll
    for (int i = 0; i < NS; i++) h[i] = from && valid && state + i < d_state ? from[channel * d_state + state + i] : 0.f;
}

__device__ __forceinline__ void store_states(
    float* to, const float (&h)[NS], int64_t channel, bool valid, int state, int d_state) {
#pragma unroll
    for (int i = 0; i < NS; i++)
        if (to && valid && state + i < d_state) to[channel * d_state + state + i] = h[i];
}

// What came over a chunk's border: h goes through chunks `from` to `to` (both included) of the sequence, one after the
// other.
template <int NB>
__device__ __forceinline__ void through_chunks(float (&h)[NS], const float* chunks, const ScanLayout& layout,
                                               const Span<true>& span, int from, int to, int channel, int state) {
    const uint64_t stride = uint64_t(layout.d_inner) * NB, ends = uint64_t(layout.batch) * span.n_chunks * stride;
    const int step = from <= to ? 1 : -1, n = (to - from) * step + 1;
    const float* at = chunks + uint64_t(span.sequence * span.n_chunks + from) * stride + uint64_t(channel) * NB + state;
#pragma unroll 4
    for (int i = 0; i < n; i++, at += step * int64_t(stride)) {
        const float4 decay = *reinterpret_cast<const float4*>(at), end = *reinterpret_cast<const float4*>(at + ends);
        h[0] = fmaf(decay.x, h[0], end.x), h[1] = fmaf(decay.y, h[1], end.y);
        h[2] = fmaf(decay.z, h[2], end.z), h[3] = fmaf(decay.w, h[3], end.w);
    }
}

// TENSOR: four states of B or C lie in shared memory as states 0, 2, 1, 3, so that what a lane of `mma` needs is a pair:
// the first two or the last two.
template <bool TENSOR> __device__ __forceinline__ void unpack(float (&x)[NS], const float4& v) {
    x[0] = v.x, x[1] = TENSOR ? v.z : v.y, x[2] = TENSOR ? v.y : v.z, x[3] = v.w;
}
template <bool TENSOR> __device__ __forceinline__ float4 pack_quad(float x0, float x1, float x2, float x3) {
    return TENSOR ? make_float4(x0, x2, x1, x3) : make_float4(x0, x1, x2, x3);
}
template <bool TENSOR> __device__ __forceinline__ int stored_at(int state) {
    return TENSOR ? (state & ~3) | (state & 1) << 1 | (state & 2) >> 1 : state;
}

// Sum over the states of channel l / 4 of lane l, which has states 4 (l % 4) ... of it in x, of x times B or C. Lanes hold
// `factors` of four steps, lane l of step l / 8: of states 4 (l % 4) ... the first pair, or the last where l / 4 is odd.
// Right in the lanes where l % 4 is the step that x is of.
__device__ __forceinline__ float sum_states(const float (&x)[NS], const float2& factors) {
    float d[4];
    mma(d, x[0], x[1], x[2], x[3], factors.x, factors.y);
    return d[0] + d[3];
}
