// Attention, backward, in two launches, each of which owns what it writes, so that sums have one order: gradients of queries
// (and `delta`, the sum of out * grad_out of each row), then of keys and values. Scores are computed again in both.
//
//   P = exp(scale q k - lse),  dS = P (grad_out v - delta),  grad_q = scale dS k,  grad_k = scale dS' q,  grad_v = P' grad_out
#pragma once
#include "mma_sync.cuh"
#include "query_sums.cuh"

namespace attention {

// Of the MET rows, so many at once: their scores are held in registers, beside one sum of gradients or two.
constexpr int STEP_Q = MET, STEP_KV = MET / 2;

template <typename T, int D> struct BackwardTile {
    using Own = Rows<T, OWN, D, THREADS<F>>;
    using Met = Rows<T, MET, D, THREADS<F>>;
    static constexpr int STAGE_BYTES = 2 * Met::BYTES + 2 * MET * 4, SHARED_BYTES = 2 * Own::BYTES + 2 * STAGE_BYTES;
};

// sums[i][j] += own rows (from shared memory) times met rows n .. n + STEP, along D.
template <typename T, int D, int STEP>
__device__ __forceinline__ void scores(float (&sums)[2][STEP / 8][4], uint32_t own, uint32_t met, int n) {
    using Tile = BackwardTile<T, D>;
#pragma unroll
    for (int kk = 0; kk < D / 16; kk++) {
        uint32_t a[2][4];
#pragma unroll
        for (int i = 0; i < 2; i++) Tile::Own::left(a[i], own, int(threadIdx.x) / 32 * M + i * 16, kk);
#pragma unroll
        for (int j = 0; j < STEP / 16; j++) {
            uint32_t b[4];
            Tile::Met::right(b, met, n + j * 16, kk);
#pragma unroll
            for (int i = 0; i < 2; i++) mma<T>(sums[i][2 * j], a[i], b), mma<T>(sums[i][2 * j + 1], a[i], b + 2);
        }
    }
}

// sums[i][j] += weights (rounded) times met rows k .. k + STEP.
template <typename T, int D, int STEP>
__device__ __forceinline__ void weigh(float (&sums)[2][D / 8][4], const float (&weights)[2][STEP / 8][4], uint32_t met, int k) {
#pragma unroll
    for (int kk = 0; kk < STEP / 16; kk++) {
        uint32_t a[2][4];
#pragma unroll
        for (int i = 0; i < 2; i++) as_left<T>(a[i], weights[i], kk);
#pragma unroll
        for (int j = 0; j < D / 16; j++) {
            uint32_t b[4];
            BackwardTile<T, D>::Met::right_along(b, met, k + kk * 16, j);
#pragma unroll
            for (int i = 0; i < 2; i++) mma<T>(sums[i][2 * j], a[i], b), mma<T>(sums[i][2 * j + 1], a[i], b + 2);
        }
    }
}

template <typename T, int D> __device__ __forceinline__ void backward_q(const AttentionBackward& p, uint32_t shared) {
    using Tile = BackwardTile<T, D>;
    using Own = typename Tile::Own;
    using Met = typename Tile::Met;
    const AttentionInputs& in = p.in;
    const Place place(in, gridDim.x - 1 - blockIdx.x);
    const Walk walk(in.key_first, in.key_end, place, int(threadIdx.x) / 32 * M, M);
    const uint32_t q = shared, grad_out = shared + Own::BYTES;
    Stream<T, D, F> keys{in, place, in.k, in.v, in.k_stride, in.v_stride, shared + 2 * Own::BYTES, Tile::STAGE_BYTES, walk.from, walk.to};
    load_own<T, D, F>(q, in.q, in.q_stride, in, place);
    load_own<T, D, F>(grad_out, p.grad_out, p.grad_out_stride, in, place);
    keys.begin(Nothing());
    // A thread sums out * grad_out of one row, and hands it to those that hold the row's fragments.
    const float scale = in.scale * LOG2_E;
    float lse[2][2], delta[2][2];
    {
        const float sum = delta_of_row<T, D>(p, place, place.first + int(threadIdx.x));
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                delta[i][half] = __shfl_sync(~0u, sum, i * 16 + half * 8 + (threadIdx.x & 31) / 4);
                const int at = place.first + row_of_fragment<F>(i, half);
                lse[i][half] = at < place.end ? p.lse[place.at(in, at)] * LOG2_E : 0.f;
            }
    }
    const Mask<F> mask(in.key_first, in.key_end, place);
    float grad_q[2][D / 8][4];
    zero(grad_q);
#pragma unroll 1
    for (int tile = walk.from; tile < walk.to; tile++) {
        cp_async_wait<1>();
        __syncthreads();
        const uint32_t k = keys.at(tile), v = k + Met::BYTES;
#pragma unroll
        for (int n = 0; n < MET; n += STEP_Q) {
            if (walk.skips(tile * MET + n, STEP_Q)) continue;
            const bool whole = walk.is_whole(tile * MET + n, STEP_Q);
            float s[2][STEP_Q / 8][4], ds[2][STEP_Q / 8][4];
            zero(s);
            scores<T, D, STEP_Q>(s, q, k, n);
            zero(ds);
            scores<T, D, STEP_Q>(ds, grad_out, v, n);
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int j = 0; j < STEP_Q / 8; j++)
#pragma unroll
                    for (int c = 0; c < 4; c++) {
                        float weight = exp2_approx(fmaf(s[i][j][c], scale, -lse[i][c / 2]));
                        if (!whole && !mask.allows(i, c / 2, tile * MET + n + column_of_fragment(j) + c % 2)) weight = 0.f;
                        ds[i][j][c] = weight * (ds[i][j][c] - delta[i][c / 2]);
                    }
            weigh<T, D, STEP_Q>(grad_q, ds, k, n);
        }
        __syncthreads();
        keys.ask(tile + 2, Nothing());
    }
    cp_async_wait<0>();
    const float scales[2][2] = {{in.scale, in.scale}, {in.scale, in.scale}};
    store_rows<T, D>(q, grad_q, scales, p.grad_q, p.grad_q_stride, in, place);
}

