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
// state before each tile. The next tile arrives meanwhile, asynchronously.
//
// TENSOR (bf16): a tile runs forwards over steps 0..12, leaving states on the way, and back in windows of four steps,
// each of which first computes its decays and states. What is summed over states or channels (y, sum lambda B, sum e A,
// dB, dC) is summed on the tensor cores, with terms cut to 10 bits and unbiased (the outputs have 8). Shared memory is
// what this kernel waits for, so that a decay is rather computed twice than stored.
//
// Otherwise: forwards over steps 0..8 (decays go to shared memory), forwards and back over 8..16, then forwards (without
// exponentials) and back over 0..8. Sums run in f32 by transposed shuffles.
//
// u, dt, z and the gradient of y are read once, a tile ahead, and only by the block that writes the gradients of the same
// rows and channels, behind the barrier after their arrival: each of grad_u, grad_dt, grad_z and out may be the same memory
// as any of them.
//
// dB and dC: within a warp as above, over warps in shared memory, over blocks by `sum_bc`: fixed order, no atomics.
// d(dt_bias) is a sum over rows of grad_dt: by the kernels with KEEP, else see column_sums.
#pragma once
#include "backward_shuffle.cuh"
#include "backward_tensor.cuh"

namespace scan_backward {

constexpr int TILE = STATE_STRIDE;

// KEEP: there is room for sums of the biases' gradients, and for states in `kept`.
template <int STATES, int THREADS> struct Kept {
    float4 kept[STATES][THREADS];  // TENSOR: states after steps 3 and 7
};
template <int THREADS> struct Kept<0, THREADS> {};
template <int N, int THREADS, bool KEEP> struct BiasSums {};
template <int N, int THREADS> struct BiasSums<N, THREADS, true> {
    Vec<float, N> grad_bias[4][THREADS];
};

template <typename T, int G, int THREADS, bool KEEP, bool TENSOR, bool MANY = false> struct Shared
    : Kept<TENSOR ? 2 : KEEP ? KEPT : 0, THREADS>, BiasSums<TILE / G, THREADS, KEEP> {
    static constexpr int CH = THREADS / G, N = TILE / G, WARPS = THREADS / 32, NBC = TILE * 2 * NS * G / THREADS;
    static constexpr int STRIDE = CH + 8;  // neighbouring rows begin in different banks
    float4 step[TILE][CH];  // delta; delta u, then s1 = sum_n e A; g; sigmoid(z). See `place`.
    float s2[TILE][STRIDE];  // sum_n lambda B
    float y[TILE][STRIDE];
    float bc[TILE][2 * NS * G];
    alignas(128) float grad_bc[WARPS][TILE][2 * NS * G];
    float4 decay[TENSOR ? 1 : WINDOW][TENSOR ? 1 : THREADS];  // not of TENSOR
    alignas(16) float d_skip[CH];
    NearBiases<CH, MANY> biases;
    uint32_t rows[4][TILE];  // of this tile, the next and the one behind it
    unsigned char starts[TILE];
    // Where tiles arrive. Two where the next one does while this one is still needed.
    alignas(16) float4 state[2][THREADS];
    struct Slots {
        Vec<T, N> u[THREADS], dt[THREADS], z[THREADS], grad_out[THREADS];
    } slots[2];
    Vec<T, NBC> raw_bc[THREADS];
    Vec<float, N> slope[THREADS];  // d(delta) / d(dt)
    Vec<float, N> grad_d[THREADS];

    // Where a row holds a channel: warps read 8 neighbours, and 8 threads store every Nth, each from all banks.
    static __device__ __forceinline__ int place(int channel) { return channel ^ ((channel >> 3) & 7 & (CH / 8 - 1)); }
};

// Where partial sums of dB and dC lie, were they those of the first block.
template <typename P> __device__ __forceinline__ auto partial_of(const P& p, uint32_t block) {
    return block < p.n_lent ? p.lent_bc : p.partial_bc;
}

template <typename T, int G, int THREADS, bool KEEP, typename A>
__device__ __forceinline__ void run(const ScanBackward& p) {
    using S = Shared<T, G, THREADS, KEEP, A::TENSOR, A::MANY>;
    constexpr int CH = S::CH, CW = 32 / G, N = S::N, PER_STEP = THREADS / TILE, NBC = S::NBC, NB = NS * G;
    constexpr bool EXACT = sizeof(T) == 4, ALIGNED = A::ALIGNED, TENSOR = A::TENSOR, FULL = A::FULL;
    // Tiles arrive in pieces of 16 bytes; else each thread fetches what it will stage itself.
    constexpr bool BY_CHUNK = FULL && G == 4;
    extern __shared__ __align__(128) unsigned char memory[];
    S& s = *reinterpret_cast<S*>(memory);
    const ScanInputs& in = p.in;
    const int d_inner = in.layout.d_inner, d_state = in.layout.d_state;
    const int n_blocks = (d_inner + CH - 1) / CH, block = blockIdx.x % n_blocks;
    const int first = block * CH;
    const Span<A::CHUNKED> span = Span<A::CHUNKED>::of(in, blockIdx.x / n_blocks);
    const uint32_t first_position = span.first(in.layout);
    const int n_steps = span.steps(in.layout);
    const int tid = threadIdx.x, lane = tid % 32;
    // In the time loop: channel c, states g NS ...
    const int c = tid / 32 * CW + (TENSOR ? lane / G : lane % CW), g = TENSOR ? lane % G : lane / CW;
    const bool c_valid = first + c < d_inner;
    const int64_t state_channel = int64_t(span.sequence) * d_inner + first + c;
    // For what is per element: N channels of one step, and a part of the step's B and C.
    const int step = tid / PER_STEP, part = tid % PER_STEP, channel = first + part * N, n_valid = d_inner - channel;
    const bool is_c = part >= PER_STEP / 2;
    const int bc_state = part % (PER_STEP / 2) * NBC;
    const Turn turn(lane);
    const float2 ones = lane / 4 % 2 ? make_float2(0.f, 1.f) : make_float2(1.f, 0.f);
    const Target q_to = Target::of<G>(s, c, g);

    float a[NS], carry[NS], grad_a[NS] = {0.f, 0.f, 0.f, 0.f};
    load_states(a, in.A, first + c, c_valid, g * NS, d_state);
    load_states(carry, p.grad_last_state, state_channel, c_valid, g * NS, d_state);
    if constexpr (A::CHUNKED) {
        if (!span.is_last() && c_valid)
            through_chunks<NB>(carry, p.chunks, in.layout, span, span.n_chunks - 1, span.chunk + 1, first + c, g * NS);
    }
#pragma unroll
    for (int i = 0; i < NS; i++) a[i] *= LOG2_E;
    s.grad_d[tid].zero();
    if constexpr (KEEP) {
#pragma unroll
        for (int m = 0; m < 4; m++) s.grad_bias[m][tid].zero();
    }
    if (tid < 4 * TILE) s.rows[0][tid] = 0;  // of steps that there are not
    if (tid < CH) s.d_skip[tid] = in.D && first + tid < d_inner ? in.D[first + tid] : 0.f;

    const int n_tiles = (n_steps + TILE - 1) / TILE;
    unsigned char next_starts = 0;
    auto row_of = [&](int tile) { return s.rows[tile & 3][step]; };
    // The last tile of a sequence, which comes first, may have fewer steps; no other need ask whether it has a step.
    using Whole = cuda::std::true_type;
    using Any = cuda::std::false_type;
    auto is_step = [&](int tile, int of, auto whole) { return whole.value || tile * TILE + of < n_steps; };
    auto channels = [&](int tile, auto whole) { return is_step(tile, step, whole) ? n_valid : 0; };
    auto fetch_rows = [&](int tile, auto whole) {  // of TILE threads
        if (!is_step(tile, tid, whole)) return;
        const uint32_t position = first_position + tile * TILE + tid;
        uint32_t* to = &s.rows[tile & 3][tid];
        if (in.layout.row_of_position) {
            copy_async<4>(to, in.layout.row_of_position + position);
        } else {
            *to = position;
        }
    };
    auto fetch_next = [&](int tile, auto whole) {  // where the tile before lies, and where documents start in this one
        next_starts = 0;
        if (tid < TILE) {
            if (tile > 0) fetch_rows(tile - 1, Whole());
            if (in.layout.document_starts && is_step(tile, tid, whole))
                next_starts = in.layout.document_starts[first_position + tile * TILE + tid];
        }
    };
    // Chunks are whole tiles but for the last of a sequence.
    const int64_t segment = A::CHUNKED ? span.sequence * int64_t((in.layout.seqlen + TILE - 1) / TILE) +
                                             span.chunk * (in.chunk / TILE)
                                       : int64_t(span.sequence) * n_tiles;
    const RowsFrom<const float> states_from(p.saved_states + (segment * d_inner + first + c) * NB + g * NS,
                                            d_inner * NB * sizeof(float), 0);
    // BY_CHUNK: a quarter of the threads copies u, another dt, z, the gradient of y; the first 64 also B and C.
    constexpr int QUARTER = THREADS / 4, CHUNK = 16 / sizeof(T), CHUNKS = CH / CHUNK;
    const int matrix = tid / QUARTER, chunk_step = tid % QUARTER / CHUNKS, chunk = tid % CHUNKS;
    const RowsFrom<T> chunks(matrix == 0 ? in.u : matrix == 1 ? in.dt : matrix == 2 ? in.z : p.grad_out,
                             matrix == 0   ? in.u_stride
                             : matrix == 1 ? in.dt_stride
                             : matrix == 2 ? in.z_stride
                                           : p.grad_out_stride,
                             first + chunk * CHUNK);
    const bool chunk_there = first + chunk * CHUNK < d_inner;
    const RowsFrom<T> bc_chunks(tid & 2 ? in.C : in.B, tid & 2 ? in.C_stride : in.B_stride, tid % 2 * CHUNK);
    auto prefetch_chunks = [&](int tile, auto whole) {
        typename S::Slots& slot = s.slots[tile & 1];
        const uint32_t* rows = s.rows[tile & 3];
        T* to = reinterpret_cast<T*>(&slot) + (matrix * TILE + chunk_step) * CH + chunk * CHUNK;
#pragma unroll
        for (int i = 0; i < TILE; i += TILE / 2)
            copy_async_or_zero(to + i * CH, chunks.at(rows[chunk_step + i]),
                               chunk_there && is_step(tile, chunk_step + i, whole));
        if (tid < 64)
            copy_async_or_zero(reinterpret_cast<T*>(s.raw_bc) + tid * CHUNK, bc_chunks.at(rows[tid / 4]),
                               is_step(tile, tid / 4, whole));
        copy_async_or_zero(&s.state[tile & 1][tid], states_from.at(tile), c_valid);
        fetch_next(tile, whole);
    };
    auto prefetch = [&](int tile, auto whole) {
        if constexpr (BY_CHUNK) {
            prefetch_chunks(tile, whole);
            return;
        }
        typename S::Slots& slot = s.slots[tile & 1];
        const uint32_t row = row_of(tile);
        const int n = channels(tile, whole);
        fetch<ALIGNED>(slot.u[tid], at_row<T>(in.u, row, in.u_stride, channel), n);
        fetch<ALIGNED>(slot.dt[tid], at_row<T>(in.dt, row, in.dt_stride, channel), n);
        fetch<ALIGNED>(slot.z[tid], at_row<T>(in.z, row, in.z_stride, channel), FULL || in.z ? n : 0);
        fetch<ALIGNED>(slot.grad_out[tid], at_row<T>(p.grad_out, row, p.grad_out_stride, channel), n);
        const T* from = at_row<T>(is_c ? in.C : in.B, row, is_c ? in.C_stride : in.B_stride, bc_state);
        fetch<ALIGNED>(s.raw_bc[tid], from, is_step(tile, step, whole) ? d_state - bc_state : 0);
        if (c_valid) {
            copy_async<16>(&s.state[tile & 1][tid], states_from.at(tile));
        } else {
            s.state[tile & 1][tid] = make_float4(0.f, 0.f, 0.f, 0.f);
        }
        fetch_next(tile, whole);
    };
    auto stage = [&](int tile, auto whole) {  // what has arrived, into shared memory
        const typename S::Slots& slot = s.slots[tile & 1];
        const uint32_t row = row_of(tile);
        const int n = channels(tile, whole);
        float x[N], grad[N], gate[N];
        add_bias<A>(x, slot.dt[tid], in, s.biases, row, part * N, channel, n);
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
        if constexpr (NBC % 4 == 0) {
#pragma unroll
            for (int i = 0; i < NBC; i += 4)
                *reinterpret_cast<float4*>(&s.bc[step][part * NBC + i]) = pack_quad<TENSOR>(
                    raw.get(i), raw.get(i + 1), raw.get(i + 2), raw.get(i + 3));
        } else {
#pragma unroll
            for (int i = 0; i < NBC; i++) s.bc[step][stored_at<TENSOR>(part * NBC + i)] = raw.get(i);
        }
        if (tid < TILE) s.starts[tid] = next_starts;
    };
    auto finish = [&](int tile) {  // what is per element leaves
        const uint32_t row = row_of(tile);
        const int n = channels(tile, Any());
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
            grad_dt[i] = fmaf(u.get(i), s2, d.y) * slope.get(i);
            grad_d[i] = fmaf(d.z, u.get(i), s.grad_d[tid].get(i));
            grad_z[i] = grad_out.get(i) * y * fmaf(silu, 1.f - d.w, d.w);
            out[i] = FULL || in.z ? y * silu : y;
        }
        s.grad_d[tid] = pack<float, N>(grad_d);
        if constexpr (KEEP && FULL) {
            if (n > 0) {
                const int m = s.biases.modality(row);
                const Vec<float, N> before = s.grad_bias[m][tid];
                float sums[N];
#pragma unroll
                for (int i = 0; i < N; i++) sums[i] = before.get(i) + grad_dt[i];
                s.grad_bias[m][tid] = pack<float, N>(sums);
            }
        }
        auto leave = [&](void* rows, uint32_t stride, const float(&x)[N]) {
            store_vec<ALIGNED>(RowsFrom<T>(rows, stride, channel).at(row), pack<T, N>(x), n);
        };
        leave(p.grad_u, p.grad_u_stride, grad_u);
        leave(p.grad_dt, p.grad_dt_stride, grad_dt);
        if (FULL || p.grad_z) leave(p.grad_z, p.grad_z_stride, grad_z);
        if (p.out) leave(p.out, p.out_stride, out);
    };
    auto sum_warps = [&](int tile) {
        constexpr int VALUES = TILE * 2 * NB, EACH = VALUES > THREADS * 4 ? VALUES / (THREADS * 4) : 1;
        if (VALUES < THREADS * 4 && tid * 4 >= VALUES) return;
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            const int e = tid * 4 + j * THREADS * 4, at = e / (2 * NB), column = e % (2 * NB);
            const uint32_t to = s.rows[tile & 3][at];
            const int from = TENSOR ? column ^ at % 4 * 8 : column;  // as `window_tensor` stores
            float4 sum = *reinterpret_cast<const float4*>(&s.grad_bc[0][at][from]);
#pragma unroll
            for (int w = 1; w < S::WARPS; w++) {
                const float4 v = *reinterpret_cast<const float4*>(&s.grad_bc[w][at][from]);
                sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
            }
            if (is_step(tile, at, Any())) {
                float* of_block = partial_of(p, block) + uint64_t(block) * p.n_rows * (2 * NB);
                const RowsFrom<float> rows(of_block, 2 * NB * sizeof(float), column);
                *reinterpret_cast<float4*>(rows.at(to)) = sum;
            }
        }
    };

    if constexpr (FULL) {
        s.biases.stage(in, first);
        __syncthreads();
    }
    if (n_tiles > 0) {
        __syncthreads();
        if (tid < TILE) fetch_rows(n_tiles - 1, Any());
        wait_async();
        __syncthreads();
        prefetch(n_tiles - 1, Any());
        wait_async();
        __syncthreads();
        stage(n_tiles - 1, Any());
    }
    bool starts = __syncthreads_or(next_starts);
