// Sums over the rows of each modality, dW_m = sum_r dy_r^T x_r, in a fixed order and with every block equally long.
//
// A block takes a tile of the weight and `rows_per_split` rows, of whatever modalities: at a border it writes its sum out
// and starts anew. Where the split has all rows of a modality, that is the gradient. Else it is a partial sum: the pairs
// (split, modality) in row order are a staircase, so split + modality names it uniquely; the second kernel adds the pairs that
// exist, in order, and nothing has to be zeroed.
#pragma once
#include "tile.cuh"

namespace grouped_gemm {

// The rows of a modality in a split.
struct Segment {
    uint32_t group, first, last;
    bool whole;  // all that the modality has
};
// Calls `each` for the segments of a split; in the first split for modalities without rows too. `border(group)` is the
// group's first row; for the cut each border counts as `border_rows` rows more, what a block loses at it.
template <typename P, typename Border, typename Each>
__device__ __forceinline__ void segments(const P& p, const Border& border, uint32_t border_rows, uint32_t split, const Each& each) {
    const uint32_t begin = split * p.rows_per_split, end = begin + p.rows_per_split;
    uint32_t from = 0;
    for (uint32_t group = 0; group < p.n_groups; group++) {
        const uint32_t to = border(group + 1), before = group * border_rows;
        const uint32_t first = max(begin - min(begin, before), from), last = min(end - min(end, before), to);
        if (first < last) each(Segment{group, first, last, first == from && last == to});
        else if (from == to && split == 0) each(Segment{group, from, to, true});
        from = to;
    }
}

template <typename P, typename Each> __device__ __forceinline__ void segments(const P& p, uint32_t split, const Each& each) {
    segments(p, [&](uint32_t group) { return offset(p.offsets, p.n_rows, group); }, 0, split, each);
}

template <typename G> __device__ __forceinline__ void put(G* to, float x) { *to = from_f32<G>(x); }

// Calls `write` with where the sums of a segment go, from row and column 0 of the weight.
template <typename T, typename Write>
__device__ __forceinline__ void write_segment(const KGrouped& p, uint32_t split, const Segment& segment, const Write& write) {
    if (!segment.whole) write(p.partial + uint64_t(split + segment.group) * p.a_width * p.b_width);
    else if (p.f32) write(static_cast<float*>(p.grads[segment.group]));
    else write(static_cast<T*>(p.grads[segment.group]));
}

template <typename T, int BN, int STAGES> struct KGroupedTile {
    using Mma = Product<T, false, false, BN, STAGES>;

    static __device__ __forceinline__ void run(const KGrouped& p, char* memory) {
        const uint32_t shared = uint32_t(__cvta_generic_to_shared(memory));
        const uint32_t a0 = blockIdx.x / p.b_tiles * BM, b0 = blockIdx.x % p.b_tiles * BN, split = blockIdx.y;
        const int a_valid = min(int(p.a_width - a0), BM), b_valid = min(int(p.b_width - b0), BN);
        const T *a = static_cast<const T*>(p.a) + a0, *b = static_cast<const T*>(p.b) + b0;
        segments(p, split, [&](const Segment& segment) {
            Mma product;
            product.run(shared, {a + int64_t(segment.first) * p.a_stride, p.a_stride, a_valid, p.a_vector != 0},
                        {b + int64_t(segment.first) * p.b_stride, p.b_stride, b_valid, p.b_vector != 0}, int(segment.last - segment.first));
            write_segment<T>(p, split, segment, [&](auto* weight) {
                auto* to = weight + a0 * p.to_a + b0 * p.to_b;
#pragma unroll
                for (int i = 0; i < 2; i++)
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        const int row = Mma::row(i, half);
                        if (row >= a_valid) continue;
#pragma unroll
                        for (int j = 0; j < Mma::NT; j++) {
                            const int column = Mma::column(j);
                            auto* at = to + row * p.to_a + column * p.to_b;
                            if (column < b_valid) put(at, product.sums[i][j][2 * half]);
                            if (column + 1 < b_valid) put(at + p.to_b, product.sums[i][j][2 * half + 1]);
                        }
                    }
            });
        });
    }
};

// Grid (elements / (256 V), groups).
template <typename T, int V> __device__ __forceinline__ void k_grouped_sum(const KGroupedSum& p) {
    const uint64_t element = (uint64_t(blockIdx.x) * THREADS + threadIdx.x) * V;
    const uint32_t group = blockIdx.y;
    if (element >= p.size) return;
    const uint32_t first = offset(p.offsets, p.n_rows, group), last = offset(p.offsets, p.n_rows, group + 1);
    float sum[V];
#pragma unroll
    for (int i = 0; i < V; i++) sum[i] = 0.f;
    if (first >= last) return;
    const uint32_t begin = first / p.rows_per_split, end = (last - 1) / p.rows_per_split;
    if (begin == end) return;
#pragma unroll 4
    for (uint32_t split = begin; split <= end; split++) {
        const float* from = p.partial + (split + group) * p.size + element;
        const Vec<float, V> x = load_vec<true, float, V>(from, V);
#pragma unroll
        for (int i = 0; i < V; i++) sum[i] += x.get(i);
    }
    T* to = static_cast<T*>(p.grads[group]) + element;
    if constexpr (V == 1) *to = from_f32<T>(sum[0]);
    else store_vec<true, T, V>(to, pack<T, V>(sum), V);
}

}  // namespace grouped_gemm

#define K_GROUPED(NAME, T, BN, STAGES, BLOCKS)                                                                                 \
    extern "C" __constant__ const uint32_t NAME##_shared_bytes = grouped_gemm::KGroupedTile<T, BN, STAGES>::Mma::SHARED_BYTES; \
    extern "C" __global__ void __launch_bounds__(grouped_gemm::THREADS, BLOCKS) NAME(const __grid_constant__ KGrouped p) {     \
        extern __shared__ __align__(128) char memory[];                                                                        \
        grouped_gemm::KGroupedTile<T, BN, STAGES>::run(p, memory);                                                             \
    }
#define K_GROUPED_SUM(NAME, T, V)                                                                                              \
    extern "C" __global__ void __launch_bounds__(grouped_gemm::THREADS) NAME(const __grid_constant__ KGroupedSum p) {          \
        grouped_gemm::k_grouped_sum<T, V>(p);                                                                                  \
    }