template <typename T, int D> __device__ __forceinline__ void backward_kv(const AttentionBackward& p, uint32_t shared) {
    using Tile = BackwardTile<T, D>;
    using Own = typename Tile::Own;
    using Met = typename Tile::Met;
    const AttentionInputs& in = p.in;
    const Place place(in, blockIdx.x);
    const Walk walk(in.query_first, in.query_end, place, int(threadIdx.x) / 32 * M, M);
    const uint32_t k = shared, v = shared + Own::BYTES;
    Stream<T, D, F> queries{in, place, in.q, p.grad_out, in.q_stride, p.grad_out_stride, shared + 2 * Own::BYTES, Tile::STAGE_BYTES, walk.from, walk.to};
    const QuerySums sums_of{p, place};
    load_own<T, D, F>(k, in.k, in.k_stride, in, place);
    load_own<T, D, F>(v, in.v, in.v_stride, in, place);
    queries.begin(sums_of);
    const float scale = in.scale * LOG2_E;
    const Mask<F> mask(in.query_first, in.query_end, place);
    float grad_k[2][D / 8][4], grad_v[2][D / 8][4];
    zero(grad_k);
    zero(grad_v);
#pragma unroll 1
    for (int tile = walk.from; tile < walk.to; tile++) {
        cp_async_wait<1>();
        __syncthreads();
        const uint32_t q = queries.at(tile), grad_out = q + Met::BYTES, sums = grad_out + Met::BYTES;
#pragma unroll 1
        for (int n = 0; n < MET; n += STEP_KV) {
            if (walk.skips(tile * MET + n, STEP_KV)) continue;
            const bool whole = walk.is_whole(tile * MET + n, STEP_KV);
            float s[2][STEP_KV / 8][4], ds[2][STEP_KV / 8][4];
            zero(s);
            scores<T, D, STEP_KV>(s, k, q, n);
            zero(ds);
            scores<T, D, STEP_KV>(ds, v, grad_out, n);
#pragma unroll
            for (int j = 0; j < STEP_KV / 8; j++) {
                float lse[2], delta[2];
                asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                             : "=f"(lse[0]), "=f"(delta[0]), "=f"(lse[1]), "=f"(delta[1]) : "r"(sums + (n + column_of_fragment(j)) * 8) : "memory");
#pragma unroll
                for (int i = 0; i < 2; i++)
#pragma unroll
                    for (int c = 0; c < 4; c++) {
                        float weight = exp2_approx(fmaf(s[i][j][c], scale, -lse[c % 2]));
                        if (!whole && !mask.allows(i, c / 2, tile * MET + n + column_of_fragment(j) + c % 2)) weight = 0.f;
                        ds[i][j][c] = weight * (ds[i][j][c] - delta[c % 2]);
                        s[i][j][c] = weight;
                    }
            }
            weigh<T, D, STEP_KV>(grad_v, s, grad_out, n);
            weigh<T, D, STEP_KV>(grad_k, ds, q, n);
        }
        __syncthreads();
        queries.ask(tile + 2, sums_of);
    }
    cp_async_wait<0>();
    const float ones[2][2] = {{1.f, 1.f}, {1.f, 1.f}}, scales[2][2] = {{in.scale, in.scale}, {in.scale, in.scale}};
    store_rows<T, D>(k, grad_k, scales, p.grad_k, p.grad_k_stride, in, place);
    store_rows<T, D>(v, grad_v, ones, p.grad_v, p.grad_v_stride, in, place);
}

}  // namespace attention

#define ATTENTION_BACKWARD(NAME, T, D, WHAT)                                                                          \
    extern "C" __constant__ const uint32_t NAME##_shared_bytes = attention::BackwardTile<T, D>::SHARED_BYTES;         \
    extern "C" __global__ void __launch_bounds__(attention::THREADS<2>, 2) NAME(const __grid_constant__ AttentionBackward p) { \
        extern __shared__ __align__(128) uint8_t shared[];                                                            \
        attention::WHAT<T, D>(p, uint32_t(__cvta_generic_to_shared(shared)));                                         \
    }
