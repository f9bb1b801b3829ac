// Selective scan, backward.
//
// With g the gradient of y_t and lambda_t that of h_t, within a document:
//
//   lambda_t = C_t g_t + exp(delta_{t+1} A) lambda_{t+1}
//   dC_t = sum_d g_t h_t                    dB_t = sum_d lambda_t delta_t u_t
//   e_t  = lambda_t exp(delta_t A) h_{t-1}  dA = sum_t e_t delta_t
//   d(delta_t) = sum_n (e_t A + lambda_t B_t u_t)
//   du_t = delta_t sum_n lambda_t B_t + D g_t
//
// A block owns THREADS / G channels of one sequence and walks tiles of 16 steps from the end; the forward pass left the
// state before each tile. A tile runs forwards over steps 0..8 (decays go to shared memory), forwards and back over
// 8..16, then forwards (without exponentials) and back over 0..8: each decay is computed once, and eight steps of decay
// and state live in registers. The next tile arrives meanwhile, asynchronously, in slots that only their own thread reads.
//
// dB and dC are sums over channels. Within a warp: TENSOR (bf16) on the tensor cores, with the terms cut to 10 bits and
// unbiased (the outputs have 8); otherwise by transposed shuffles in f32. Over warps in shared memory, over blocks by
// `sum_bc`: fixed order, no atomics. d(dt_bias) is a sum over rows of grad_dt: see column_sums.
#pragma once
#include "common.cuh"

namespace scan_backward {

constexpr int TILE = STATE_STRIDE;
constexpr int WINDOW = 8;

template <int BYTES> __device__ __forceinline__ void copy_async(void* to, const void* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(to))),
                 "l"(from), "n"(BYTES)
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

// KEEP: there is room for the states of steps 0..5 beside their decays, and for sums of the biases' gradients.
constexpr int KEPT = 5;
template <int N, int THREADS, bool KEEP> struct Kept {};
template <int N, int THREADS> struct Kept<N, THREADS, true> {
    float4 kept[KEPT][THREADS];
    Vec<float, N> grad_bias[4][THREADS];
};

template <typename T, int G, int THREADS, bool KEEP> struct Shared : Kept<TILE / G, THREADS, KEEP> {
    static constexpr int CH = THREADS / G, N = TILE / G, WARPS = THREADS / 32, NBC = TILE * 2 * NS * G / THREADS;
    static constexpr int STRIDE = CH + 8;  // neighbouring rows begin in different banks
    float4 step[TILE][CH];  // delta; delta u, then s1 = sum_n e A log2(e); g; sigmoid(z). See `place`.
    float s2[TILE][STRIDE];  // sum_n lambda B
    float y[TILE][STRIDE];
    float bc[TILE][2 * NS * G];
    float grad_bc[WARPS][TILE][2 * NS * G];
    float4 decay[WINDOW][THREADS];
    alignas(16) float d_skip[CH];
    NearBiases<CH> biases;
    uint32_t rows[3][TILE];  // of this tile, the next and the one behind it
    unsigned char starts[TILE];
    // Own slots of each thread. Two where the next tile arrives while this one is still needed.
    alignas(16) float4 state[2][THREADS];
    struct Slots {
        Vec<T, N> u[THREADS], z[THREADS], grad_out[THREADS];
    } slots[2];
    Vec<T, N> dt[THREADS];
    Vec<T, NBC> raw_bc[THREADS];
    Vec<float, N> slope[THREADS];  // d(delta) / d(dt)
    Vec<float, N> grad_d[THREADS];

    // Where a row holds a channel: warps read 8 neighbours, and 8 threads store every Nth, each from all banks.
    static __device__ __forceinline__ int place(int channel) { return channel ^ ((channel >> 3) & 7 & (CH / 8 - 1)); }
};

