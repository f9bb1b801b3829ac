// Sums over lanes, in a fixed order.
#pragma once

// Transposed reduction of N values over L lanes whose index is `lane` and whose neighbours are STRIDE lanes apart.
// N >= L: lane l ends with the sums of values l N/L .. (l + 1) N/L in v[0 .. N/L).
// N <  L: lane l ends with the sum of value l / (L / N) in v[0].
template <int N, int L, int STRIDE> __device__ __forceinline__ void fold(float (&v)[N], int lane) {
    int left = N;
#pragma unroll
    for (int bit = L / 2; bit >= 1; bit /= 2) {
        if (left > 1) {
            const bool up = (lane & bit) != 0;
            left /= 2;
#pragma unroll
            for (int r = 0; r < N / 2; r++) {
                if (r < left) {
                    const float keep = up ? v[r + left] : v[r];
                    const float give = up ? v[r] : v[r + left];
                    v[r] = keep + __shfl_xor_sync(~0u, give, bit * STRIDE);
                }
            }
        } else {
            v[0] += __shfl_xor_sync(~0u, v[0], bit * STRIDE);
        }
    }
}

// Sums over 4 neighbouring lanes on the tensor cores: D += A B, (16 x 8) += (16 x 8) (8 x 8), operands cut to tf32 (10 bits
// of mantissa), sums in f32. A holds four values of each lane, B zeros and ones: lane l's a0 and a1 stand in rows l / 4 and
// l / 4 + 8 of column l % 4, a2 and a3 in the same rows of column l % 4 + 4. With Selector j, column 2 j of D is the sum of
// a0 (upper rows) and of a1 (lower rows) over the four lanes, column 2 j + 1 that of a2 and a3. Lane l ends with columns
// 2 (l % 4) and the next: d0, d1 of row l / 4, and d2, d3 of row l / 4 + 8.
struct Selector {
    uint32_t b0, b1;
    __device__ __forceinline__ explicit Selector(int j) {
        const int column = threadIdx.x % 32 / 4;
        b0 = column == 2 * j ? 0x3f800000u : 0u;
        b1 = column == 2 * j + 1 ? 0x3f800000u : 0u;
    }
};

__device__ __forceinline__ void sum_lanes(float (&d)[4], float a0, float a1, float a2, float a3, const Selector& s) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(__float_as_uint(a0)), "r"(__float_as_uint(a1)), "r"(__float_as_uint(a2)), "r"(__float_as_uint(a3)),
          "r"(s.b0), "r"(s.b1));
}

// The cut to tf32 is towards zero, 2^-11 / (2 ln 2) of a value on average. Such a sum, or a factor of its terms, is raised by
// that.
constexpr float TF32_UNBIAS = 1.f + 0.72134752f / 2048.f;