#pragma unroll 1
    for (int tile = n_tiles - 1; tile >= 0; tile--) {
        if (tile > 0) prefetch(tile - 1, Whole());
        if constexpr (TENSOR) {
            auto four = [&](const float4& v, float(&x)[NS]) { x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w; };
            float h[NS];
            four(s.state[tile & 1][tid], h);
            if (starts) {
                advance_tensor<true>(s, h, a, c, g);
            } else {
                advance_tensor<false>(s, h, a, c, g);
            }
            auto window = [&](const Cursor<S>& at) {
                if (starts) {
                    window_tensor<true>(s, at, h, a, carry, grad_a, g, turn, ones);
                } else {
                    window_tensor<false>(s, at, h, a, carry, grad_a, g, turn, ones);
                }
            };
            // h before the window that ends at t0.
            auto rewind = [&](int t0) { four(t0 > QUAD ? s.kept[t0 / QUAD - 2][tid] : s.state[tile & 1][tid], h); };
            // Unrolled, two large blocks are faster; three small ones, not in step with one another, slower by more.
            if constexpr (THREADS < 256) {
#pragma unroll 1
                for (Cursor<S> at(s, TILE - QUAD, c, g, lane, tid / 32);; at.back()) {
                    window(at);
                    if (at.t0 == 0) break;
                    rewind(at.t0);
                }
            } else {
                Cursor<S> at(s, TILE - QUAD, c, g, lane, tid / 32);
#pragma unroll
                for (int t0 = TILE - QUAD; t0 >= 0; t0 -= QUAD) {
                    window(at);
                    if (t0 == 0) break;
                    rewind(t0);
                    at.back();
                }
            }
        }
        if constexpr (!TENSOR) {
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
            auto back = [&](int t0) {
                window<G>(s, t0, decay, states_of, h, a, carry, grad_a, c, g, q_to);
            };
            if constexpr (KEEP) {
                states<0>(s, WINDOW, decay, h, states_of, c, g);
                back(WINDOW);
                back_to_start();
#pragma unroll
                for (int r = 0; r < KEPT; r++) {
                    const float4 k = s.kept[r][tid];
                    states_of[r][0] = k.x, states_of[r][1] = k.y, states_of[r][2] = k.z, states_of[r][3] = k.w;
                }
                states<KEPT>(s, 0, decay, h, states_of, c, g);
                back(0);
            } else {
#pragma unroll 1
                for (int t0 = WINDOW;; t0 = 0) {
                    states<0>(s, t0, decay, h, states_of, c, g);
                    back(t0);
                    if (t0 == 0) break;
                    back_to_start();
                }
            }
        }
        wait_async();
        __syncthreads();
        finish(tile);
        sum_warps(tile);
        if (tile > 0) stage(tile - 1, Whole());
        starts = __syncthreads_or(next_starts);
    }
    const Span<A::CHUNKED> done = span.again(span, in, n_blocks);
    const int64_t first_channel = A::CHUNKED ? int64_t(done.sequence) * d_inner + first + c : state_channel;
    store_states(p.grad_initial_state, carry, first_channel, c_valid && done.chunk == 0, g * NS, d_state);
    const int64_t part_channel = int64_t(done.index()) * d_inner + first;
    if (c_valid)
        *reinterpret_cast<float4*>(p.partial_a + (part_channel + c) * NB + g * NS) =
            make_float4(grad_a[0], grad_a[1], grad_a[2], grad_a[3]);
    if (p.partial_d && tid < CH && first + tid < d_inner) {  // the last barrier is behind every thread's last sum
        float sum = 0.f;
#pragma unroll
        for (int t = 0; t < TILE; t++) sum += __uint_as_float(s.grad_d[t * PER_STEP + tid / N].words[tid % N]);
        p.partial_d[part_channel + tid] = sum;
    }
    if constexpr (KEEP && FULL) {
        for (uint32_t m = 0; m < in.layout.n_biases; m++) {
            if (tid >= CH || first + tid >= d_inner) break;
            float sum = 0.f;
#pragma unroll
            for (int t = 0; t < TILE; t++) sum += __uint_as_float(s.grad_bias[m][t * PER_STEP + tid / N].words[tid % N]);
            p.partial_bias[(uint64_t(done.index()) * in.layout.n_biases + m) * d_inner + first + tid] = sum;
        }
    }
}