// Steps 0..8 forwards; their decays, and with KEEP the first states, go to shared memory.
template <bool STARTS, bool KEEP, typename S>
__device__ __forceinline__ void advance(S& s, float (&h)[NS], const float (&a)[NS], int c, int g) {
    // Loads first: the compiler cannot know that the stores leave them alone, and each would wait for the last.
    float2 d[WINDOW];
    float4 B[WINDOW];
#pragma unroll
    for (int t = 0; t < WINDOW; t++) {
        d[t] = *reinterpret_cast<const float2*>(&s.step[t][S::place(c)]);
        B[t] = *reinterpret_cast<const float4*>(&s.bc[t][g * NS]);
    }
#pragma unroll
    for (int t = 0; t < WINDOW; t++) {
        const float cut = STARTS && s.starts[t] ? -INFINITY : 0.f;
        const float b[NS] = {B[t].x, B[t].y, B[t].z, B[t].w};
        float e[NS];
#pragma unroll
        for (int i = 0; i < NS; i++) {
            e[i] = exp2_approx(STARTS ? fmaf(d[t].x, a[i], cut) : d[t].x * a[i]);
            h[i] = fmaf(e[i], h[i], d[t].y * b[i]);
        }
        s.decay[t][threadIdx.x] = make_float4(e[0], e[1], e[2], e[3]);
        if constexpr (KEEP) {
            if (t < KEPT) s.kept[t][threadIdx.x] = make_float4(h[0], h[1], h[2], h[3]);
        }
    }
}

// Decays of steps 8..16.
template <bool STARTS, typename S>
__device__ __forceinline__ void decays(S& s, float (&decay)[WINDOW][NS], const float (&a)[NS], int c) {
#pragma unroll
    for (int r = 0; r < WINDOW; r++) {
        const float delta = s.step[WINDOW + r][S::place(c)].x;
        const float cut = STARTS && s.starts[WINDOW + r] ? -INFINITY : 0.f;
#pragma unroll
        for (int i = 0; i < NS; i++) decay[r][i] = exp2_approx(STARTS ? fmaf(delta, a[i], cut) : delta * a[i]);
    }
}

__device__ __forceinline__ uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }
__device__ __forceinline__ void store_shared(uint32_t address, float x) {
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(x) : "memory");
}

// Where a lane stores the one of s1 and s2, of the two steps of a pair, that the fold leaves to it.
struct Target {
    uint32_t address, row_bytes;  // of the pair's later step, when that is 0
    template <int G, typename S> static __device__ __forceinline__ Target of(S& s, int c, int g) {
        const int which = g / (G / 4);
        Target to = which / 2 ? Target{shared_address(&s.s2[0][c]), sizeof(s.s2[0])}
                              : Target{shared_address(&s.step[0][S::place(c)].y), sizeof(s.step[0])};
        to.address -= which % 2 * to.row_bytes;
        return to;
    }
};

// States after each of the eight steps from t0 on, of which the first FROM are there.
template <int FROM, typename S>
__device__ __forceinline__ void states(S& s, int t0, const float (&decay)[WINDOW][NS], const float (&h0)[NS],
                                       float (&h)[WINDOW][NS], int c, int g) {
#pragma unroll
    for (int r = FROM; r < WINDOW; r++) {
        const float delta_u = s.step[t0 + r][S::place(c)].y;
        const float4 b4 = *reinterpret_cast<const float4*>(&s.bc[t0 + r][g * NS]);
        const float B[NS] = {b4.x, b4.y, b4.z, b4.w};
#pragma unroll
        for (int i = 0; i < NS; i++) h[r][i] = fmaf(decay[r][i], r ? h[r > 0 ? r - 1 : 0][i] : h0[i], delta_u * B[i]);
    }
}

