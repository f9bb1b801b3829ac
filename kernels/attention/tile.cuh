// What the attention kernels share: tiles of rows in shared memory, fragments of them, and the mask.
#pragma once
#include "../common/dtype.cuh"
#include "../common/math.cuh"
#include "../common/tensor_core.cuh"
#include "params.h"

namespace attention {

constexpr int OWN = 128;  // rows that a block owns
constexpr int MET = 64;   // rows that it meets at a time

// Warps of 16 F rows each share what a block owns: F fragments of 16 rows.
template <int F> constexpr int WARPS = OWN / (16 * F);
template <int F> constexpr int THREADS = 32 * WARPS<F>;

// Where a block works.
struct Place {
    uint32_t sequence, head, base;  // base: first position of the sequence
    int first, end;                 // positions that the block owns

    // `tile`: which of the sequence's.
    __device__ __forceinline__ Place(const AttentionInputs& in, uint32_t tile) {
        head = blockIdx.y % in.n_heads;
        sequence = blockIdx.y / in.n_heads;
        base = sequence * in.seqlen;
        first = int(tile) * OWN;
        end = min(first + OWN, int(in.seqlen));
    }
    __device__ __forceinline__ int column(const AttentionInputs& in) const { return int(head * in.head_dim); }
    // Of a number for each head and position.
    __device__ __forceinline__ uint64_t at(const AttentionInputs& in, int t) const {
        return (uint64_t(sequence) * in.n_heads + head) * in.seqlen + t;
    }
};

// N rows of D elements in shared memory, of which those past head_dim are zero. Chunks of 16 bytes are permuted by the row, so that eight rows of one chunk lie in
// eight different banks.
// THREADS copy them.
template <typename T, int N, int D, int THREADS> struct Rows {
    static constexpr int CHUNKS = D / 8, BYTES = N * D * 2;
    static constexpr int EACH = N * CHUNKS / THREADS;  // chunks of a thread: the same one of rows APART apart
    static constexpr int APART = THREADS / CHUNKS;
    static_assert(N % APART == 0 && (CHUNKS == 4 || CHUNKS % 8 == 0));

    static __device__ __forceinline__ uint32_t at(int row, int chunk) {
        const int turn = CHUNKS == 4 ? row >> 1 & 3 : row & 7;
        return uint32_t(row * D * 2 + ((chunk ^ turn) << 4));
    }

    // Rows of this thread's chunks, from position `first` on; past the sequence's end there are none.
    static __device__ __forceinline__ void find(const AttentionInputs& in, uint32_t base, int first, uint32_t (&rows)[EACH]) {
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int t = first + int(threadIdx.x) / CHUNKS + i * APART;
            rows[i] = t >= int(in.seqlen) ? ~0u : in.row_of_position ? in.row_of_position[base + t] : base + t;
        }
    }
    // Begins to copy a head's columns of them; zeros where there is none.
    static __device__ __forceinline__ void load(uint32_t to, const void* from, uint32_t stride, const AttentionInputs& in, const Place& place,
                                                const uint32_t (&rows)[EACH]) {
        const int chunk = threadIdx.x % CHUNKS;
        const bool exists = chunk * 8 < int(in.head_dim);
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const bool there = exists && rows[i] != ~0u;
            const T* row = at_row<T>(from, there ? rows[i] : 0, stride, there ? place.column(in) + chunk * 8 : 0);
            cp_async(to + at(threadIdx.x / CHUNKS + i * APART, chunk), row, there ? 16 : 0);
        }
    }
    // As the left operand of a product along D: rows m .. m + 16, elements 16 kk .. 16 kk + 16.
    static __device__ __forceinline__ void left(uint32_t (&a)[4], uint32_t from, int m, int kk) {
        const int lane = threadIdx.x & 31;
        ldmatrix4<false>(a, from + at(m + (lane & 15), kk * 2 + (lane >> 4)));
    }
    // As the right operand of a product along D: rows n .. n + 16 are its columns.
    static __device__ __forceinline__ void right(uint32_t (&b)[4], uint32_t from, int n, int kk) {
        const int lane = threadIdx.x & 31;
        ldmatrix4<false>(b, from + at(n + (lane & 7) + (lane >> 4) * 8, kk * 2 + (lane >> 3) % 2));
    }
    // As the right operand of a product along the rows k .. k + 16: elements 16 nn .. 16 nn + 16 are its columns.
    static __device__ __forceinline__ void right_along(uint32_t (&b)[4], uint32_t from, int k, int nn) {
        const int lane = threadIdx.x & 31;
        ldmatrix4<true>(b, from + at(k + (lane & 15), nn * 2 + (lane >> 4)));
    }
};

