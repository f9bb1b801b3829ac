// Rows of a table by id, and the gradient of the table: for each id the sum over its rows, in row order.
//
// Floor forward: a read and a write of the rows. Backward: the rows once, the table's gradient once.
// Backward, without a word to the host: rows are sorted by id (stable, 8 bits a pass, three kernels a pass); the sorted
// list is cut in pieces of 32 rows, so that a frequent id does not wait on one block. A piece writes the sums of ids
// that lie wholly in it; of an id that crosses its border it leaves a partial sum (one at its front, one at its end),
// and the block of the piece where such an id begins adds them. Order and cuts depend on the ids alone.
#pragma once
#include "../common/dtype.cuh"
#include "params.h"

constexpr uint32_t NO_ID = ~0u;
constexpr int V = 8;

// Forward: a warp a row, two vectors a lane in flight.
constexpr int WARPS = 8;

template <typename T, bool ALIGNED> __device__ __forceinline__ void gather(const EmbeddingForward& p) {
    const uint64_t row = uint64_t(blockIdx.x) * WARPS + threadIdx.x / 32;
    if (row >= p.n_rows) return;
    const int lane = threadIdx.x % 32, width = int(p.width);
    const uint32_t id = p.ids[row];
    const bool present = id < p.vocabulary;
    if (!present && id != NO_ID && lane == 0) atomicAdd(p.out_of_range, 1u);
    for (int column = lane * V; column < width; column += 2 * 32 * V) {
        Vec<T, V> x[2];
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const int at = column + j * 32 * V;
            x[j].zero();
            if (present) x[j] = load_vec<ALIGNED, T, V>(at_row<T>(p.table, id, p.table_stride, at), width - at);
        }
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const int at = column + j * 32 * V;
            store_vec<ALIGNED, T, V>(at_row<T>(p.out, uint32_t(row), p.out_stride, at), x[j], width - at);
        }
    }
}

// Rows of zeros: a warp a row, 16 bytes a lane, so that a warp's stores are whole lines.
template <typename G, bool ALIGNED> __device__ __forceinline__ void clear(const EmbeddingBackward& p) {
    constexpr int N = 16 / sizeof(G);
    const uint64_t row = uint64_t(blockIdx.x) * WARPS + threadIdx.x / 32;
    if (row >= p.vocabulary) return;
    Vec<G, N> zero;
    zero.zero();
    G* to = at_row<G>(p.grad_table, uint32_t(row), p.grad_table_stride, 0);
    for (int column = threadIdx.x % 32 * N; column < int(p.width); column += 32 * N)
        store_vec<ALIGNED, G, N>(to + column, zero, int(p.width) - column);
}

// Backward.
constexpr int PIECE = 32, THREADS = 128, BATCH = 4;

// Writes or adds V columns of an id's gradient.
template <typename G, bool ALIGNED>
__device__ __forceinline__ void finish(const EmbeddingBackward& p, uint32_t id, int column,
                                       float (&sum)[V]) {
    const int valid = int(p.width) - column;
    G* to = at_row<G>(p.grad_table, id, p.grad_table_stride, column);
    if (p.add) {
        const Vec<G, V> old = load_vec<ALIGNED, G, V>(to, valid);
#pragma unroll
        for (int k = 0; k < V; k++) sum[k] += old.get(k);
    }
    store_vec<ALIGNED, G, V>(to, pack<G, V>(sum), valid);
}

// The partial sum of a piece at its front (0) or at its end (1).
__device__ __forceinline__ float* partial_of(const EmbeddingBackward& p, uint32_t piece, int end, int column) {
    return p.partial + (uint64_t(piece) * 2 + end) * p.width + column;
}