// The eight steps from t0 on, back; h0 is the state before them, h those after.
template <int G, bool TENSOR, typename S>
__device__ __forceinline__ void window(S& s, int t0, const float (&decay)[WINDOW][NS], const float (&h)[WINDOW][NS], const float (&h0)[NS],
                                       const float (&a)[NS], float (&carry)[NS], float (&grad_a)[NS], int c, int g,
                                       const Selector (&selectors)[4], const Target& q_to) {
    constexpr int CW = 32 / G, NB = NS * G;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, place = S::place(c);
    float4(*step)[S::CH] = &s.step[t0];
    const float(*bc)[2 * NB] = &s.bc[t0];
    float ys[WINDOW];
#pragma unroll
    for (int r = 0; r < WINDOW; r++) {
        const float4 c4 = *reinterpret_cast<const float4*>(&bc[r][NB + g * NS]);
        ys[r] = fmaf(h[r][3], c4.w, fmaf(h[r][2], c4.z, fmaf(h[r][1], c4.y, h[r][0] * c4.x)));
    }
    // What a pair of steps leaves is folded and stored while the next pair runs: stores behind its loads.
    struct Pair {
        float q[4], sums[4];  // s1 of both steps, then s2; dB and dC
    } last;
    auto leave = [&](Pair& pair, int r2) {
        if constexpr (TENSOR) {
            // Row lane / 4 is the states of lane / 8 for one half of the warp's channels; add the halves. Lane 8 g + q and
            // 8 g + 4 + q share columns 2 q, 2 q + 1: step q / 2, B or C by q % 2.
            fold<4, 2, 4>(pair.sums, lane / 4 % 2);
            const int q4 = lane % 4, at = q4 % 2 * NB + lane / 8 * NS + lane / 4 % 2 * 2;
            *reinterpret_cast<float2*>(&s.grad_bc[warp][t0 + r2 - q4 / 2][at]) = make_float2(pair.sums[0], pair.sums[1]);
        }
        fold<4, G, CW>(pair.q, g);
        __syncwarp();  // s1 takes the place of delta u, which every lane of the channel has read
        if (g % (G / 4) == 0) store_shared(q_to.address + (t0 + r2) * q_to.row_bytes, pair.q[0]);
    };
#pragma unroll
    for (int r2 = WINDOW - 1; r2 > 0; r2 -= 2) {
        Pair pair{{0.f, 0.f, 0.f, 0.f}, {0.f, 0.f, 0.f, 0.f}};
#pragma unroll
        for (int k = 0; k < 2; k++) {
            const int r = r2 - k;
            const float4 d = step[r][place];
            const float4 b4 = *reinterpret_cast<const float4*>(&bc[r][g * NS]);
            const float4 c4 = *reinterpret_cast<const float4*>(&bc[r][NB + g * NS]);
            const float B[NS] = {b4.x, b4.y, b4.z, b4.w}, C[NS] = {c4.x, c4.y, c4.z, c4.w};
            float s1 = 0.f, s2 = 0.f, v[2 * NS];
#pragma unroll
            for (int i = 0; i < NS; i++) {
                const float lambda = fmaf(C[i], d.z, carry[i]);
                s2 = i ? fmaf(lambda, B[i], s2) : lambda * B[i];
                carry[i] = decay[r][i] * lambda;
                const float e = carry[i] * (r ? h[r > 0 ? r - 1 : 0][i] : h0[i]);
                s1 = i ? fmaf(e, a[i], s1) : e * a[i];
                grad_a[i] = fmaf(e, d.x, grad_a[i]);
                v[i] = lambda * d.y;
                v[NS + i] = d.z * h[r][i];
            }
            pair.q[k] = s1;
            pair.q[2 + k] = s2;
            if constexpr (TENSOR) {
                static_assert(G == 4);
                // Upper rows: states 0 and 1 of B, then of C; lower rows: states 2 and 3.
                sum_lanes(pair.sums, v[0], v[2], v[1], v[3], selectors[2 * k]);
                sum_lanes(pair.sums, v[4], v[6], v[5], v[7], selectors[2 * k + 1]);
            } else {
                fold<2 * NS, CW, 1>(v, lane % CW);
                constexpr int LEFT = 2 * NS / CW;
#pragma unroll
                for (int j = 0; j < LEFT; j++) {
                    const int index = lane % CW * LEFT + j;
                    s.grad_bc[warp][t0 + r][index / NS * NB + g * NS + index % NS] = v[j];
                }
            }
        }
        if (r2 == WINDOW - 1) {
#pragma unroll
            for (int r0 = 0; r0 < WINDOW; r0 += 4) {
                float four[4] = {ys[r0], ys[r0 + 1], ys[r0 + 2], ys[r0 + 3]};
                fold<4, G, CW>(four, g);
                if (g % (G / 4) == 0) s.y[t0 + r0 + g / (G / 4)][c] = four[0];
            }
        } else {
            leave(last, r2 + 2);
        }
        last = pair;
    }
    leave(last, 1);
}

