// What the backward pass knows of a query beside its rows: the logarithm of its normaliser, and delta, the sum of out * grad_out.
#pragma once
#include "tile.cuh"

namespace attention {

// The delta of the query at t, which is left for the second launch; zero past the end.
template <typename T, int D> __device__ __forceinline__ float delta_of_row(const AttentionBackward& p, const Place& place, int t) {
    const AttentionInputs& in = p.in;
    float sum = 0.f;
    if (t < place.end) {
        const uint32_t row = in.row_of_position ? in.row_of_position[place.base + t] : place.base + t;
#pragma unroll
        for (int chunk = 0; chunk < D / 8; chunk++) {
            if (chunk * 8 >= int(in.head_dim)) break;
            const int column = place.column(in) + chunk * 8;
            const Vec<T, 8> x = load_vec<true, T, 8>(at_row<T>(p.out, row, p.out_stride, column), 8);
            const Vec<T, 8> g = load_vec<true, T, 8>(at_row<T>(p.grad_out, row, p.grad_out_stride, column), 8);
#pragma unroll
            for (int c = 0; c < 8; c++) sum = fmaf(x.get(c), g.get(c), sum);
        }
        p.delta[place.at(in, t)] = sum;
    }
    return sum;
}

// lse (times log2 e) and delta of the queries of a tile, side by side.
struct QuerySums {
    const AttentionBackward& p;
    const Place& place;
    __device__ __forceinline__ void operator()(int tile, uint32_t to) const {
        if (threadIdx.x >= 2 * MET) return;
        const bool is_lse = threadIdx.x < MET;
        const int n = threadIdx.x % MET, t = tile * MET + n;
        const float x = t < int(p.in.seqlen) ? (is_lse ? p.lse : p.delta)[place.at(p.in, t)] : 0.f;
        asm volatile("st.shared.f32 [%0], %1;" ::"r"(to + n * 8 + (is_lse ? 0 : 4)), "f"(is_lse ? x * LOG2_E : x) : "memory");
    }
};

}  // namespace attention
