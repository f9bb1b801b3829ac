// Selective scan, forward.
//
// A block owns THREADS / G channels of one sequence and walks tiles of 32 steps. While a tile's steps run, the next one
// waits in shared memory and the one after in registers: per element work (dt + bias, softplus, delta u; D u and the gate
// when it leaves) is done once, on vectors of channels, outside of the time loop. One barrier a tile: tiles alternate
// between two buffers, so that the warps of a block drift apart and fill each other's gaps.
//
// TENSOR (bf16): the sum of C h over a channel's 4 lanes runs on the tensor cores, whose cut of the four partial sums to
// 10 bits is far below the output's own rounding. Otherwise it is a transposed shuffle in f32.
#pragma once
#include "common.cuh"

namespace scan_forward {

constexpr int THREADS = 128;
constexpr int TILE = 32;
constexpr int GROUP = 16;  // steps between two looks at the loop

template <typename T, int G> struct Shared {
    static constexpr int CH = THREADS / G, N = TILE / G, PER_STEP = CH / N;
    static constexpr int Y_STRIDE = CH + 4;
    float4 delta[2][TILE][CH / 2];  // delta and delta u of two channels; see `pair`
    float4 bc[2][TILE][2 * G];      // B, then C, four states each; see `quad`
    float y[2][TILE][Y_STRIDE];
    float d_skip[CH];
    NearBiases<CH> biases;
    unsigned char starts[2][TILE];

    // Places in a row of pairs or quads that keep neighbouring threads' stores in different banks.
    // Pair i of the N / 2 that thread `part` stores.
    static __device__ __forceinline__ int pair(int step, int part, int i) {
        return (N > 2 ? i ^ (step & 1) : i) * PER_STEP + part;
    }
    static __device__ __forceinline__ int quad(int step, int i) { return i ^ (step & 1); }
};

// GROUP steps from t0 on, with document starts in them or without. TENSOR: lane 4 c + q ends with y of steps 4 q .. 4 q + 4
// of channel c in d; else y is stored.
template <int G, bool TENSOR, bool STARTS, typename S>
__device__ __forceinline__ void steps(S& s, int buffer, int t0, float (&h)[NS], const float (&a)[NS], int c, int g,
                                      const Selector (&selectors)[4], float (&d)[4]) {
    const int part = c / S::N, i = c % S::N / 2, half = c % 2;
    // The two places of this lane's pair and quads: for even and for odd steps.
    const float2* pairs[2] = {reinterpret_cast<const float2*>(&s.delta[buffer][t0][S::pair(0, part, i)]) + half,
                              reinterpret_cast<const float2*>(&s.delta[buffer][t0][S::pair(1, part, i)]) + half};
    const float4* quads[2] = {&s.bc[buffer][t0][S::quad(0, g)], &s.bc[buffer][t0][S::quad(1, g)]};
    d[0] = d[1] = d[2] = d[3] = 0.f;
    constexpr int U = TENSOR ? 4 : G;  // partial sums that are summed together
#pragma unroll
    for (int r0 = 0; r0 < GROUP; r0 += U) {
        float acc[U];
#pragma unroll
        for (int k = 0; k < U; k++) {
            const int r = r0 + k;
            const float2 dd = pairs[r % 2][r * S::CH];
            const float4 b4 = quads[r % 2][r * 2 * G], c4 = quads[r % 2][r * 2 * G + G];
            const float B[NS] = {b4.x, b4.y, b4.z, b4.w}, C[NS] = {c4.x, c4.y, c4.z, c4.w};
            // At a document's start the decay is 2^-inf = 0.
            const float cut = STARTS && s.starts[buffer][t0 + r] ? -INFINITY : 0.f;
            float y = 0.f;
#pragma unroll
            for (int n = 0; n < NS; n++) {
                const float decay = exp2_approx(STARTS ? fmaf(dd.x, a[n], cut) : dd.x * a[n]);
                h[n] = fmaf(decay, h[n], dd.y * B[n]);
                y = n ? fmaf(h[n], C[n], y) : h[n] * C[n];
            }
            acc[k] = y;
        }
        if constexpr (TENSOR) {
            static_assert(G == 4);
            sum_lanes(d, acc[0], acc[2], acc[1], acc[3], selectors[r0 / 4]);
        } else {
            fold<G, G, 1>(acc, g);
            s.y[buffer][t0 + r0 + g][c] = acc[0];
        }
    }
}

// Stores what `steps` left in d.
template <bool TENSOR, typename S>
__device__ __forceinline__ void store_sums(S& s, int buffer, int t0, const float (&d)[4], int c, int g) {
    if constexpr (TENSOR) {
        float* y = &s.y[buffer][t0 + g * 4][c];
#pragma unroll
        for (int i = 0; i < 4; i++) y[i * S::Y_STRIDE] = d[i];
    }
}

template <typename T, int G, typename A>
__device__ __forceinline__ void run(const ScanForward& p) {
    using S = Shared<T, G>;
    constexpr int CH = S::CH, N = S::N, PER_STEP = S::PER_STEP, NBC = 2 * NS * G / PER_STEP;
    constexpr bool EXACT = sizeof(T) == 4, ALIGNED = A::ALIGNED, TENSOR = A::TENSOR, FULL = A::FULL;
    static_assert(PER_STEP == 4 && TILE * PER_STEP == THREADS);
    __shared__ __align__(16) S s;
    const ScanInputs& in = p.in;
    const int d_inner = in.layout.d_inner, d_state = in.layout.d_state, seqlen = in.layout.seqlen;
    const int n_blocks = (d_inner + CH - 1) / CH;
    const int first = blockIdx.x % n_blocks * CH;
    const uint32_t sequence = blockIdx.x / n_blocks;
    const int tid = threadIdx.x;
    // In the time loop: channel c, states g NS ...
    const int c = tid / G, g = tid % G;
    const bool c_valid = first + c < d_inner;
    const int64_t state_channel = int64_t(sequence) * d_inner + first + c;
    // For what is per element: N channels of one step, and a quarter of the step's B and C.
    const int step = tid / PER_STEP, part = tid % PER_STEP, channel = first + part * N, n_valid = d_inner - channel;
    const bool is_c = part >= PER_STEP / 2;
    const int bc_state = part % (PER_STEP / 2) * NBC;
    const Selector selectors[4] = {Selector(0), Selector(1), Selector(2), Selector(3)};

    float a[NS], h[NS];
    load_states(a, in.A, first + c, c_valid, g * NS, d_state);
    load_states(h, p.initial_state, state_channel, c_valid, g * NS, d_state);
#pragma unroll
    for (int i = 0; i < NS; i++) a[i] *= LOG2_E;
    if (tid < CH) s.d_skip[tid] = in.D && first + tid < d_inner ? in.D[first + tid] : 0.f;

    const int n_tiles = (seqlen + TILE - 1) / TILE;
    struct Raw {
        Vec<T, N> u, z;
        uint32_t row;
        int n;  // channels that there are; none past the end of the sequence
    };
    Raw previous{}, current{}, next{};
    Vec<T, N> next_dt{};
    Vec<T, NBC> next_bc{};
    int next_starts = 0;
    Step after = read_step(in.layout, sequence, step);

    auto load = [&](int tile) {  // tile's elements into `next`; `after` becomes the step of the tile behind it
        const uint32_t row = after.row;
        next.row = row;
        next.n = after.valid ? n_valid : 0;
        next_starts = after.starts_document;
        next.u = load_vec<ALIGNED, T, N>(at_row<T>(in.u, row, in.u_stride, channel), next.n);
        next_dt = load_vec<ALIGNED, T, N>(at_row<T>(in.dt, row, in.dt_stride, channel), next.n);
        next.z = load_vec<ALIGNED, T, N>(at_row<T>(in.z, row, in.z_stride, channel), FULL || in.z ? next.n : 0);
        const T* from = at_row<T>(is_c ? in.C : in.B, row, is_c ? in.C_stride : in.B_stride, bc_state);
        next_bc = load_vec<ALIGNED, T, NBC>(from, after.valid ? d_state - bc_state : 0);
        after = read_step(in.layout, sequence, (tile + 1) * TILE + step);
    };
    auto stage = [&](int buffer) {  // `next` into shared memory; a step past the end changes nothing
        float x[N];
        add_bias<A>(x, next_dt, in, s.biases, next.row, part * N, channel, next.n);
        if (FULL || in.layout.softplus) {
#pragma unroll
            for (int i = 0; i < N; i++) x[i] = softplus<EXACT>(x[i]);
        }
#pragma unroll
        for (int i = 0; i < N; i++) x[i] = (ALIGNED ? 0 : i) < next.n ? x[i] : 0.f;
#pragma unroll
        for (int i = 0; i < N; i += 2)
            s.delta[buffer][step][S::pair(step, part, i / 2)] =
                make_float4(x[i], x[i] * next.u.get(i), x[i + 1], x[i + 1] * next.u.get(i + 1));
        const float scale = TENSOR && is_c ? TF32_UNBIAS : 1.f;
#pragma unroll
        for (int i = 0; i < NBC; i += 4)
            s.bc[buffer][step][S::quad(step, part * NBC / 4 + i / 4)] =
                make_float4(next_bc.get(i) * scale, next_bc.get(i + 1) * scale, next_bc.get(i + 2) * scale,
                            next_bc.get(i + 3) * scale);
        if (part == 0) s.starts[buffer][step] = next_starts;
    };
    auto finish = [&](int buffer) {  // y of `previous` leaves, with skip and gate
        float out[N];
#pragma unroll
        for (int i = 0; i < N; i++)
            out[i] = fmaf(s.d_skip[part * N + i], previous.u.get(i), s.y[buffer][step][part * N + i]);
        if (FULL || in.z) {
#pragma unroll
            for (int i = 0; i < N; i++) out[i] *= previous.z.get(i) * sigmoid(previous.z.get(i));
        }
        T* to = at_row<T>(p.out, previous.row, uint32_t(p.out_stride), channel);
        store_vec<ALIGNED, T, N>(to, pack<T, N>(out), previous.n);
    };

    if constexpr (FULL) {
        s.biases.stage(in, first);
        __syncthreads();
    }
    load(0);
    stage(0);
    current = next;
    bool starts = __syncthreads_or(next_starts);
    load(1);
    const int n_segments = (seqlen + STATE_STRIDE - 1) / STATE_STRIDE;
#pragma unroll 1
    for (int tile = 0; tile < n_tiles; tile++) {
        const int buffer = tile & 1;
        finish(buffer ^ 1);  // nothing of the first tile, whose `previous` has no channels
        previous = current;
        stage(buffer ^ 1);
        current = next;
        const int starts_next = next_starts;
        load(tile + 2);
        auto save = [&](int t0) {
            if (p.saved_states) {
                const int segment = tile * (TILE / STATE_STRIDE) + t0 / STATE_STRIDE;
                if (segment < n_segments && c_valid) {
                    const int64_t at = (int64_t(sequence) * n_segments + segment) * d_inner + first + c;
                    *reinterpret_cast<float4*>(p.saved_states + at * (NS * G) + g * NS) = make_float4(h[0], h[1], h[2], h[3]);
                }
            }
        };
        // Sums are stored at the end of the tile: a store before the second group's loads would hold them up.
        float d[TILE / GROUP][4];
        if (starts) {
#pragma unroll
            for (int i = 0; i < TILE / GROUP; i++) {
                save(i * GROUP);
                steps<G, TENSOR, true>(s, buffer, i * GROUP, h, a, c, g, selectors, d[i]);
            }
        } else {
#pragma unroll
            for (int i = 0; i < TILE / GROUP; i++) {
                save(i * GROUP);
                steps<G, TENSOR, false>(s, buffer, i * GROUP, h, a, c, g, selectors, d[i]);
            }
        }
#pragma unroll
        for (int i = 0; i < TILE / GROUP; i++) store_sums<TENSOR>(s, buffer, i * GROUP, d[i], c, g);
        starts = __syncthreads_or(starts_next);
    }
    finish((n_tiles - 1) & 1);
    store_states(p.last_state, h, state_channel, c_valid, g * NS, d_state);
}

}  // namespace scan_forward

static_assert(scan_forward::GROUP == STATE_STRIDE);

#define SCAN_FORWARD(NAME, T, G, ...)                                                                                \
    extern "C" __global__ void __launch_bounds__(scan_forward::THREADS, 4) NAME(const __grid_constant__ ScanForward p) { \
        scan_forward::run<T, G, Assume<__VA_ARGS__>>(p);                                                              \
    }