template <typename T, int G, int THREADS, bool KEEP, typename A>
__device__ __forceinline__ void run(const ScanBackward& p) {
    using S = Shared<T, G, THREADS, KEEP>;
    constexpr int CH = S::CH, CW = 32 / G, N = S::N, PER_STEP = THREADS / TILE, NBC = S::NBC, NB = NS * G;
    constexpr bool EXACT = sizeof(T) == 4, ALIGNED = A::ALIGNED, TENSOR = A::TENSOR, FULL = A::FULL;
    extern __shared__ __align__(16) unsigned char memory[];
    S& s = *reinterpret_cast<S*>(memory);
    const ScanInputs& in = p.in;
    const int d_inner = in.layout.d_inner, d_state = in.layout.d_state, seqlen = in.layout.seqlen;
    const int n_blocks = (d_inner + CH - 1) / CH, block = blockIdx.x % n_blocks;
    const int first = block * CH;
    const uint32_t sequence = blockIdx.x / n_blocks;
    const int tid = threadIdx.x, lane = tid % 32;
    // In the time loop: channel c, states g NS ... Neighbouring lanes are neighbouring channels.
    const int c = tid / 32 * CW + lane % CW, g = lane / CW;
    const bool c_valid = first + c < d_inner;
    const int64_t state_channel = int64_t(sequence) * d_inner + first + c;
    // For what is per element: N channels of one step, and a part of the step's B and C.
    const int step = tid / PER_STEP, part = tid % PER_STEP, channel = first + part * N, n_valid = d_inner - channel;
    const bool is_c = part >= PER_STEP / 2;
    const int bc_state = part % (PER_STEP / 2) * NBC;
    const Selector selectors[4] = {Selector(0), Selector(1), Selector(2), Selector(3)};

    const Target q_to = Target::of<G>(s, c, g);

    float a[NS], carry[NS], grad_a[NS] = {0.f, 0.f, 0.f, 0.f};
    load_states(a, in.A, first + c, c_valid, g * NS, d_state);
    load_states(carry, p.grad_last_state, state_channel, c_valid, g * NS, d_state);
#pragma unroll
    for (int i = 0; i < NS; i++) a[i] *= LOG2_E;
    s.grad_d[tid].zero();
    if constexpr (KEEP) {
#pragma unroll
        for (int m = 0; m < 4; m++) s.grad_bias[m][tid].zero();
    }
    if (tid < CH) s.d_skip[tid] = in.D && first + tid < d_inner ? in.D[first + tid] : 0.f;

    const int n_tiles = (seqlen + TILE - 1) / TILE;
    unsigned char next_starts = 0;
    auto row_of = [&](int tile) { return s.rows[(tile + 3) % 3][step]; };
    auto is_step = [&](int tile, int of) { return tile >= 0 && tile * TILE + of < seqlen; };
    auto channels = [&](int tile) { return is_step(tile, step) ? n_valid : 0; };
    auto fetch_rows = [&](int tile) {
        if (tid < TILE && is_step(tile, tid)) {
            const uint32_t position = sequence * seqlen + tile * TILE + tid;
            uint32_t* to = &s.rows[tile % 3][tid];
            if (in.layout.row_of_position) {
                copy_async<4>(to, in.layout.row_of_position + position);
            } else {
                *to = position;
            }
        }
    };
    auto prefetch = [&](int tile) {
        typename S::Slots& slot = s.slots[tile & 1];
        const uint32_t row = row_of(tile);
        const int n = channels(tile);
        fetch<ALIGNED>(slot.u[tid], at_row<T>(in.u, row, in.u_stride, channel), n);
        fetch<ALIGNED>(s.dt[tid], at_row<T>(in.dt, row, in.dt_stride, channel), n);
        fetch<ALIGNED>(slot.z[tid], at_row<T>(in.z, row, in.z_stride, channel), FULL || in.z ? n : 0);
        fetch<ALIGNED>(slot.grad_out[tid], at_row<T>(p.grad_out, row, p.grad_out_stride, channel), n);
        const T* from = at_row<T>(is_c ? in.C : in.B, row, is_c ? in.C_stride : in.B_stride, bc_state);
        fetch<ALIGNED>(s.raw_bc[tid], from, is_step(tile, step) ? d_state - bc_state : 0);
        if (c_valid && tile >= 0) {
            const uint64_t at = (uint64_t(sequence) * n_tiles + tile) * d_inner + first + c;
            copy_async<16>(&s.state[tile & 1][tid], p.saved_states + at * NB + g * NS);
        } else {
            s.state[tile & 1][tid] = make_float4(0.f, 0.f, 0.f, 0.f);
        }
        next_starts = 0;
        if (in.layout.document_starts && is_step(tile, step))
            next_starts = in.layout.document_starts[sequence * seqlen + tile * TILE + step];
        fetch_rows(tile - 1);
    };
    auto stage = [&](int tile) {  // what has arrived, into shared memory
        const typename S::Slots& slot = s.slots[tile & 1];
        const uint32_t row = row_of(tile);
        const int n = channels(tile);
        float x[N], grad[N], gate[N];
        add_bias<A>(x, s.dt[tid], in, s.biases, row, part * N, channel, n);
        const Vec<T, N> u = slot.u[tid], z = slot.z[tid], grad_out = slot.grad_out[tid];
        float slope[N];
#pragma unroll
        for (int i = 0; i < N; i++) {
            slope[i] = 1.f;
            if (FULL || in.layout.softplus) x[i] = softplus<EXACT>(x[i], slope[i]);
            x[i] = (ALIGNED ? 0 : i) < n ? x[i] : 0.f;
        }
        s.slope[tid] = pack<float, N>(slope);
#pragma unroll
        for (int i = 0; i < N; i++) {
            gate[i] = sigmoid(z.get(i));
            grad[i] = grad_out.get(i) * (FULL || in.z ? z.get(i) * gate[i] : 1.f);
            s.step[step][S::place(part * N + i)] = make_float4(x[i], x[i] * u.get(i), grad[i], gate[i]);
        }
        const Vec<T, NBC> raw = s.raw_bc[tid];
#pragma unroll
        for (int i = 0; i < NBC; i++) s.bc[step][part * NBC + i] = raw.get(i);
        if (part == 0) s.starts[step] = next_starts;
    };
    auto finish = [&](int tile) {  // what is per element leaves
        const uint32_t row = row_of(tile);
        const int n = channels(tile);
        const typename S::Slots& slot = s.slots[tile & 1];
        const Vec<T, N> u = slot.u[tid], z = slot.z[tid], grad_out = slot.grad_out[tid];
        const Vec<float, N> slope = s.slope[tid];
        float grad_u[N], grad_dt[N], grad_z[N], out[N], grad_d[N];
#pragma unroll
        for (int i = 0; i < N; i++) {
            const int at = part * N + i;
            const float4 d = s.step[step][S::place(at)];
            const float s2 = s.s2[step][at], d_skip = s.d_skip[at], y = fmaf(d_skip, u.get(i), s.y[step][at]);
            const float silu = z.get(i) * d.w;
            grad_u[i] = fmaf(d.x, s2, d_skip * d.z);
            grad_dt[i] = fmaf(u.get(i), s2, d.y * LN_2) * slope.get(i);
            grad_d[i] = fmaf(d.z, u.get(i), s.grad_d[tid].get(i));
            grad_z[i] = grad_out.get(i) * y * fmaf(silu, 1.f - d.w, d.w);
            out[i] = FULL || in.z ? y * silu : y;
        }
        s.grad_d[tid] = pack<float, N>(grad_d);
        if constexpr (KEEP && FULL) {
            if (n > 0) {
                Vec<float, N>& to = s.grad_bias[s.biases.modality(row)][tid];
                float sums[N];
#pragma unroll
                for (int i = 0; i < N; i++) sums[i] = to.get(i) + grad_dt[i];
                to = pack<float, N>(sums);
            }
        }
        store_vec<ALIGNED>(at_row<T>(p.grad_u, row, p.grad_u_stride, channel), pack<T, N>(grad_u), n);
        store_vec<ALIGNED>(at_row<T>(p.grad_dt, row, p.grad_dt_stride, channel), pack<T, N>(grad_dt), n);
        if (FULL || p.grad_z) store_vec<ALIGNED>(at_row<T>(p.grad_z, row, p.grad_z_stride, channel), pack<T, N>(grad_z), n);
        if (p.out) store_vec<ALIGNED>(at_row<T>(p.out, row, p.out_stride, channel), pack<T, N>(out), n);
    };
    auto sum_warps = [&](int tile) {
        constexpr int VALUES = TILE * 2 * NB, EACH = VALUES > THREADS * 4 ? VALUES / (THREADS * 4) : 1;
        if (VALUES < THREADS * 4 && tid * 4 >= VALUES) return;
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            const int e = tid * 4 + j * THREADS * 4, at = e / (2 * NB), column = e % (2 * NB);
            const uint32_t to = s.rows[tile % 3][at];
            float4 sum = *reinterpret_cast<const float4*>(&s.grad_bc[0][at][column]);
#pragma unroll
            for (int w = 1; w < S::WARPS; w++) {
                const float4 v = *reinterpret_cast<const float4*>(&s.grad_bc[w][at][column]);
                sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
            }
            if constexpr (TENSOR) {
                sum.x *= TF32_UNBIAS, sum.y *= TF32_UNBIAS, sum.z *= TF32_UNBIAS, sum.w *= TF32_UNBIAS;
            }
            if (is_step(tile, at)) {
                const uint64_t from_start = uint64_t(block) * p.n_rows + to;
                *reinterpret_cast<float4*>(p.partial_bc + from_start * (2 * NB) + column) = sum;
            }
        }
    };

    if constexpr (FULL) {
        s.biases.stage(in, first);
        __syncthreads();
    }
    if (n_tiles > 0) {
        fetch_rows(n_tiles - 1);
        wait_async();
        __syncthreads();
        prefetch(n_tiles - 1);
        wait_async();
        stage(n_tiles - 1);
    }
    bool starts = __syncthreads_or(next_starts);
