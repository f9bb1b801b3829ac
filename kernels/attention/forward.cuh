// Attention, forward: a block owns 128 queries of a head and meets their keys, 64 at a time, with the softmax's maximum and sum
// carried along (FlashAttention, arXiv 2205.14135; the loop over keys inside, as in 2307.08691).
//
// A warp has 32 queries: what it reads of keys and values from shared memory serves two fragments. Queries stay in registers;
// the next keys and values are on their way while these are met.
#pragma once
#include "mma_sync.cuh"

namespace attention {

template <typename T, int D> struct ForwardTile {
    using Own = Rows<T, OWN, D, THREADS<F>>;
    using Met = Rows<T, MET, D, THREADS<F>>;
    static constexpr int SHARED_BYTES = Own::BYTES + 4 * Met::BYTES;
};

template <typename T, int D> __device__ __forceinline__ void forward(const AttentionForward& p, uint32_t shared) {
    using Tile = ForwardTile<T, D>;
    using Own = typename Tile::Own;
    using Met = typename Tile::Met;
    const AttentionInputs& in = p.in;
    // Blocks with most keys first: those that begin last are then short.
    const Place place(in, gridDim.x - 1 - blockIdx.x);
    const Walk walk(in.key_first, in.key_end, place, int(threadIdx.x) / 32 * M, M);
    Stream<T, D, F> keys{in, place, in.k, in.v, in.k_stride, in.v_stride, shared + Own::BYTES, 2 * Met::BYTES, walk.from, walk.to};
    load_own<T, D, F>(shared, in.q, in.q_stride, in, place);
    keys.begin(Nothing());
    const Mask<F> mask(in.key_first, in.key_end, place);
    const float scale = in.scale * LOG2_E;
    uint32_t q[2][D / 16][4];
    float out[2][D / 8][4], most[2][2], sum[2][2];
    zero(out);
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) most[i][half] = -INFINITY, sum[i][half] = 0.f;

#pragma unroll 1
    for (int tile = walk.from; tile < walk.to; tile++) {
        cp_async_wait<1>();
        __syncthreads();
        const uint32_t k = keys.at(tile), v = k + Met::BYTES;
        if (tile == walk.from) {
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int kk = 0; kk < D / 16; kk++) Own::left(q[i][kk], shared, int(threadIdx.x) / 32 * M + i * 16, kk);
        }
        float s[2][MET / 8][4];
        zero(s);
#pragma unroll
        for (int kk = 0; kk < D / 16; kk++)
#pragma unroll
            for (int j = 0; j < MET / 16; j++) {
                uint32_t b[4];
                Met::right(b, k, j * 16, kk);
#pragma unroll
                for (int i = 0; i < 2; i++) mma<T>(s[i][2 * j], q[i][kk], b), mma<T>(s[i][2 * j + 1], q[i][kk], b + 2);
            }
        if (!walk.is_whole(tile * MET, MET)) {
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int j = 0; j < MET / 8; j++)
#pragma unroll
                    for (int c = 0; c < 4; c++)
                        if (!mask.allows(i, c / 2, tile * MET + column_of_fragment(j) + c % 2)) s[i][j][c] = -INFINITY;
        }
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float now = most[i][half];
#pragma unroll
                for (int j = 0; j < MET / 8; j++) now = fmaxf(now, fmaxf(s[i][j][2 * half], s[i][j][2 * half + 1]));
                now = fmaxf(now, __shfl_xor_sync(~0u, now, 1));
                now = fmaxf(now, __shfl_xor_sync(~0u, now, 2));
                // A row that has met no key yet has no maximum.
                const float shift = now == -INFINITY ? 0.f : now * scale;
                const float keep = exp2_approx(most[i][half] * scale - shift);
                most[i][half] = now;
                float total = 0.f;
#pragma unroll
                for (int j = 0; j < MET / 8; j++)
#pragma unroll
                    for (int c = 2 * half; c < 2 * half + 2; c++) {
                        s[i][j][c] = exp2_approx(fmaf(s[i][j][c], scale, -shift));
                        total += s[i][j][c];
                    }
                sum[i][half] = fmaf(sum[i][half], keep, total);
#pragma unroll
                for (int j = 0; j < D / 8; j++) out[i][j][2 * half] *= keep, out[i][j][2 * half + 1] *= keep;
            }
#pragma unroll
        for (int kk = 0; kk < MET / 16; kk++) {
            uint32_t a[2][4];
#pragma unroll
            for (int i = 0; i < 2; i++) as_left<T>(a[i], s[i], kk);
#pragma unroll
            for (int j = 0; j < D / 16; j++) {
                uint32_t b[4];
                Met::right_along(b, v, kk * 16, j);
#pragma unroll
                for (int i = 0; i < 2; i++) mma<T>(out[i][2 * j], a[i], b), mma<T>(out[i][2 * j + 1], a[i], b + 2);
            }
        }
        // Nobody reads the tile any more: the next but one goes to its place.
        __syncthreads();
        keys.ask(tile + 2, Nothing());
    }
    cp_async_wait<0>();
    float inverse[2][2];
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float total = sum[i][half];
            total += __shfl_xor_sync(~0u, total, 1);
            total += __shfl_xor_sync(~0u, total, 2);
            inverse[i][half] = total > 0.f ? 1.f / total : 0.f;
            const int t = place.first + row_of_fragment<F>(i, half);
            if (threadIdx.x % 4 == 0 && t < place.end) p.lse[place.at(in, t)] = most[i][half] * in.scale + logf(total);
        }
    store_rows<T, D>(shared, out, inverse, p.out, uint32_t(p.out_stride), in, place);
}

}  // namespace attention

#define ATTENTION_FORWARD(NAME, T, D)                                                                                 \
    extern "C" __constant__ const uint32_t NAME##_shared_bytes = attention::ForwardTile<T, D>::SHARED_BYTES;          \
    extern "C" __global__ void __launch_bounds__(attention::THREADS<2>, 2) NAME(const __grid_constant__ AttentionForward p) { \
        extern __shared__ __align__(128) uint8_t shared[];                                                            \
        attention::forward<T, D>(p, uint32_t(__cvta_generic_to_shared(shared)));                                      \
    }