// Rows of a warp's F fragments that a thread holds: two rows eight apart of each.
template <int F> __device__ __forceinline__ int row_of_fragment(int i, int half) {
    return int(threadIdx.x) / 32 * 16 * F + i * 16 + half * 8 + (threadIdx.x & 31) / 4;
}
__device__ __forceinline__ int column_of_fragment(int j) { return j * 8 + threadIdx.x % 4 * 2; }

// Fragments of a sum become the left operand of a product along its columns 16 kk ..: rounded to T.
template <typename T, int N> __device__ __forceinline__ void as_left(uint32_t (&a)[4], const float (&sums)[N][4], int kk) {
    a[0] = words_from_f32<T>(sums[2 * kk][0], sums[2 * kk][1]);
    a[1] = words_from_f32<T>(sums[2 * kk][2], sums[2 * kk][3]);
    a[2] = words_from_f32<T>(sums[2 * kk + 1][0], sums[2 * kk + 1][1]);
    a[3] = words_from_f32<T>(sums[2 * kk + 1][2], sums[2 * kk + 1][3]);
}

template <int A, int B> __device__ __forceinline__ void zero(float (&x)[A][B][4]) {
#pragma unroll
    for (int i = 0; i < A; i++)
#pragma unroll
        for (int j = 0; j < B; j++)
#pragma unroll
            for (int c = 0; c < 4; c++) x[i][j][c] = 0.f;
}

// The interval of each row that a thread holds; empty past the end.
template <int F> struct Mask {
    int from[F][2], to[F][2];

    __device__ __forceinline__ Mask(const uint32_t* first, const uint32_t* end, const Place& place) {
#pragma unroll
        for (int i = 0; i < F; i++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int t = place.first + row_of_fragment<F>(i, half);
                from[i][half] = t < place.end ? int(first[place.base + t]) : 0;
                to[i][half] = t < place.end ? int(end[place.base + t]) : 0;
            }
    }
    __device__ __forceinline__ bool allows(int i, int half, int other) const {
        return other >= from[i][half] && other < to[i][half];
    }
};

// What is met: tiles of MET positions by the block, and what of them matters to the rows of a warp (or of several). Neither end of the rows'
// intervals falls along a sequence, so that the first and the last row tell of all between.
struct Walk {
    int from, to;                                  // tiles of the block
    int met_from, met_to, whole_from, whole_to;    // positions that some of these rows meet, and that all do

    // `own`: the first of the rows, `n` of them.
    __device__ __forceinline__ Walk(const uint32_t* first, const uint32_t* end, const Place& place, int own, int n) {
        from = int(first[place.base + place.first]) / MET;
        to = (int(end[place.base + place.end - 1]) + MET - 1) / MET;
        const int top = place.first + own, bottom = min(top + n, place.end) - 1;
        const bool exists = top < place.end;
        met_from = exists ? int(first[place.base + top]) : 0;
        met_to = exists ? int(end[place.base + bottom]) : 0;
        whole_from = exists ? int(first[place.base + bottom]) : 0;
        // Rows that do not exist meet nothing.
        whole_to = top + n <= place.end ? int(end[place.base + top]) : 0;
    }
    __device__ __forceinline__ bool skips(int at, int n) const { return at >= met_to || at + n <= met_from; }
    __device__ __forceinline__ bool is_whole(int at, int n) const { return at >= whole_from && at + n <= whole_to; }
};

