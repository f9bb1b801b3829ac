// Rows of activations, and products of them by units of a ring.
#pragma once
#include "ring.cuh"

namespace mixer_step {

// Rows of activations in shared memory, zeros behind their ends up to a whole unit and a vector more: rows lie in other
// banks, and there is one of zeros.
template <typename T> struct Inputs {
    T* rows;
    int stride, n_rows;
    uint32_t read_at;

    static constexpr int room(int n_rows, int width) { return n_rows * (width + Unit<T>::VECTOR); }
    __device__ __forceinline__ Inputs(T* memory, int n_rows, int width)
        : rows(memory), stride((width + Unit<T>::K - 1) / Unit<T>::K * Unit<T>::K + Unit<T>::VECTOR), n_rows(n_rows) {
        const int lane = threadIdx.x % 32, row = lane % 8;
        read_at = shared_address(rows + (row < n_rows ? row * stride + lane / 8 * Unit<T>::VECTOR : 0));
    }
    // 16 bits: columns k.. of a chunk, second operands of two mma. Lanes of rows that are not there give zeros.
    __device__ __forceinline__ void read(uint32_t (&b)[4], int k) const {
        const int zeros = stride - Unit<T>::VECTOR;
        load_matrices(b, read_at + (int(threadIdx.x % 8) < n_rows ? k : zeros) * int(sizeof(T)));
    }
    // Zeroes what lies behind `width`, with all threads.
    __device__ __forceinline__ void pad(int width) {
        const int behind = stride - width;
        for (int i = threadIdx.x; i < n_rows * behind; i += THREADS)
            rows[i / behind * stride + width + i % behind] = from_f32<T>(0.f);
    }
};

__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const bf16*) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const f16*) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Sums of a warp for one tile: lane 4 g + t ends with rows g and g + 8 of the matrix by rows 2 t and 2 t + 1 of the inputs.
template <typename T, int ROWS> struct Sums {
    float d[4] = {}, more[4] = {};  // two chains, so that one need not wait for the other

    template <typename R> __device__ __forceinline__ void chunk(const R& ring, const Inputs<T>& x, int k, int chunk) {
        uint32_t first[4], second[4], b[4];
        x.read(b, k + chunk * Unit<T>::CHUNK);
        ring.read(first, 2 * chunk);
        ring.read(second, 2 * chunk + 1);
        mma(d, first, b[0], b[1], static_cast<const T*>(nullptr));
        mma(more, second, b[2], b[3], static_cast<const T*>(nullptr));
    }
    __device__ __forceinline__ void finish() {
#pragma unroll
        for (int i = 0; i < 4; i++) d[i] += more[i];
    }
};
template <int ROWS> struct Sums<float, ROWS> {
    float d[4] = {};
    float low_sums[ROWS] = {}, high_sums[ROWS] = {};

    template <typename R> __device__ __forceinline__ void chunk(const R& ring, const Inputs<float>& x, int k, int chunk) {
        const int t = threadIdx.x % 4;
        uint32_t low[4], high[4];
        ring.read(low, high, chunk);
        k += chunk * Unit<float>::CHUNK;
#pragma unroll
        for (int n = 0; n < ROWS; n++) {
            if (n >= x.n_rows) break;
            const float4 b = *reinterpret_cast<const float4*>(x.rows + n * x.stride + k + t * Unit<float>::VECTOR);
            const float v[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
            for (int i = 0; i < 4; i++) {
                low_sums[n] = fmaf(__uint_as_float(low[i]), v[i], low_sums[n]);
                high_sums[n] = fmaf(__uint_as_float(high[i]), v[i], high_sums[n]);
            }
        }
    }
    // Over the lanes of a row.
    __device__ __forceinline__ void finish() {
        const int t = threadIdx.x % 4;
        fold<ROWS, 4, 1>(low_sums, t);
        fold<ROWS, 4, 1>(high_sums, t);
        d[0] = low_sums[0];
        d[2] = high_sums[0];
        if constexpr (ROWS > 1) {
            d[1] = low_sums[1];
            d[3] = high_sums[1];
        }
    }
};

// The oldest unit by columns k.. of x, `chunks` chunks of it.
template <typename T, int ROWS, int DEPTH>
__device__ __forceinline__ void multiply(Sums<T, ROWS>& sums, const Ring<T, DEPTH>& ring, const Inputs<T>& x, int k, int chunks) {
#pragma unroll
    for (int c = 0; c < Unit<T>::CHUNKS; c++)
        if (c < chunks) sums.chunk(ring, x, k, c);
}

// Calls `to(row of the tile, row of the inputs, sum)` for what this lane holds.
template <typename T, int ROWS, typename To> __device__ __forceinline__ void each(const Sums<T, ROWS>& sums, int n_rows, To to) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    if (2 * t < n_rows) {
        to(g, 2 * t, sums.d[0]);
        to(g + 8, 2 * t, sums.d[2]);
    }
    if (ROWS > 1 && 2 * t + 1 < n_rows) {
        to(g, 2 * t + 1, sums.d[1]);
        to(g + 8, 2 * t + 1, sums.d[3]);
    }
}