// dB and dC: the sum over blocks of channels, four states of one row a thread.
template <typename T, int NB, bool TENSOR> __device__ __forceinline__ void sum_bc(const ScanSums& p, uint32_t block) {
    const uint64_t vectors = p.n_rows * (2 * NB / 4), at = uint64_t(block) * blockDim.x + threadIdx.x;
    if (at >= vectors) return;
    float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll 8
    for (uint32_t i = 0; i < p.n_blocks; i++) {
        const float4 v = __ldcs(reinterpret_cast<const float4*>(partial_of(p, i)) + at + i * vectors);
        sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
    }
    const uint32_t row = at / (2 * NB / 4);
    const int column = int(at % (2 * NB / 4)) * 4;
    // Positions i, i + 1, ... of TENSOR are states 4 i, 4 (i + 1), ...: see `window_tensor`.
    const int state = TENSOR ? column % NB / 4 : column % NB, stride = TENSOR ? 4 : 1;
    T* to = column < NB ? at_row<T>(p.grad_B, row, uint32_t(p.grad_B_stride), 0)
                        : at_row<T>(p.grad_C, row, uint32_t(p.grad_C_stride), 0);
    constexpr float UNBIAS = TENSOR ? TF32_UNBIAS * TF32_UNBIAS : 1.f;  // lambda or h, and delta u or g
    const float v[4] = {sum.x * UNBIAS, sum.y * UNBIAS, sum.z * UNBIAS, sum.w * UNBIAS};
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (state + i * stride < int(p.d_state)) to[state + i * stride] = from_f32<T>(v[i]);
}