// The rows of two matrices that a block meets: MET of each at a time, two times ahead, through two stages of shared memory.
template <typename T, int D, int F> struct Stream {
    using Met = Rows<T, MET, D, THREADS<F>>;
    const AttentionInputs& in;
    const Place& place;
    const void *first, *second;
    uint32_t first_stride, second_stride;
    uint32_t stages, stage_bytes;  // where, and bytes from the one to the other
    int from, to;                  // tiles
    uint32_t rows[Met::EACH];      // of the tile that is asked for next

    // The first matrix's rows of a tile; the second's follow behind them.
    __device__ __forceinline__ uint32_t at(int tile) const { return stages + (tile - from) % 2 * stage_bytes; }

    // `more(tile, place)` brings what else belongs to a tile.
    template <typename More> __device__ __forceinline__ void begin(More more) {
        Met::find(in, place.base, from * MET, rows);
        ask(from, more);
        ask(from + 1, more);
    }
    template <typename More> __device__ __forceinline__ void ask(int tile, More more) {
        if (tile < to) {
            Met::load(at(tile), first, first_stride, in, place, rows);
            Met::load(at(tile) + Met::BYTES, second, second_stride, in, place, rows);
            more(tile, at(tile) + 2 * Met::BYTES);
        }
        cp_async_commit();
        Met::find(in, place.base, (tile + 1) * MET, rows);
    }
};
struct Nothing {
    __device__ __forceinline__ void operator()(int, uint32_t) const {}
};

// Begins to copy the rows that the block owns.
template <typename T, int D, int F>
__device__ __forceinline__ void load_own(uint32_t to, const void* from, uint32_t stride, const AttentionInputs& in, const Place& place) {
    using Own = Rows<T, OWN, D, THREADS<F>>;
    uint32_t rows[Own::EACH];
    Own::find(in, place.base, place.first, rows);
    Own::load(to, from, stride, in, place, rows);
}

// A warp's own rows of a block's result, times `scale` by row: through shared memory that nobody but the warp uses, so that they
// leave as whole vectors.
template <typename T, int D, int F>
__device__ __forceinline__ void store_rows(uint32_t shared, const float (&sums)[F][D / 8][4], const float (&scale)[F][2], void* to,
                                           uint32_t stride, const AttentionInputs& in, const Place& place) {
    using Own = Rows<T, OWN, D, THREADS<F>>;
    constexpr int M = 16 * F;
    __syncwarp();  // all lanes have read what lay there
#pragma unroll
    for (int i = 0; i < F; i++)
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int j = 0; j < D / 8; j++) {
                const uint32_t word = words_from_f32<T>(sums[i][j][2 * half] * scale[i][half], sums[i][j][2 * half + 1] * scale[i][half]);
                asm volatile("st.shared.b32 [%0], %1;" ::"r"(shared + Own::at(row_of_fragment<F>(i, half), j) + threadIdx.x % 4 * 4), "r"(word) : "memory");
            }
    __syncwarp();
    constexpr int CHUNKS = D / 8;
#pragma unroll
    for (int i = 0; i < M * CHUNKS / 32; i++) {
        const int at = i * 32 + (threadIdx.x & 31), row = int(threadIdx.x) / 32 * M + at / CHUNKS, chunk = at % CHUNKS;
        const int t = place.first + row;
        if (t >= place.end || chunk * 8 >= int(in.head_dim)) continue;
        Vec<T, 8> x;
        asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(x.words[0]), "=r"(x.words[1]), "=r"(x.words[2]), "=r"(x.words[3]) : "r"(shared + Own::at(row, chunk)) : "memory");
        const uint32_t row_of = in.row_of_position ? in.row_of_position[place.base + t] : place.base + t;
        *reinterpret_cast<Vec<T, 8>*>(at_row<T>(to, row_of, stride, place.column(in) + chunk * 8)) = x;
    }
}

}  // namespace attention
