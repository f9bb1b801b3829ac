// Selective scan, forward.
//
// A block owns THREADS / G channels of one sequence and walks tiles of 32 steps. While a tile's steps run, the next one
// waits in shared memory and the one after in registers: per element work (dt + bias, softplus, delta u; D u and the gate
// when it leaves) is done once, on vectors of channels, outside of the time loop. One barrier a tile: tiles alternate
// between two buffers, so that the warps of a block drift apart and fill each other's gaps.
//
// TENSOR (bf16): the sum of C h over a channel's states runs on the tensor cores; C is exact there, and the cut of h to
// 10 bits is far below the output's own rounding. Otherwise it is a transposed shuffle in f32.
#pragma once
#include "common.cuh"

namespace scan_forward {

constexpr int THREADS = 128;
constexpr int TILE = 32;

template <typename T, int G, bool MANY = false> struct Shared {
    static constexpr int CH = THREADS / G, N = TILE / G, PER_STEP = CH / N;
    static constexpr int Y_STRIDE = CH + 4;
    static constexpr bool PARKS = sizeof(T) == 2;  // f32 has no room
    float4 delta[2][TILE][CH / 2];  // delta and delta u of two channels; see `pair`
    float4 bc[2][TILE][2 * G];      // B, then C, four states each; see `quad`
    float y[2][TILE][Y_STRIDE];
    float d_skip[CH];
    NearBiases<CH, MANY> biases;
    unsigned char starts[2][TILE];
    // What a thread will need of its elements when their tile leaves; in registers it would be moved with every tile.
    struct Raw {
        Vec<T, N> u, z;
    } raw[2][PARKS ? THREADS : 1];

    // Places in a row of pairs or quads that keep neighbouring threads' stores in different banks.
    // Pair i of the N / 2 that thread `part` stores.
    static __device__ __forceinline__ int pair(int step, int part, int i) {
        return (N > 2 ? i ^ (step & 1) : i) * PER_STEP + part;
    }
    static __device__ __forceinline__ int quad(int step, int i) { return i ^ (step & 1); }
};

// GROUP steps from t0 on, with document starts in them or without. TENSOR: lane 4 c + g ends with y of steps 4 i + g of
// channel c in sums[i]; else y is stored.
template <int G, int GROUP, bool TENSOR, bool STARTS, typename S>
__device__ __forceinline__ void steps(S& s, int buffer, int t0, float (&h)[NS], const float (&a)[NS], int c, int g,
                                      float (&sums)[GROUP / 4]) {
    const int part = c / S::N, i = c % S::N / 2, half = c % 2, lane = threadIdx.x % 32;
    // The two places of this lane's pair and quads: for even and for odd steps.
    const float2* pairs[2] = {reinterpret_cast<const float2*>(&s.delta[buffer][t0][S::pair(0, part, i)]) + half,
                              reinterpret_cast<const float2*>(&s.delta[buffer][t0][S::pair(1, part, i)]) + half};
    const float4* quads[2] = {&s.bc[buffer][t0][S::quad(0, g)], &s.bc[buffer][t0][S::quad(1, g)]};
    const float2* c_pairs = reinterpret_cast<const float2*>(&s.bc[buffer][t0 + lane / 8][G + S::quad(lane / 8, g)]) +
                            lane / 4 % 2;  // of TENSOR
    constexpr int U = TENSOR ? 4 : G;  // partial sums that are summed together
#pragma unroll
    for (int r0 = 0; r0 < GROUP; r0 += U) {
        float acc[U];
        float2 c_pair;
        if constexpr (TENSOR) c_pair = c_pairs[r0 * 4 * G];
#pragma unroll
        for (int k = 0; k < U; k++) {
            const int r = r0 + k;
            const float2 dd = pairs[r % 2][r * S::CH];
            float B[NS], C[NS];
            unpack<TENSOR>(B, quads[r % 2][r * 2 * G]);
            // At a document's start the decay is 2^-inf = 0.
            const float cut = STARTS && s.starts[buffer][t0 + r] ? -INFINITY : 0.f;
#pragma unroll
            for (int n = 0; n < NS; n++) {
                const float decay = exp2_approx(STARTS ? fmaf(dd.x, a[n], cut) : dd.x * a[n]);
                h[n] = fmaf(decay, h[n], dd.y * B[n]);
            }
            if constexpr (TENSOR) {
                const float y = sum_states(h, c_pair);
                if (g == k) sums[r0 / 4] = y;
            } else {
                unpack<TENSOR>(C, quads[r % 2][r * 2 * G + G]);
                acc[k] = fmaf(h[3], C[3], fmaf(h[2], C[2], fmaf(h[1], C[1], h[0] * C[0])));
            }
        }
        if constexpr (!TENSOR) {
            fold<G, G, 1>(acc, g);
            s.y[buffer][t0 + r0 + g][c] = acc[0];
        }
    }
}

// Stores what `steps` left in sums.
template <bool TENSOR, int N, typename S>
__device__ __forceinline__ void store_sums(S& s, int buffer, int t0, const float (&sums)[N], int c, int g) {
    if constexpr (TENSOR) {
#pragma unroll
        for (int i = 0; i < N; i++) s.y[buffer][t0 + 4 * i + g][c] = sums[i] * TF32_UNBIAS;
    }
}

template <typename T, int G, int GROUP, typename A>
__device__ __forceinline__ void run(const ScanForward& p) {
    using S = Shared<T, G, A::MANY>;
    constexpr int CH = S::CH, N = S::N, PER_STEP = S::PER_STEP, NBC = 2 * NS * G / PER_STEP;
    constexpr bool EXACT = sizeof(T) == 4, ALIGNED = A::ALIGNED, TENSOR = A::TENSOR, FULL = A::FULL, WHOLE = A::WHOLE;
    static_assert(PER_STEP == 4 && TILE * PER_STEP == THREADS);
    __shared__ __align__(16) S s;
    const ScanInputs& in = p.in;
    const int d_inner = in.layout.d_inner, d_state = in.layout.d_state, seqlen = in.layout.seqlen;
    const int n_blocks = (d_inner + CH - 1) / CH;
    const int first = blockIdx.x % n_blocks * CH;
    const Span<A::CHUNKED> span = Span<A::CHUNKED>::of(in, blockIdx.x / n_blocks);
    const int tid = threadIdx.x;
    // In the time loop: channel c, states g NS ...
    const int c = tid / G, g = tid % G;
    const bool c_valid = first + c < d_inner;
    const int64_t state_channel = int64_t(span.sequence) * d_inner + first + c;
    // For what is per element: N channels of one step, and a quarter of the step's B and C.
    const int step = tid / PER_STEP, part = tid % PER_STEP, channel = first + part * N, n_valid = d_inner - channel;
    const bool is_c = part >= PER_STEP / 2;
    const int bc_state = part % (PER_STEP / 2) * NBC;

    float a[NS], h[NS];
    load_states(a, in.A, first + c, c_valid, g * NS, d_state);
    load_states(h, p.initial_state, state_channel, c_valid, g * NS, d_state);
    if constexpr (A::CHUNKED) {
        if (span.chunk > 0 && c_valid)
            through_chunks<NS * G>(h, p.chunks, in.layout, span, 0, span.chunk - 1, first + c, g * NS);
    }
#pragma unroll
    for (int i = 0; i < NS; i++) a[i] *= LOG2_E;
    if (tid < CH) s.d_skip[tid] = in.D && first + tid < d_inner ? in.D[first + tid] : 0.f;

    const int n_tiles = (span.steps(in.layout) + TILE - 1) / TILE;
    struct Place {
        uint32_t row;
        int n;  // channels that there are; none past the end of the sequence (if not WHOLE)
    };
    using Raw = typename S::Raw;
    constexpr bool PARKS = S::PARKS;
    Place previous{}, current{}, next{};
    Raw previous_raw{}, current_raw{}, next_raw{};
    Vec<T, N> next_dt{};
    Vec<T, NBC> next_bc{};
    int next_starts = 0;
    // FULL: what is past the end is read from the last step and the first channel, which costs less than not to read.
    // WHOLE: there is nothing past the end but tiles that nobody looks at, for which the last one is read again.
    auto step_of = [&](int tile) {
        if constexpr (WHOLE) return read_whole_step(in.layout, span, min(tile, n_tiles - 1) * TILE + step);
        else return read_step<FULL>(in.layout, span, tile * TILE + step);
    };
    Step after = step_of(0);
    const int column = FULL && n_valid <= 0 ? 0 : channel;

    auto load = [&](int tile) {  // tile's elements into `next`; `after` becomes the step of the tile behind it
        const uint32_t row = after.row;
        next.row = row;
        next.n = WHOLE || after.valid ? n_valid : 0;
        next_starts = after.starts_document;
        const int n = FULL ? N : next.n;
        next_raw.u = load_vec<ALIGNED, T, N>(RowsFrom<T>(in.u, in.u_stride, column).at(row), n);
        next_dt = load_vec<ALIGNED, T, N>(RowsFrom<T>(in.dt, in.dt_stride, column).at(row), n);
        next_raw.z = load_vec<ALIGNED, T, N>(RowsFrom<T>(in.z, in.z_stride, column).at(row), FULL || in.z ? n : 0);
        const RowsFrom<T> bc(is_c ? in.C : in.B, is_c ? in.C_stride : in.B_stride, bc_state);
        next_bc = load_vec<ALIGNED, T, NBC>(bc.at(row), FULL ? NBC : after.valid ? d_state - bc_state : 0);
        after = step_of(tile + 1);
    };
    auto stage = [&](int buffer) {  // `next` into shared memory; a step past the end changes nothing
        float x[N];
        if constexpr (FULL && !WHOLE) {  // softplus of minus infinity is zero
#pragma unroll
            for (int i = 0; i < next_dt.WORDS; i++)
                next_dt.words[i] = next.n > 0 ? next_dt.words[i] : words_from_f32<T>(-INFINITY, -INFINITY);
        }
        add_bias<A>(x, next_dt, in, s.biases, next.row, part * N, channel, next.n);
        if (FULL || in.layout.softplus) {
#pragma unroll
            for (int i = 0; i < N; i++) x[i] = softplus<EXACT>(x[i]);
        }
        if constexpr (!FULL) {
#pragma unroll
            for (int i = 0; i < N; i++) x[i] = (ALIGNED ? 0 : i) < next.n ? x[i] : 0.f;
        }
        const Raw raw = next_raw;
        if constexpr (PARKS) s.raw[buffer][tid] = raw;
#pragma unroll
        for (int i = 0; i < N; i += 2)
            s.delta[buffer][step][S::pair(step, part, i / 2)] =
                make_float4(x[i], x[i] * raw.u.get(i), x[i + 1], x[i + 1] * raw.u.get(i + 1));
#pragma unroll
        for (int i = 0; i < NBC; i += 4)
            s.bc[buffer][step][S::quad(step, part * NBC / 4 + i / 4)] =
                pack_quad<TENSOR>(next_bc.get(i), next_bc.get(i + 1), next_bc.get(i + 2), next_bc.get(i + 3));
        if (part == 0) s.starts[buffer][step] = next_starts;
    };
    auto finish = [&](int buffer, int n) {  // y of `previous` leaves, with skip and gate
        const Raw raw = PARKS ? s.raw[buffer][PARKS ? tid : 0] : previous_raw;
        float out[N];
#pragma unroll
        for (int i = 0; i < N; i++)
            out[i] = fmaf(s.d_skip[part * N + i], raw.u.get(i), s.y[buffer][step][part * N + i]);
        if (FULL || in.z) {
#pragma unroll
            for (int i = 0; i < N; i++) out[i] *= raw.z.get(i) * sigmoid(raw.z.get(i));
        }
        const RowsFrom<T> to(p.out, uint32_t(p.out_stride), channel);
        store_vec<ALIGNED, T, N>(to.at(previous.row), pack<T, N>(out), n);
    };

    if constexpr (FULL) {
        s.biases.stage(in, first);
        __syncthreads();
    }
    bool starts = false;
    if (n_tiles > 0) {
        load(0);
        stage(0);
        current = next, current_raw = next_raw;
        starts = __syncthreads_or(next_starts);
        load(1);
    }
    const bool saves = p.saved_states && c_valid;
    const uint64_t segment = uint64_t(span.sequence) * ((seqlen + STATE_STRIDE - 1) / STATE_STRIDE) +
                             (A::CHUNKED ? span.chunk * (in.chunk / STATE_STRIDE) : 0);
    float* save_to = p.saved_states + (segment * d_inner + first + c) * (NS * G) + g * NS;
    const int save_stride = d_inner * NS * G;
#pragma unroll 1
    for (int tile = 0; tile < n_tiles; tile++) {
        const int buffer = tile & 1;
        finish(buffer ^ 1, !WHOLE ? previous.n : tile > 0 ? n_valid : 0);  // nothing before the first tile
        previous = current, previous_raw = current_raw;
        stage(buffer ^ 1);
        current = next, current_raw = next_raw;
        const int starts_next = next_starts;
        load(tile + 2);
        auto save = [&](int t0) {
            if (saves && (WHOLE || tile * TILE + t0 < span.steps(in.layout)))
                *reinterpret_cast<float4*>(save_to) = make_float4(h[0], h[1], h[2], h[3]);
            save_to += save_stride;
        };
        // Not unrolled: the compiler would mix the groups until their values no longer fit the registers.
#pragma unroll 1
        for (int t0 = 0; t0 < TILE; t0 += GROUP) {
            float sums[GROUP / 4];
            if (t0 % STATE_STRIDE == 0) save(t0);
            if (starts) {
                steps<G, GROUP, TENSOR, true>(s, buffer, t0, h, a, c, g, sums);
            } else {
                steps<G, GROUP, TENSOR, false>(s, buffer, t0, h, a, c, g, sums);
            }
            store_sums<TENSOR>(s, buffer, t0, sums, c, g);
        }
        starts = __syncthreads_or(starts_next);
    }
    if (n_tiles > 0) finish((n_tiles - 1) & 1, WHOLE ? n_valid : previous.n);
    const Span<A::CHUNKED> done = span.again(span, in, n_blocks);
    const int64_t last_channel = A::CHUNKED ? int64_t(done.sequence) * d_inner + first + c : state_channel;
    store_states(p.last_state, h, last_channel, c_valid && done.is_last(), g * NS, d_state);
}

}  // namespace scan_forward

// GROUP: steps that are unrolled together.
#define SCAN_FORWARD(NAME, T, G, BLOCKS, GROUP, ...)                                                                 \
    extern "C" __global__ void __launch_bounds__(scan_forward::THREADS, BLOCKS)                                       \
        NAME(const __grid_constant__ ScanForward p) {                                                                 \
        scan_forward::run<T, G, GROUP, Assume<__VA_ARGS__>>(p);                                                       \
    }