// dA and dD: the sum over sequences and their chunks, one channel a thread row.
template <int NB> __device__ __forceinline__ void sum_weights(const ScanSums& p) {
    const uint32_t at = blockIdx.x * blockDim.x + threadIdx.x;
    const uint32_t channel = at / NB, state = at % NB;
    if (channel >= p.d_inner) return;
    float sum = 0.f;
    for (uint32_t b = 0; b < p.n_parts; b++) sum += p.partial_a[(int64_t(b) * p.d_inner + channel) * NB + state];
    if (state < p.d_state) p.grad_A[int64_t(channel) * p.d_state + state] = sum;
    if (p.grad_D && state == 0) {
        sum = 0.f;
        for (uint32_t b = 0; b < p.n_parts; b++) sum += p.partial_d[int64_t(b) * p.d_inner + channel];
        p.grad_D[channel] = sum;
    }
    if (p.grad_bias && state < p.n_biases) {  // at most 4 modalities, of at least 16 threads
        sum = 0.f;
        for (uint32_t b = 0; b < p.n_parts; b++)
            sum += p.partial_bias[(uint64_t(b) * p.n_biases + state) * p.d_inner + channel];
        p.grad_bias[uint64_t(state) * p.d_inner + channel] = sum;
    }
}

}  // namespace scan_backward