#pragma unroll 1
    for (int tile = n_tiles - 1; tile >= 0; tile--) {
        prefetch(tile - 1);
        {
            float decay[WINDOW][NS], states_of[WINDOW][NS];
            const float4 h4 = s.state[tile & 1][tid];
            float h[NS] = {h4.x, h4.y, h4.z, h4.w};
            if (starts) {
                advance<true, KEEP>(s, h, a, c, g);
                decays<true>(s, decay, a, c);
            } else {
                advance<false, KEEP>(s, h, a, c, g);
                decays<false>(s, decay, a, c);
            }
            auto back_to_start = [&] {  // decays and the state before steps 0..8
                const float4 before = s.state[tile & 1][tid];
                h[0] = before.x, h[1] = before.y, h[2] = before.z, h[3] = before.w;
#pragma unroll
                for (int r = 0; r < WINDOW; r++) {
                    const float4 e = s.decay[r][tid];
                    decay[r][0] = e.x, decay[r][1] = e.y, decay[r][2] = e.z, decay[r][3] = e.w;
                }
            };
            if constexpr (KEEP) {
                states<0>(s, WINDOW, decay, h, states_of, c, g);
                window<G, TENSOR>(s, WINDOW, decay, states_of, h, a, carry, grad_a, c, g, selectors, q_to);
                back_to_start();
#pragma unroll
                for (int r = 0; r < KEPT; r++) {
                    const float4 k = s.kept[r][tid];
                    states_of[r][0] = k.x, states_of[r][1] = k.y, states_of[r][2] = k.z, states_of[r][3] = k.w;
                }
                states<KEPT>(s, 0, decay, h, states_of, c, g);
                window<G, TENSOR>(s, 0, decay, states_of, h, a, carry, grad_a, c, g, selectors, q_to);
            } else {
#pragma unroll 1
                for (int t0 = WINDOW;; t0 = 0) {
                    states<0>(s, t0, decay, h, states_of, c, g);
                    window<G, TENSOR>(s, t0, decay, states_of, h, a, carry, grad_a, c, g, selectors, q_to);
                    if (t0 == 0) break;
                    back_to_start();
                }
            }
        }
        wait_async();
        __syncthreads();
        finish(tile);
        sum_warps(tile);
        stage(tile - 1);
        starts = __syncthreads_or(next_starts);
    }
    store_states(p.grad_initial_state, carry, state_channel, c_valid, g * NS, d_state);
    if (c_valid)
        *reinterpret_cast<float4*>(p.partial_a + state_channel * NB + g * NS) =
            make_float4(grad_a[0], grad_a[1], grad_a[2], grad_a[3]);
    if (p.partial_d && tid < CH && first + tid < d_inner) {  // the last barrier is behind every thread's last sum
        float sum = 0.f;
#pragma unroll
        for (int t = 0; t < TILE; t++) sum += __uint_as_float(s.grad_d[t * PER_STEP + tid / N].words[tid % N]);
        p.partial_d[int64_t(sequence) * d_inner + first + tid] = sum;
    }
    if constexpr (KEEP && FULL) {
        for (uint32_t m = 0; m < in.layout.n_biases; m++) {
            if (tid >= CH || first + tid >= d_inner) break;
            float sum = 0.f;
#pragma unroll
            for (int t = 0; t < TILE; t++) sum += __uint_as_float(s.grad_bias[m][t * PER_STEP + tid / N].words[tid % N]);
            p.partial_bias[(uint64_t(sequence) * in.layout.n_biases + m) * d_inner + first + tid] = sum;
        }
    }
}

