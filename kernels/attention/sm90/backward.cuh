// Attention, backward, with wgmma: the two launches of ../backward.cuh. The registers let two blocks of the one for queries lie on a
// multiprocessor, and one of that for keys and values, which has two gradients; its exponentials are taken while the second product runs.
#pragma once
#include "../query_sums.cuh"
#include "tile.cuh"

namespace attention {
namespace sm90 {

template <typename T> struct BackwardTile {
    static constexpr int STAGE_BYTES = 2 * Met<T>::BYTES + 1024;  // tiles begin at multiples of 1024
    static constexpr int SHARED_BYTES = 2 * Own<T>::BYTES + 2 * STAGE_BYTES + OWN * 4;
};

template <typename T> __device__ __forceinline__ void backward_q(const AttentionBackward& p, uint32_t shared) {
    using Tile = BackwardTile<T>;
    const AttentionInputs& in = p.in;
    const Place place(in, gridDim.x - 1 - blockIdx.x);
    const Walk walk(in.key_first, in.key_end, place, own_rows(), ROWS);
    const uint32_t q = shared, grad_out = shared + Own<T>::BYTES;
    Stream<T, D, F> keys{in, place, in.k, in.v, in.k_stride, in.v_stride, shared + 2 * Own<T>::BYTES, Tile::STAGE_BYTES, walk.from, walk.to};
    load_own<T, D, F>(q, in.q, in.q_stride, in, place);
    load_own<T, D, F>(grad_out, p.grad_out, p.grad_out_stride, in, place);
    keys.begin(Nothing());
    const float scale = in.scale * LOG2_E;
    const uint32_t deltas = shared + 2 * Own<T>::BYTES + 2 * Tile::STAGE_BYTES;
    if (threadIdx.x < OWN) {
        const float sum = delta_of_row<T, D>(p, place, place.first + int(threadIdx.x));
        asm volatile("st.shared.f32 [%0], %1;" ::"r"(deltas + threadIdx.x * 4), "f"(sum) : "memory");
    }
    __syncthreads();
    float lse[2], delta[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = row_of_fragment<F>(0, half), t = place.first + row;
        asm volatile("ld.shared.f32 %0, [%1];" : "=f"(delta[half]) : "r"(deltas + row * 4) : "memory");
        lse[half] = t < place.end ? p.lse[place.at(in, t)] * LOG2_E : 0.f;
    }
    const Mask<F> mask(in.key_first, in.key_end, place);
    float grad_q[D / 2];
#pragma unroll
    for (int j = 0; j < D / 2; j++) grad_q[j] = 0.f;
#pragma unroll 1
    for (int tile = walk.from; tile < walk.to; tile++) {
        cp_async_wait<1>();
        fence_shared_for_wgmma();
        __syncthreads();
        const uint32_t k = keys.at(tile), v = k + Met<T>::BYTES;
        if (!walk.skips(tile * MET, MET)) {
            const bool whole = walk.is_whole(tile * MET, MET);
            float s[MET / 2], ds[MET / 2];
            scores<T>(s, q, k);
            scores<T>(ds, grad_out, v);
            wgmma_wait<1>();
            wgmma_sums(s);
#pragma unroll
            for (int j = 0; j < MET / 2; j++) {
                s[j] = exp2_approx(fmaf(s[j], scale, -lse[j % 4 / 2]));
                if (!whole && !mask.allows(0, j % 4 / 2, tile * MET + column_of_fragment(j / 4) + j % 2)) s[j] = 0.f;
            }
            wgmma_wait<0>();
            wgmma_sums(ds);
#pragma unroll
            for (int j = 0; j < MET / 2; j++) ds[j] = s[j] * (ds[j] - delta[j % 4 / 2]);
            uint32_t weights[MET / 16][4];
            as_left<T>(weights, ds);
            weigh<T>(grad_q, weights, k);
            wgmma_wait<0>();
            wgmma_sums(grad_q);
        }
        __syncthreads();
        keys.ask(tile + 2, Nothing());
    }
    cp_async_wait<0>();
    const float scales[2] = {in.scale, in.scale};
    store<T>(q, grad_q, scales, p.grad_q, p.grad_q_stride, in, place);
}

template <typename T> __device__ __forceinline__ void backward_kv(const AttentionBackward& p, uint32_t shared) {
    using Tile = BackwardTile<T>;
    const AttentionInputs& in = p.in;
    const Place place(in, blockIdx.x);
    const Walk walk(in.query_first, in.query_end, place, own_rows(), ROWS);
    const uint32_t k = shared, v = shared + Own<T>::BYTES;
    Stream<T, D, F> queries{in, place, in.q, p.grad_out, in.q_stride, p.grad_out_stride, shared + 2 * Own<T>::BYTES, Tile::STAGE_BYTES, walk.from, walk.to};
    const QuerySums sums_of{p, place};
    load_own<T, D, F>(k, in.k, in.k_stride, in, place);
    load_own<T, D, F>(v, in.v, in.v_stride, in, place);
    queries.begin(sums_of);
    const float scale = in.scale * LOG2_E;
    const Mask<F> mask(in.query_first, in.query_end, place);
    float grad_k[D / 2], grad_v[D / 2];
#pragma unroll
    for (int j = 0; j < D / 2; j++) grad_k[j] = grad_v[j] = 0.f;
#pragma unroll 1
    for (int tile = walk.from; tile < walk.to; tile++) {
        cp_async_wait<1>();
        fence_shared_for_wgmma();
        __syncthreads();
        const uint32_t q = queries.at(tile), grad_out = q + Met<T>::BYTES, sums = grad_out + Met<T>::BYTES;
        if (!walk.skips(tile * MET, MET)) {
            const bool whole = walk.is_whole(tile * MET, MET);
            float s[MET / 2], ds[MET / 2];
            scores<T>(s, k, q);
            scores<T>(ds, v, grad_out);
            wgmma_wait<1>();
            wgmma_sums(s);
            float delta[MET / 4];
#pragma unroll
            for (int j = 0; j < MET / 8; j++) {
                float lse[2];
                asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                             : "=f"(lse[0]), "=f"(delta[2 * j]), "=f"(lse[1]), "=f"(delta[2 * j + 1]) : "r"(sums + column_of_fragment(j) * 8) : "memory");
#pragma unroll
                for (int c = 0; c < 4; c++) {
                    float& x = s[4 * j + c];
                    x = exp2_approx(fmaf(x, scale, -lse[c % 2]));
                    if (!whole && !mask.allows(0, c / 2, tile * MET + column_of_fragment(j) + c % 2)) x = 0.f;
                }
            }
            uint32_t weights[MET / 16][4], ds_weights[MET / 16][4];
            as_left<T>(weights, s);
            weigh<T>(grad_v, weights, grad_out);
            wgmma_wait<1>();
            wgmma_sums(ds);
#pragma unroll
            for (int j = 0; j < MET / 2; j++) ds[j] = s[j] * (ds[j] - delta[j / 4 * 2 + j % 2]);
            as_left<T>(ds_weights, ds);
            weigh<T>(grad_k, ds_weights, q);
            wgmma_wait<0>();
            wgmma_sums(grad_v);
            wgmma_sums(grad_k);
        }
        __syncthreads();
        queries.ask(tile + 2, sums_of);
    }
    cp_async_wait<0>();
    const float ones[2] = {1.f, 1.f}, scales[2] = {in.scale, in.scale};
    store<T>(k, grad_k, scales, p.grad_k, p.grad_k_stride, in, place);
    store<T>(v, grad_v, ones, p.grad_v, p.grad_v_stride, in, place);
}

}  // namespace sm90
}  // namespace attention

#define ATTENTION_BACKWARD_SM90(NAME, T, WHAT, BLOCKS)                                                                 \
    extern "C" __constant__ const uint32_t NAME##_shared_bytes = attention::sm90::BackwardTile<T>::SHARED_BYTES;       \
    extern "C" __global__ void __launch_bounds__(attention::sm90::BLOCK, BLOCKS) NAME(const __grid_constant__ AttentionBackward p) { \
        extern __shared__ __align__(1024) uint8_t shared[];                                                            \
        attention::sm90::WHAT<T>(p, uint32_t(__cvta_generic_to_shared(shared)));                                       \
    }