// Grid (pieces, columns / 1024).
template <typename T, typename G, bool ALIGNED> __device__ __forceinline__ void sum_piece(const EmbeddingBackward& p) {
    // The keys of the piece, and those beside it.
    __shared__ uint32_t keys[PIECE + 2], rows[PIECE];
    const uint32_t piece = blockIdx.x;
    const uint64_t first = uint64_t(piece) * PIECE;
    if (threadIdx.x < PIECE + 2) {
        const int64_t at = int64_t(first) + threadIdx.x - 1;
        keys[threadIdx.x] = at >= 0 && at < p.n ? p.keys[at] : p.vocabulary;
    }
    if (threadIdx.x >= 64 && threadIdx.x < 64 + PIECE) {
        const uint64_t at = first + threadIdx.x - 64;
        rows[threadIdx.x - 64] = at < p.n ? p.rows[at] : 0;
    }
    __syncthreads();
    const int column = (blockIdx.y * THREADS + threadIdx.x) * V, valid = int(p.width) - column;
    if (valid <= 0) return;
    float sum[V] = {};
    bool from_before = keys[0] == keys[1];
    for (int i = 0; i < PIECE; i += BATCH) {
        if (keys[1 + i] >= p.vocabulary) break;  // those without an id stand last
        Vec<T, V> x[BATCH];
#pragma unroll
        for (int j = 0; j < BATCH; j++) {
            x[j].zero();
            if (keys[1 + i + j] < p.vocabulary)
                x[j] = load_vec<ALIGNED, T, V>(at_row<T>(p.grad_out, rows[i + j], p.grad_out_stride, column), valid);
        }
#pragma unroll
        for (int j = 0; j < BATCH; j++) {
            const uint32_t key = keys[1 + i + j];
#pragma unroll
            for (int k = 0; k < V; k++) sum[k] += x[j].get(k);
            const bool last_of_piece = i + j == PIECE - 1, last_of_id = keys[2 + i + j] != key;
            if (key >= p.vocabulary || !(last_of_piece || last_of_id)) continue;
            if (!from_before && last_of_id) {
                finish<G, ALIGNED>(p, key, column, sum);
            } else {
                // An id that comes from before and goes on leaves all of the piece at its front.
                float* to = partial_of(p, piece, !from_before, column);
#pragma unroll
                for (int k = 0; k < V; k += 4) {
                    const float part[4] = {sum[k], sum[k + 1], sum[k + 2], sum[k + 3]};
                    store_vec<ALIGNED, float, 4>(to + k, pack<float, 4>(part), valid - k);
                }
            }
#pragma unroll
            for (int k = 0; k < V; k++) sum[k] = 0.f;
            from_before = false;
        }
    }
}

// Adds the partial sums of the id that begins in a piece and goes on behind it: its own at the end, then those at the
// fronts of the pieces that follow. Grid (pieces, columns / 128), block (16, 16): 8 columns a thread, every 16th piece.
constexpr int LANES = 16, TEAMS = 16;

template <typename G, bool ALIGNED> __device__ __forceinline__ void sum_across(const EmbeddingBackward& p) {
    __shared__ float s[TEAMS][LANES * V];
    const uint32_t piece = blockIdx.x, n_pieces = gridDim.x;
    const uint64_t first = uint64_t(piece) * PIECE, behind = first + PIECE;
    if (behind >= p.n) return;
    const uint32_t key = p.keys[behind - 1];
    if (key >= p.vocabulary || p.keys[behind] != key || (first > 0 && p.keys[first - 1] == key)) return;
    // The last piece whose first row is the id's: by steps that double, then halve.
    uint32_t last = piece + 1, step = 1;
    while (last + step < n_pieces && p.keys[uint64_t(last + step) * PIECE] == key) {
        last += step;
        step *= 2;
    }
    for (; step >= 1; step /= 2)
        if (last + step < n_pieces && p.keys[uint64_t(last + step) * PIECE] == key) last += step;
    const int column = (blockIdx.y * LANES + threadIdx.x) * V, valid = int(p.width) - column;
    float sum[V] = {};
    if (valid > 0) {
#pragma unroll 2
        for (uint64_t i = piece + threadIdx.y; i <= last; i += TEAMS) {
            const float* from = partial_of(p, uint32_t(i), i == piece, column);
#pragma unroll
            for (int k = 0; k < V; k += 4) {
                const Vec<float, 4> x = load_vec<ALIGNED, float, 4>(from + k, valid - k);
#pragma unroll
                for (int l = 0; l < 4; l++) sum[k + l] += x.get(l);
            }
        }
    }
#pragma unroll
    for (int k = 0; k < V; k++) s[threadIdx.y][threadIdx.x * V + k] = sum[k];
    __syncthreads();
    if (threadIdx.y > 0 || valid <= 0) return;
#pragma unroll
    for (int team = 1; team < TEAMS; team++)
#pragma unroll
        for (int k = 0; k < V; k++) sum[k] += s[team][threadIdx.x * V + k];
    finish<G, ALIGNED>(p, key, column, sum);
}

#define FORWARD(NAME, T, ALIGNED)                                                                                      \
    extern "C" __global__ void __launch_bounds__(WARPS * 32)                                                           \
        embedding_forward_##NAME(const __grid_constant__ EmbeddingForward p) {                                         \
        gather<T, ALIGNED>(p);                                                                                         \
    }
#define BACKWARD(NAME, T, G, ALIGNED)                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        embedding_piece_##NAME(const __grid_constant__ EmbeddingBackward p) {                                          \
        sum_piece<T, G, ALIGNED>(p);                                                                                   \
    }
#define ACROSS(NAME, G, ALIGNED)                                                                                       \
    extern "C" __global__ void __launch_bounds__(WARPS * 32)                                                           \
        embedding_clear_##NAME(const __grid_constant__ EmbeddingBackward p) {                                          \
        clear<G, ALIGNED>(p);                                                                                          \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(LANES * TEAMS)                                                        \
        embedding_across_##NAME(const __grid_constant__ EmbeddingBackward p) {                                         \
        sum_across<G, ALIGNED>(p);                                                                                     \
    }
#define BOTH(MACRO, NAME, ...) MACRO(NAME, __VA_ARGS__, false) MACRO(NAME##_aligned, __VA_ARGS__, true)
