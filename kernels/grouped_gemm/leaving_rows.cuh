// How a wide tile leaves, and how what it is added to comes: a row at a time, while other tiles are multiplied.
#pragma once
#include "tile.cuh"
#include "tma.cuh"

namespace grouped_gemm {

__device__ __forceinline__ void store_matrix4(uint32_t to, const uint32_t (&w)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(w[0]), "r"(w[1]), "r"(w[2]),
                 "r"(w[3]) : "memory");
}

// Four pairs of sums as the words of an output, added to what is there.
template <typename T> __device__ __forceinline__ void onto_words(uint32_t (&words)[4], const uint32_t (&old)[4], const float* v) {
#pragma unroll
    for (int i = 0; i < 4; i++)
        words[i] = words_from_f32<T>(v[2 * i] + word_to_f32<T>(old[i], 0), v[2 * i + 1] + word_to_f32<T>(old[i], 1));
}
template <typename T> __device__ __forceinline__ void to_words(uint32_t (&words)[4], const float* v) {
#pragma unroll
    for (int i = 0; i < 4; i++) words[i] = words_from_f32<T>(v[2 * i], v[2 * i + 1]);
}

// What a warp has of a tile, 16 rows of BN elements of 16 bits, waits in shared memory of the warp's own and is copied away
// row by row in the steps of the next tile. All multiprocessors come to the end of a tile at about the same time: what they
// store at once they wait for.
template <typename T, int BN> struct LeavingRows {
    static constexpr int ROWS = 16, PITCH = BN * 2 + 16, BYTES = ROWS * PITCH;  // rows begin in different banks
    static constexpr int ASKED = ROWS + 1;

    T* to;            // this lane's row in memory
    int columns = 0;  // of them; none where there is no such row
    int next = ROWS;  // row to leave; ROWS once all have, ASKED once an addend is on its way

    static __device__ __forceinline__ int copied(int columns) { return columns / 8 * 8; }  // by pieces of 16 bytes

    static __device__ __forceinline__ T& element(uint32_t row, int i) {
        return static_cast<T*>(__cvta_shared_to_generic(row))[i];
    }

    // The next row, if there is one. `at`: the warp's shared memory.
    __device__ __forceinline__ void leave(uint32_t at) {
        const int lane = threadIdx.x % 32;
        if (next >= ROWS) return;
        if (lane == next) {
            const uint32_t row = at + lane * PITCH;
            if (columns >= 8) store_bytes(to, row, copied(columns) * 2);
            store_commit();
            for (int i = copied(columns); i < columns; i++) to[i] = element(row, i);
        }
        next++;
    }

    // Until all have left and shared memory is free.
    __device__ __forceinline__ void all_leave(uint32_t at) {
#pragma unroll 1
        while (next < ROWS) leave(at);
        store_wait_read<0>();
        __syncwarp();
    }

    // Once all have left, asks for what the tile is added to: `from` is this lane's row, `barrier` the warp's.
    __device__ __forceinline__ void ask(uint32_t at, const T* from, int columns, uint32_t barrier) {
        const int lane = threadIdx.x % 32;
        const uint32_t row = at + lane * PITCH, bytes = lane < ROWS ? copied(columns) * 2 : 0;
        all_leave(at);
        const uint32_t all = __reduce_add_sync(~0u, bytes);
        if (lane == 0) barrier_expect(barrier, all);
        __syncwarp();
        if (bytes > 0) load_bytes(row, from, bytes, barrier);
        if (lane < ROWS)
            for (int i = copied(columns); i < columns; i++) element(row, i) = from[i];
        next = ASKED;
    }

    // Takes a tile's sums in, added to what has arrived if that was asked for. All rows before have left.
    template <bool ADD> __device__ __forceinline__ void take(uint32_t at, const float (&sums)[BN / 2]) {
        const uint32_t lane = threadIdx.x % 32, matrices = at + lane % 16 * PITCH + lane / 16 * 16;
        __syncwarp();
#pragma unroll
        for (int j = 0; j < BN / 8; j += 2) {
            // The upper and the lower rows of 8 columns, then of the next 8.
            const float* v = sums + 4 * j;
            uint32_t words[4];
            if constexpr (ADD) {
                uint32_t old[4];
                ldmatrix4<false>(old, matrices + j * 16);
                onto_words<T>(words, old, v);
            } else {
                to_words<T>(words, v);
            }
            store_matrix4(matrices + j * 16, words);
        }
        fence_shared();
        __syncwarp();
        next = 0;
    }
};

}  // namespace grouped_gemm
