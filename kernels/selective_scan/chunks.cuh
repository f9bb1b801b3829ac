// What a chunk of a long sequence leaves for the others, so that all chunks can run at once.
//
// With R_t the sum of delta over the chunk's steps behind t (or, ADJOINT, from its first to t), the state behind a chunk
// that starts from zero, and the adjoint before one that nothing comes back to, are
//
//   end = sum_t exp(A R_t) delta_t u_t B_t        ADJOINT: end = sum_t exp(A R_t) g_t C_t
//
// and what came from the other side arrives times exp(A R), R the sum of delta over all of the chunk. Both sums are walked
// away from the border where they are needed, so that R grows: the walk ends at a document's start, behind which nothing
// counts, or, with softplus, once exp(A R) is below 2^-48 for every state of the block. A warp has four states of many
// channels, since it is the last states of a channel that decay fast: their warps are through first. No step depends on
// the one before but for R, so that this is bound by the exponentials alone.
//
// The scan's own kernels then begin each chunk with `through_chunks`.
#pragma once
#include "common.cuh"

namespace scan_chunks {

constexpr int THREADS = 128;
constexpr int TILE = 32;
// Decays below 2 to this are as good as none: f32 rounds a state at 2^-24.
constexpr float FARTHEST = -48.f;

template <int G> struct Shared {
    static constexpr int CH = THREADS / G, N = TILE / G, PER_STEP = CH / N;
    float4 delta[2][TILE][CH / 2];  // delta and delta u, or g, of two channels; see `pair`
    float4 bc[2][TILE][G];          // B or C, four states each
    NearBiases<CH> biases;
    unsigned char starts[2][TILE];

    // As in the forward scan: neighbouring threads store to different banks.
    static __device__ __forceinline__ int pair(int step, int part, int i) {
        return (N > 2 ? i ^ (step & 1) : i) * PER_STEP + part;
    }
    // The channel of a thread: neighbours read what lies side by side.
    static __device__ __forceinline__ int channel(int thread) {
        const int k = thread % CH;
        return k / 2 % PER_STEP * N + k / (2 * PER_STEP) * 2 + k % 2;
    }
};

// The steps of a tile, with document starts in it or without; whether one cut the walk off.
template <int G, bool ADJOINT, bool STARTS>
__device__ __forceinline__ bool walk(const Shared<G>& s, int buffer, const float (&a)[NS], float (&end)[NS], float& reach,
                                     int c, int g) {
    using S = Shared<G>;
    const int part = c / S::N, i = c % S::N / 2, half = c % 2;
    const float2* pairs[2] = {reinterpret_cast<const float2*>(&s.delta[buffer][0][S::pair(0, part, i)]) + half,
                              reinterpret_cast<const float2*>(&s.delta[buffer][0][S::pair(1, part, i)]) + half};
    const float4* quads = &s.bc[buffer][0][g];
    float near = 0.f;  // of this tile alone, so that long sums lose little
    bool cut = false;
#pragma unroll(STARTS ? 1 : TILE / 4)
    for (int r = 0; r < TILE; r++) {
        const int t = ADJOINT ? r : TILE - 1 - r;
        const bool starts = STARTS && s.starts[buffer][t];
        if (STARTS && ADJOINT && starts) {
            cut = true;
            break;
        }
        const float2 dd = pairs[t % 2][t * S::CH];
        float x[NS];
        unpack<false>(x, quads[t * G]);
        if (ADJOINT) near += dd.x;
        const float so_far = reach + near;
#pragma unroll
        for (int n = 0; n < NS; n++) end[n] = fmaf(exp2_approx(so_far * a[n]), dd.y * x[n], end[n]);
        if (!ADJOINT) near += dd.x;
        if (STARTS && !ADJOINT && starts) {
            cut = true;
            break;
        }
    }
    reach += near;
    return cut;
}

template <typename T, int G, bool ADJOINT, typename A>
__device__ __forceinline__ void run(const ScanChunks& p) {
    using S = Shared<G>;
    constexpr int CH = S::CH, N = S::N, PER_STEP = S::PER_STEP, NB = NS * G, NBC = NB / PER_STEP;
    constexpr bool EXACT = sizeof(T) == 4, ALIGNED = A::ALIGNED, FULL = A::FULL;
    static_assert(PER_STEP == 4 && TILE * PER_STEP == THREADS);
    __shared__ __align__(16) S s;
    const ScanInputs& in = p.in;
    const int d_inner = in.layout.d_inner, d_state = in.layout.d_state;
    const int n_blocks = (d_inner + CH - 1) / CH;
    const int first = blockIdx.x % n_blocks * CH;
    // Nothing is behind a sequence's last chunk, or before its first, unless its other parts are elsewhere.
    const uint32_t n_chunks = Span<true>::n_chunks_of(in), left_out = p.all ? 0 : 1;
    const uint32_t n_left = n_chunks - left_out, index = blockIdx.x / n_blocks;
    const Span<true> span(in, index / n_left, index % n_left + (ADJOINT ? left_out : 0), n_chunks);
    const int tid = threadIdx.x;
    // In the time loop: channel c, states g NS ...
    const int c = S::channel(tid), g = tid / CH;
    const bool c_valid = first + c < d_inner;
    // For what is per element: N channels of one step, and a quarter of the step's B or C.
    const int step = tid / PER_STEP, part = tid % PER_STEP, channel = first + part * N, n_valid = d_inner - channel;

    float a[NS], end[NS] = {0.f, 0.f, 0.f, 0.f}, reach = 0.f;
    load_states(a, in.A, first + c, c_valid, g * NS, d_state);
#pragma unroll
    for (int i = 0; i < NS; i++) a[i] *= LOG2_E;

    const int n_tiles = (span.n_steps + TILE - 1) / TILE;
    struct Raw {
        Vec<T, N> dt, x, z;  // x: u, or the gradient of y
        Vec<T, NBC> bc;
        uint32_t row;
        int n;  // channels that there are; none past the end of the chunk
        int starts;
    } next{};
    auto step_of = [&](int k) { return read_step(in.layout, span, (ADJOINT ? k : n_tiles - 1 - k) * TILE + step); };
    Step after = step_of(0);
    auto load = [&](int k) {  // the elements of tile k of the walk into `next`; `after` becomes the step of the one behind
        const uint32_t row = after.row;
        next.row = row;
        next.n = after.valid ? n_valid : 0;
        next.starts = after.starts_document;
        next.dt = load_vec<ALIGNED, T, N>(RowsFrom<T>(in.dt, in.dt_stride, channel).at(row), next.n);
        const RowsFrom<T> x(ADJOINT ? p.grad_out : in.u, ADJOINT ? p.grad_out_stride : in.u_stride, channel);
        next.x = load_vec<ALIGNED, T, N>(x.at(row), next.n);
        if constexpr (ADJOINT)
            next.z = load_vec<ALIGNED, T, N>(RowsFrom<T>(in.z, in.z_stride, channel).at(row), FULL || in.z ? next.n : 0);
        const RowsFrom<T> bc(ADJOINT ? in.C : in.B, ADJOINT ? in.C_stride : in.B_stride, part * NBC);
        next.bc = load_vec<ALIGNED, T, NBC>(bc.at(row), after.valid ? d_state - part * NBC : 0);
        after = step_of(k + 1);
    };
    auto stage = [&](int buffer) {  // `next` into shared memory; a step past the end changes nothing
        float delta[N], x[N];
        add_bias<A>(delta, next.dt, in, s.biases, next.row, part * N, channel, next.n);
        if (FULL || in.layout.softplus) {
#pragma unroll
            for (int i = 0; i < N; i++) delta[i] = softplus<EXACT>(delta[i]);
        }
#pragma unroll
        for (int i = 0; i < N; i++) {
            delta[i] = (ALIGNED ? 0 : i) < next.n ? delta[i] : 0.f;
            x[i] = ADJOINT ? next.x.get(i) : delta[i] * next.x.get(i);
        }
        if constexpr (ADJOINT) {
            if (FULL || in.z) {
#pragma unroll
                for (int i = 0; i < N; i++) x[i] *= next.z.get(i) * sigmoid(next.z.get(i));
            }
        }
#pragma unroll
        for (int i = 0; i < N; i += 2)
            s.delta[buffer][step][S::pair(step, part, i / 2)] = make_float4(delta[i], x[i], delta[i + 1], x[i + 1]);
#pragma unroll
        for (int i = 0; i < NBC; i += 4)
            s.bc[buffer][step][part * NBC / 4 + i / 4] =
                make_float4(next.bc.get(i), next.bc.get(i + 1), next.bc.get(i + 2), next.bc.get(i + 3));
        if (part == 0) s.starts[buffer][step] = next.starts;
    };

    if constexpr (FULL) {
        s.biases.stage(in, first);
        __syncthreads();
    }
    load(0);
    stage(0);
    bool starts = __syncthreads_or(next.starts), cut = false, counts = true;
    load(1);
#pragma unroll 1
    for (int k = 0; k < n_tiles; k++) {
        const int buffer = k & 1, starts_next = next.starts;
        stage(buffer ^ 1);
        load(k + 2);
        if (starts) {
            cut = walk<G, ADJOINT, true>(s, buffer, a, end, reach, c, g);
            break;
        }
        // A warp's own states may be through before the block's.
        if (__any_sync(~0u, counts)) walk<G, ADJOINT, false>(s, buffer, a, end, reach, c, g);
        counts = false;
#pragma unroll
        for (int n = 0; n < NS; n++)
            counts |= c_valid && g * NS + n < d_state && !(in.layout.softplus && reach * a[n] < FARTHEST);
        if (!__syncthreads_or(counts)) break;
        starts = __syncthreads_or(starts_next);
    }
    if (!c_valid) return;
    const uint64_t stride = uint64_t(d_inner) * NB, ends = uint64_t(in.layout.batch) * n_chunks * stride;
    float* to = p.chunks + span.index() * stride + uint64_t(first + c) * NB + g * NS;
    float decay[NS];
#pragma unroll
    for (int n = 0; n < NS; n++) decay[n] = cut ? 0.f : exp2_approx(reach * a[n]);
    *reinterpret_cast<float4*>(to) = make_float4(decay[0], decay[1], decay[2], decay[3]);
    *reinterpret_cast<float4*>(to + ends) = make_float4(end[0], end[1], end[2], end[3]);
}

}  // namespace scan_chunks

// NAME: of the direction; ADJOINT: backward.
#define SCAN_CHUNKS(NAME, T, G, ADJOINT, ...)                                                                         \
    extern "C" __global__ void __launch_bounds__(scan_chunks::THREADS, 4)                                              \
        NAME(const __grid_constant__ ScanChunks p) {                                                                  \
        scan_chunks::run<T, G, ADJOINT, Assume<__VA_ARGS__>>(p);                                                      \
    }