// dB and dC: the sum over blocks of channels, four states of one row a thread.
template <typename T, int NB> __device__ __forceinline__ void sum_bc(const ScanSums& p) {
    const uint64_t vectors = p.n_rows * (2 * NB / 4), at = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= vectors) return;
    const float4* from = reinterpret_cast<const float4*>(p.partial_bc) + at;
    float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll 8
    for (uint32_t block = 0; block < p.n_blocks; block++) {
        const float4 v = __ldcs(from + block * vectors);
        sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
    }
    const uint32_t row = at / (2 * NB / 4);
    const int column = int(at % (2 * NB / 4)) * 4, state = column % NB;
    T* to = column < NB ? at_row<T>(p.grad_B, row, uint32_t(p.grad_B_stride), 0)
                        : at_row<T>(p.grad_C, row, uint32_t(p.grad_C_stride), 0);
    const float v[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (state + i < int(p.d_state)) to[state + i] = from_f32<T>(v[i]);
}

// dA and dD: the sum over sequences, one channel a thread row.
template <int NB> __device__ __forceinline__ void sum_weights(const ScanSums& p) {
    const uint32_t at = blockIdx.x * blockDim.x + threadIdx.x;
    const uint32_t channel = at / NB, state = at % NB;
    if (channel >= p.d_inner) return;
    float sum = 0.f;
    for (uint32_t b = 0; b < p.batch; b++) sum += p.partial_a[(int64_t(b) * p.d_inner + channel) * NB + state];
    if (state < p.d_state) p.grad_A[int64_t(channel) * p.d_state + state] = sum;
    if (p.grad_D && state == 0) {
        sum = 0.f;
        for (uint32_t b = 0; b < p.batch; b++) sum += p.partial_d[int64_t(b) * p.d_inner + channel];
        p.grad_D[channel] = sum;
    }
    if (p.grad_bias && state < p.n_biases) {  // at most 4 modalities, of at least 16 threads
        sum = 0.f;
        for (uint32_t b = 0; b < p.batch; b++)
            sum += p.partial_bias[(uint64_t(b) * p.n_biases + state) * p.d_inner + channel];
        p.grad_bias[uint64_t(state) * p.d_inner + channel] = sum;
    }
}

}  // namespace scan_backward

#define SCAN_BACKWARD(NAME, T, G, THREADS, BLOCKS, KEEP, ...)                                                        \
    static_assert(sizeof(scan_backward::Shared<T, G, THREADS, KEEP>) <= 228 * 1024 / BLOCKS - 1024);                    \
    extern "C" __constant__ const uint32_t NAME##_shared_bytes = sizeof(scan_backward::Shared<T, G, THREADS, KEEP>);        \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) NAME(const __grid_constant__ ScanBackward p) {       \
        scan_backward::run<T, G, THREADS, KEEP, Assume<__VA_ARGS__>>(p);                                              \
    }
#define SCAN_SUMS(T_NAME, T, NB)                                                                                   \
    extern "C" __global__ void selective_scan_sum_bc_##T_NAME##_##NB(const __grid_constant__ ScanSums p) {                \
        scan_backward::sum_bc<T, NB>(p);                                                                              \
    }                                                                                                                \
    extern "C" __global__ void selective_scan_sum_weights_##T_NAME##_##NB(const __grid_constant__ ScanSums p) {           \
        scan_backward::sum_weights<NB>(p);                                                                            \
    }