// Sums of a few tiles from every warp, which each have a part of the columns. There is a second place for the next tiles:
// a warp that adds up the first ones is past that before their memory's next turn, since a barrier lies between.
template <int ROWS, int TILES> struct Parts {
    float values[2][TILES][WARPS][TILE * ROWS];

    template <typename T> __device__ __forceinline__ void put(const Sums<T, ROWS>& sums, int turn, int tile, int n_rows) {
        float* to = values[turn][tile][threadIdx.x / 32];
        each(sums, n_rows, [&](int row, int n, float sum) { to[row * ROWS + n] = sum; });
    }
    __device__ __forceinline__ float total(int turn, int tile, int row, int n) const {
        float sum = 0.f;
#pragma unroll
        for (int w = 0; w < WARPS; w++) sum += values[turn][tile][w][row * ROWS + n];
        return sum;
    }
};

// The RMS norm of a few rows into shared memory. The weights are read before the rows exist.
template <typename T, int ROWS, int K_MAX> struct Norm {
    static constexpr int V = Unit<T>::VECTOR;
    // One row is the block's, several are a warp's each.
    static constexpr int LANES = ROWS == 1 ? THREADS : 32;
    // The factor of the one row is the product's, so that nothing waits for it; f16 has no room for what is not normed.
    static constexpr bool LATER = ROWS == 1 && !std::is_same_v<T, f16>;
    static constexpr int HELD = K_MAX / (LANES * V);
    const float* weight;
    float held[ROWS == 1 ? HELD : 1][V];

    __device__ __forceinline__ Norm(const float* weight, int width) : weight(weight) {
        if constexpr (ROWS == 1) {
#pragma unroll
            for (int i = 0; i < HELD; i++) read(held[i], (i * LANES + threadIdx.x) * V, width);
        }
    }
    __device__ __forceinline__ void read(float (&to)[V], int at, int width) const {
#pragma unroll
        for (int j = 0; j < V; j += 4) {
            const float4 w = at < width ? *reinterpret_cast<const float4*>(weight + at + j) : float4{0.f, 0.f, 0.f, 0.f};
            to[j] = w.x;
            to[j + 1] = w.y;
            to[j + 2] = w.z;
            to[j + 3] = w.w;
        }
    }
    __device__ __forceinline__ static float warp_sum(float x) {
#pragma unroll
        for (int d = 16; d >= 1; d /= 2) x += __shfl_xor_sync(~0u, x, d);
        return x;
    }
    static __device__ __forceinline__ float factor(float squares, const float* squares_of_warps, float eps, int width) {
        if constexpr (ROWS == 1) {
            squares = 0.f;
#pragma unroll
            for (int w = 0; w < WARPS; w++) squares += squares_of_warps[w];
        }
        return rsqrtf(squares / float(width) + eps);
    }
    // What products of these rows are multiplied by.
    static __device__ __forceinline__ float later(const float* squares_of_warps, float eps, int width) {
        return LATER ? factor(0.f, squares_of_warps, eps, width) : 1.f;
    }
    // Needs a barrier behind it.
    __device__ __forceinline__ void run(const T* x, float eps, int width, Inputs<T>& to, float* squares_of_warps) {
        const int warp = threadIdx.x / 32, lane = ROWS == 1 ? int(threadIdx.x) : int(threadIdx.x % 32);
        const int row = ROWS == 1 ? 0 : warp;
        if (row < to.n_rows) {
            const T* from = x + int64_t(row) * width;
            Vec<T, V> values[HELD];
            float squares = 0.f;
#pragma unroll
            for (int i = 0; i < HELD; i++) {
                const int at = (i * LANES + lane) * V;
                if (at < width) {
                    values[i] = load_fresh(from + at);
                } else {
                    values[i].zero();
                }
            }
#pragma unroll
            for (int i = 0; i < HELD; i++)
#pragma unroll
                for (int j = 0; j < V; j++) squares = fmaf(values[i].get(j), values[i].get(j), squares);
            squares = warp_sum(squares);
            if constexpr (ROWS == 1) {
                if (threadIdx.x % 32 == 0) squares_of_warps[warp] = squares;
                if constexpr (!LATER) __syncthreads();
            }
            const float r = LATER ? 1.f : factor(squares, squares_of_warps, eps, width);
#pragma unroll
            for (int i = 0; i < HELD; i++) {
                const int at = (i * LANES + lane) * V;
                if (at < width) {
                    float w[V], y[V];
                    if constexpr (ROWS != 1) read(w, at, width);
#pragma unroll
                    for (int j = 0; j < V; j++) y[j] = values[i].get(j) * r * (ROWS == 1 ? held[ROWS == 1 ? i : 0][j] : w[j]);
                    *reinterpret_cast<Vec<T, V>*>(to.rows + row * to.stride + at) = pack<T, V>(y);
                }
            }
        }
    }
};

}  // namespace mixer_step
