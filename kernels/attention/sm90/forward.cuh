// Attention, forward, with wgmma: the loop of ../forward.cuh. Two blocks lie on a multiprocessor, so that of four warpgroups some
// multiply while others take exponentials, of which there are as many as a tile's products take time.
#pragma once
#include "tile.cuh"

namespace attention {
namespace sm90 {

template <typename T> struct ForwardTile {
    static constexpr int SHARED_BYTES = Own<T>::BYTES + 4 * Met<T>::BYTES;
};

template <typename T> __device__ __forceinline__ void forward(const AttentionForward& p, uint32_t shared) {
    const AttentionInputs& in = p.in;
    // Blocks with most keys first: those that begin last are then short.
    const Place place(in, gridDim.x - 1 - blockIdx.x);
    const Walk walk(in.key_first, in.key_end, place, own_rows(), ROWS);
    Stream<T, D, F> keys{in, place, in.k, in.v, in.k_stride, in.v_stride, shared + Own<T>::BYTES, 2 * Met<T>::BYTES, walk.from, walk.to};
    load_own<T, D, F>(shared, in.q, in.q_stride, in, place);
    keys.begin(Nothing());
    const Mask<F> mask(in.key_first, in.key_end, place);
    const float scale = in.scale * LOG2_E;
    float out[D / 2], most[2] = {-INFINITY, -INFINITY}, sum[2] = {0.f, 0.f};
#pragma unroll
    for (int j = 0; j < D / 2; j++) out[j] = 0.f;
#pragma unroll 1
    for (int tile = walk.from; tile < walk.to; tile++) {
        cp_async_wait<1>();
        fence_shared_for_wgmma();
        __syncthreads();
        const uint32_t k = keys.at(tile), v = k + Met<T>::BYTES;
        if (!walk.skips(tile * MET, MET)) {
            float s[MET / 2];
            scores<T>(s, shared, k);
            wgmma_wait<0>();
            wgmma_sums(s);
            if (!walk.is_whole(tile * MET, MET)) {
#pragma unroll
                for (int j = 0; j < MET / 2; j++)
                    if (!mask.allows(0, j % 4 / 2, tile * MET + column_of_fragment(j / 4) + j % 2)) s[j] = -INFINITY;
            }
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float now = most[half];
#pragma unroll
                for (int j = 0; j < MET / 8; j++) now = fmaxf(now, fmaxf(s[4 * j + 2 * half], s[4 * j + 2 * half + 1]));
                now = fmaxf(now, __shfl_xor_sync(~0u, now, 1));
                now = fmaxf(now, __shfl_xor_sync(~0u, now, 2));
                // A row that has met no key yet has no maximum.
                const float shift = now == -INFINITY ? 0.f : now * scale;
                const float keep = exp2_approx(most[half] * scale - shift);
                most[half] = now;
                float total = 0.f;
#pragma unroll
                for (int j = 0; j < MET / 8; j++)
#pragma unroll
                    for (int c = 2 * half; c < 2 * half + 2; c++) {
                        s[4 * j + c] = exp2_approx(fmaf(s[4 * j + c], scale, -shift));
                        total += s[4 * j + c];
                    }
                sum[half] = fmaf(sum[half], keep, total);
#pragma unroll
                for (int j = 0; j < D / 8; j++) out[4 * j + 2 * half] *= keep, out[4 * j + 2 * half + 1] *= keep;
            }
            uint32_t weights[MET / 16][4];
            as_left<T>(weights, s);
            weigh<T>(out, weights, v);
            wgmma_wait<0>();
            wgmma_sums(out);
        }
        // Nobody reads the tile any more: the next but one goes to its place.
        __syncthreads();
        keys.ask(tile + 2, Nothing());
    }
    cp_async_wait<0>();
    float inverse[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float total = sum[half];
        total += __shfl_xor_sync(~0u, total, 1);
        total += __shfl_xor_sync(~0u, total, 2);
        inverse[half] = total > 0.f ? 1.f / total : 0.f;
        const int t = place.first + row_of_fragment<F>(0, half);
        if (threadIdx.x % 4 == 0 && t < place.end) p.lse[place.at(in, t)] = most[half] * in.scale + logf(total);
    }
    store<T>(shared, out, inverse, p.out, uint32_t(p.out_stride), in, place);
}

}  // namespace sm90
}  // namespace attention

#define ATTENTION_FORWARD_SM90(NAME, T)                                                                                \
    extern "C" __constant__ const uint32_t NAME##_shared_bytes = attention::sm90::ForwardTile<T>::SHARED_BYTES;        \
    extern "C" __global__ void __launch_bounds__(attention::sm90::BLOCK, 2) NAME(const __grid_constant__ AttentionForward p) { \
        extern __shared__ __align__(1024) uint8_t shared[];                                                            \
        attention::sm90::forward<T>(p, uint32_t(__cvta_generic_to_shared(shared)));                                    \
    }
