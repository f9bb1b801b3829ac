// Products of a few rows with a matrix that is read once, as fast as memory gives it.
//
// A warp takes the matrix by units: 16 of its rows by 256 bytes of each. It copies whole lines to shared memory (cp.async),
// several units ahead, across tiles and from one matrix to the next: no barrier of the block stands between memory and its
// use, and copies of weights, which no kernel writes, begin before the kernel in front has ended. The 16 rows are the first
// operand of an mma, up to 8 rows of activations the second.
#pragma once
#include "../common/dependent_launch.cuh"
#include "../common/dtype.cuh"
#include "../common/math.cuh"
#include "../common/reduce.cuh"
#include "params.h"

namespace mixer_step {

constexpr int WARPS = 8, THREADS = 32 * WARPS;
// Whether kernels overlap: then a ring holds as much as three kernels side by side leave of a multiprocessor's memory, else
// no more than what keeps memory busy.
#ifdef STEP_SM90
constexpr bool OVERLAP = true;
#else
constexpr bool OVERLAP = false;
#endif
// So many blocks of each product, of 16 bits and one row, and half of the scan's find registers on a multiprocessor.
template <typename T, int ROWS> constexpr int MIN_BLOCKS = ROWS == 1 && sizeof(T) == 2 ? 4 : 1;
// Rows of a matrix that a warp multiplies at once.
constexpr int TILE = 16;

// Asks for a line to be in the second-level cache, whoever writes it.
__device__ __forceinline__ void prefetch(const void* from) { asm volatile("prefetch.global.L2 [%0];" ::"l"(from)); }

__device__ __forceinline__ uint32_t shared_address(const void* at) { return uint32_t(__cvta_generic_to_shared(at)); }

// 16 bytes that another kernel may have written while this one was on its way: past the first-level cache.
template <typename T> __device__ __forceinline__ Vec<T, 16 / sizeof(T)> load_fresh(const T* from) {
    const uint4 x = __ldcg(reinterpret_cast<const uint4*>(from));
    return {{x.x, x.y, x.z, x.w}};
}
__device__ __forceinline__ float load_fresh_one(const float* from) { return __ldcg(from); }
__device__ __forceinline__ float load_fresh_one(const bf16* from) {
    return word_to_f32<bf16>(__ldcg(reinterpret_cast<const unsigned short*>(from)), 0);
}
__device__ __forceinline__ float load_fresh_one(const f16* from) {
    return word_to_f32<f16>(__ldcg(reinterpret_cast<const unsigned short*>(from)), 0);
}

__device__ __forceinline__ void load(uint32_t (&to)[4], uint32_t at) {
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(at)
                 : "memory");
}
// Four 8 x 8 matrices of 16 bits; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(at)
                 : "memory");
}

template <typename T> struct Unit {
    static constexpr int VECTOR = 16 / sizeof(T);
    static constexpr int CHUNK = 4 * VECTOR;
    static constexpr int CHUNKS = 4;
    static constexpr int K = CHUNKS * CHUNK;  // columns of a unit
    static constexpr int BYTES = 4096;
};

// What a warp has on its way. Vectors change places within a row by its number, so that 8 rows of a column meet every bank.
template <typename T, int DEPTH> struct Ring {
    static constexpr int BYTES = WARPS * DEPTH * Unit<T>::BYTES;
    uint32_t first, write_at, read_at;
    int to = 0, from = 0;
    uint64_t policy;

    // Row and column of a unit, and every second row from there on, that a lane copies.
    static __device__ __forceinline__ int row() { return threadIdx.x % 32 / 16; }
    static __device__ __forceinline__ int column() { return threadIdx.x % 16 * Unit<T>::VECTOR; }

    __device__ __forceinline__ explicit Ring(void* memory) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
        first = shared_address(memory) + warp * DEPTH * Unit<T>::BYTES;
        write_at = row() * 256 + (lane % 16 ^ row()) * 16;
        // f32: vector t of row g. 16 bits: the address that this lane gives of four 8 x 8 parts, rows first.
        read_at = sizeof(T) == 4 ? g * 256 + (t ^ g) * 16 : lane % 16 * 256 + (lane / 16 ^ lane % 8) * 16;
        // Weights are read once a token, and are more than the second-level cache holds: states may stay there instead.
        asm volatile("createpolicy.fractional.L2::evict_first.b64 %0;" : "=l"(policy));
    }
    // Asks for 8 rows from `low` and 8 from `high`, which point to this lane's first vector of them; `stride`: from row to
    // row. Zeros for rows that are not there, and for all where this lane's column is not in.
    __device__ __forceinline__ void fetch(const T* low, const T* high, int rows_low, int rows_high, int64_t stride, bool in) {
        const uint32_t target = first + to * Unit<T>::BYTES + write_at;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t at = (target ^ i << 5) + i * 512;
            copy(at, low + i * 2 * stride, in && row() + 2 * i < rows_low);
            copy(at + 2048, high + i * 2 * stride, in && row() + 2 * i < rows_high);
        }
    }
    // Ends what was asked for as a unit, which may be none.
    __device__ __forceinline__ void commit() {
        asm volatile("cp.async.commit_group;" ::: "memory");
        to = to + 1 == DEPTH ? 0 : to + 1;
    }
    // Waits for the oldest unit.
    __device__ __forceinline__ void wait() {
        asm volatile("cp.async.wait_group %0;" ::"n"(DEPTH - 1) : "memory");
        __syncwarp();
    }
    // Fills the ring before there is anything to multiply by, with one unit of a warp on its way: what the kernel in front
    // asks memory for would have to wait behind more, and it is that which this one waits for.
    template <typename Fetch> __device__ __forceinline__ void fill(Fetch fetch) {
#pragma unroll 1
        for (int i = 0; i < DEPTH; i++) {
            if (i > 0) asm volatile("cp.async.wait_group 0;" ::: "memory");
            fetch();
        }
    }
    // f32: of a chunk, this lane's vectors of rows g and g + 8.
    __device__ __forceinline__ void read(uint32_t (&low)[4], uint32_t (&high)[4], int chunk) const {
        const uint32_t at = first + from * Unit<T>::BYTES + (read_at ^ chunk << 6);
        load(low, at);
        load(high, at + 2048);
    }
    // 16 bits: of 16 columns, an mma's operand.
    __device__ __forceinline__ void read(uint32_t (&a)[4], int step) const {
        load_matrices(a, first + from * Unit<T>::BYTES + (read_at ^ step << 5));
    }
    // The oldest unit was read: its place is the next one's.
    __device__ __forceinline__ void release() {
        __syncwarp();
        from = from + 1 == DEPTH ? 0 : from + 1;
    }

private:
    __device__ __forceinline__ void copy(uint32_t target, const T* source, bool there) {
        const uint32_t bytes = there ? 16 : 0;
        asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;" ::"r"(target), "l"(source), "r"(bytes),
                     "l"(policy)
                     : "memory");
    }
};

}  // namespace mixer_step
