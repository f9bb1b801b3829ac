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

// D = A B on the tensor cores, (16 x 8) = (16 x 8) (8 x 8), operands cut to tf32 (10 bits of
// mantissa), sums in f32. Lane l holds of A: row l / 4 column l % 4,
// then row + 8, then column + 4, then both; of B: row l % 4 of column l / 4, then row + 4; of D: row l / 4 columns
// 2 (l % 4) and the next, then the same of row + 8.
__device__ __forceinline__ void mma(float (&d)[4], float a0, float a1, float a2, float a3, float b0, float b1) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(__float_as_uint(a0)), "r"(__float_as_uint(a1)), "r"(__float_as_uint(a2)), "r"(__float_as_uint(a3)),
          "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)), "f"(0.f));
}
// The same of four columns of A and four rows of B.
__device__ __forceinline__ void mma(float (&d)[4], float a0, float a1, float b0) {
    asm("mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%7,%7,%7};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(__float_as_uint(a0)), "r"(__float_as_uint(a1)), "r"(__float_as_uint(b0)), "f"(0.f));
}

// The cut to tf32 is towards zero, 2^-11 / (2 ln 2) of a value on average. A sum of cut terms is raised by that.
constexpr float TF32_UNBIAS = 1.f + 0.72134752f / 2048.f;