#define SCAN_BACKWARD(NAME, T, G, THREADS, BLOCKS, KEEP, ...)                                                        \
    using NAME##_shared =                                                                                            \
        scan_backward::Shared<T, G, THREADS, KEEP, Assume<__VA_ARGS__>::TENSOR, Assume<__VA_ARGS__>::MANY>;             \
    static_assert(sizeof(NAME##_shared) <= 228 * 1024 / BLOCKS - 1024);                                                \
    extern "C" __constant__ const uint32_t NAME##_shared_bytes = sizeof(NAME##_shared);                                \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) NAME(const __grid_constant__ ScanBackward p) {       \
        scan_backward::run<T, G, THREADS, KEEP, Assume<__VA_ARGS__>>(p);                                              \
    }
#define SCAN_SUMS(T_NAME, T, NB, TENSOR)                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                                                \
        selective_scan_sums_##T_NAME##_##NB(const __grid_constant__ ScanSums p) {                                     \
        const uint32_t of_weights = (p.d_inner * NB + blockDim.x - 1) / blockDim.x;                                    \
        if (blockIdx.x < of_weights) {                                                                                \
            scan_backward::sum_weights<NB>(p);                                                                        \
        } else {                                                                                                      \
            scan_backward::sum_bc<T, NB, TENSOR>(p, blockIdx.x - of_weights);                                         \
        }                                                                                                             \
    }
