// Exponentials and what is made of them. The special-function unit gives 2^x and 1/x within 2 ulp.
#pragma once

constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.6931471805599453f;

__device__ __forceinline__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float rcp_approx(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// 1 / (1 + e^-x).
__device__ __forceinline__ float sigmoid(float x) { return rcp_approx(1.f + exp2_approx(-x * LOG2_E)); }

// log(1 + e) for e in 0..1 without the special-function unit, which is what the scan waits for.
// EXACT: 2 atanh(e / (2 + e)), a series in s^2 <= 1/9, right to f32's rounding also where the result is small. Otherwise
// e times the polynomial whose largest relative error is least, 8e-6, far below the 2^-11 that an f16 dt is rounded to: f32
// states are right to 1e-5.
template <bool EXACT> __device__ __forceinline__ float log1p_unit(float e) {
    if constexpr (EXACT) {
        const float s = __fdividef(e, 2.f + e), q = s * s;
        float p = fmaf(q, 1.f / 13.f, 1.f / 11.f);
        p = fmaf(p, q, 1.f / 9.f);
        p = fmaf(p, q, 1.f / 7.f);
        p = fmaf(p, q, 1.f / 5.f);
        p = fmaf(p, q, 1.f / 3.f);
        return 2.f * fmaf(s * q, p, s);
    } else {
        float p = -0.0238691512f;
        p = fmaf(p, e, 0.101222284f);
        p = fmaf(p, e, -0.21004869f);
        p = fmaf(p, e, 0.325206667f);
        p = fmaf(p, e, -0.499361366f);
        p = fmaf(p, e, 0.999991596f);
        return p * e;
    }
}

// log(1 + e^x) = max(x, 0) + log1p(e^-|x|).
template <bool EXACT> __device__ __forceinline__ float softplus(float x) {
    return log1p_unit<EXACT>(exp2_approx(-fabsf(x) * LOG2_E)) + fmaxf(x, 0.f);
}

// The same, and its derivative 1 / (1 + e^-x).
template <bool EXACT> __device__ __forceinline__ float softplus(float x, float& slope) {
    const float e = exp2_approx(-fabsf(x) * LOG2_E), r = rcp_approx(1.f + e);
    slope = x >= 0.f ? r : e * r;
    return log1p_unit<EXACT>(e) + fmaxf(x, 0.f);
}
