// Element types: everything is read into f32 and written from f32.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda/std/cstdint>

using cuda::std::int64_t;
using cuda::std::uint32_t;
using cuda::std::uint64_t;
using cuda::std::uint8_t;
using bf16 = __nv_bfloat16;
using f16 = __half;

__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_f32(f16 x) { return __half2float(x); }

template <typename T> __device__ __forceinline__ T from_f32(float x);
template <> __device__ __forceinline__ float from_f32<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_f32<bf16>(float x) { return __float2bfloat16_rn(x); }
template <> __device__ __forceinline__ f16 from_f32<f16>(float x) { return __float2half_rn(x); }

// N elements that lie side by side, as the words that they are moved in: at most 16 bytes an access. (One 16-bit element
// has a word for itself, and is not moved as a vector.)
template <typename T, int N> struct alignas(sizeof(T) * N <= 4 ? 4 : sizeof(T) * N < 16 ? sizeof(T) * N : 16) Vec {
    static constexpr int WORDS = (sizeof(T) * N + 3) / 4;
    uint32_t words[WORDS];

    __device__ __forceinline__ float get(int i) const;
    __device__ __forceinline__ void zero() {
#pragma unroll
        for (int i = 0; i < WORDS; i++) words[i] = 0;
    }
};

template <typename T> __device__ __forceinline__ float word_to_f32(uint32_t word, int half);
template <> __device__ __forceinline__ float word_to_f32<bf16>(uint32_t word, int half) {
    return __uint_as_float(half ? word & 0xffff0000u : word << 16);
}
template <> __device__ __forceinline__ float word_to_f32<f16>(uint32_t word, int half) {
    const float2 both = __half22float2(*reinterpret_cast<const __half2*>(&word));
    return half ? both.y : both.x;
}
template <> __device__ __forceinline__ float word_to_f32<float>(uint32_t word, int) { return __uint_as_float(word); }

template <typename T> __device__ __forceinline__ uint32_t words_from_f32(float x, float y);
template <> __device__ __forceinline__ uint32_t words_from_f32<bf16>(float x, float y) {
    const __nv_bfloat162 both = __floats2bfloat162_rn(x, y);
    return *reinterpret_cast<const uint32_t*>(&both);
}
template <> __device__ __forceinline__ uint32_t words_from_f32<f16>(float x, float y) {
    const __half2 both = __floats2half2_rn(x, y);
    return *reinterpret_cast<const uint32_t*>(&both);
}

template <typename T, int N> __device__ __forceinline__ float Vec<T, N>::get(int i) const {
    return sizeof(T) == 4 ? word_to_f32<T>(words[i], 0) : word_to_f32<T>(words[i / 2], i % 2);
}
// Packs N values.
template <typename T, int N> __device__ __forceinline__ Vec<T, N> pack(const float (&x)[N]) {
    Vec<T, N> v;
    if constexpr (sizeof(T) == 4) {
#pragma unroll
        for (int i = 0; i < N; i++) v.words[i] = __float_as_uint(x[i]);
    } else {
#pragma unroll
        for (int i = 0; i < N; i += 2) v.words[i / 2] = words_from_f32<T>(x[i], i + 1 < N ? x[i + 1 < N ? i + 1 : i] : 0.f);
    }
    return v;
}

// N elements: at once if ALIGNED (the whole vector exists or none of it), else one by one and zero past `valid`.
template <bool ALIGNED, typename T, int N>
__device__ __forceinline__ Vec<T, N> load_vec(const T* from, int valid) {
    Vec<T, N> x;
    if constexpr (ALIGNED) {
        static_assert(sizeof(T) * N % 4 == 0);
        if (valid > 0) {
            x = *reinterpret_cast<const Vec<T, N>*>(from);
        } else {
            x.zero();
        }
    } else {
        float v[N];
#pragma unroll
        for (int i = 0; i < N; i++) v[i] = i < valid ? to_f32(from[i]) : 0.f;
        x = pack<T, N>(v);
    }
    return x;
}

template <bool ALIGNED, typename T, int N>
__device__ __forceinline__ void store_vec(T* to, const Vec<T, N>& x, int valid) {
    if constexpr (ALIGNED) {
        if (valid > 0) *reinterpret_cast<Vec<T, N>*>(to) = x;
    } else {
#pragma unroll
        for (int i = 0; i < N; i++)
            if (i < valid) to[i] = from_f32<T>(x.get(i));
    }
}

// A row of a matrix whose rows lie `stride_bytes` apart, from column `column` on.
template <typename T>
__device__ __forceinline__ const T* at_row(const void* base, uint32_t row, uint32_t stride_bytes, int column) {
    return reinterpret_cast<const T*>(static_cast<const char*>(base) + uint64_t(row) * stride_bytes) + column;
}
template <typename T>
__device__ __forceinline__ T* at_row(void* base, uint32_t row, uint32_t stride_bytes, int column) {
    return reinterpret_cast<T*>(static_cast<char*>(base) + uint64_t(row) * stride_bytes) + column;
}
