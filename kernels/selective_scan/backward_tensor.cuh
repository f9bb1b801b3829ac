// Four steps of the scan's backward pass, sums on the tensor cores: for bf16 and d_state up to 16.
//
// Lane 4 c + g of a warp has channel c, states 4 g ... y and s2 are products of states with C or B (`sum_states`), s1 is a
// sum over lanes. dB and dC are sums over channels, which `mma` must find in neighbouring lanes: a product with zeros and
// ones turns lambda (or h) over, so that lane 4 r + q holds channels 2 q and 2 q + 1 of position r, where position k + 4 j
// is state 4 k + j; then follows a product with delta u (or g). What a lane keeps of four steps is of step l % 4.
#pragma once
#include "common.cuh"

namespace scan_backward {

constexpr int QUAD = 4;

struct Turn {
    float a0, a1, a2, a3;  // ones where l / 4 = l % 4, zero, ones where l / 4 = l % 4 + 4, zero
    __device__ __forceinline__ explicit Turn(int lane) : a0(lane / 4 == lane % 4), a2(lane / 4 == lane % 4 + 4) {
        // Zeros that the compiler does not know for such, or it would make four new registers for each product.
        a1 = __uint_as_float(threadIdx.y), a3 = __uint_as_float(threadIdx.z);
    }
};

// Sums over channels of x times `factor`: position l / 4 in sums[0] and 8 + l / 4 in sums[1].
__device__ __forceinline__ void sum_channels(float (&sums)[2], const float (&x)[NS], const Turn& turn, float factor) {
    float low[4], high[4], d[4], e[4];
    mma(low, turn.a0, turn.a1, turn.a2, turn.a3, x[0], x[1]);
    mma(high, turn.a0, turn.a1, turn.a2, turn.a3, x[2], x[3]);
    mma(d, low[0], low[1], factor);
    mma(e, high[0], high[1], factor);
    sums[0] = d[0] + d[3];
    sums[1] = e[0] + e[3];
}

// Steps 0..12 forwards; the states after 3 and 7 go to shared memory.
template <bool STARTS, typename S>
__device__ __forceinline__ void advance_tensor(S& s, float (&h)[NS], const float (&a)[NS], int c, int g) {
#pragma unroll
    for (int t = 0; t < STATE_STRIDE - QUAD; t++) {
        const float2 d = *reinterpret_cast<const float2*>(&s.step[t][S::place(c)]);
        const float cut = STARTS && s.starts[t] ? -INFINITY : 0.f;
        float B[NS];
        unpack<true>(B, *reinterpret_cast<const float4*>(&s.bc[t][g * NS]));
#pragma unroll
        for (int i = 0; i < NS; i++)
            h[i] = fmaf(exp2_approx(STARTS ? fmaf(d.x, a[i], cut) : d.x * a[i]), h[i], d.y * B[i]);
        if (t == QUAD - 1 || t == 2 * QUAD - 1) s.kept[t / QUAD][threadIdx.x] = make_float4(h[0], h[1], h[2], h[3]);
    }
}

// Where a lane finds and leaves what belongs to four steps: addresses that move together cost less than indices.
template <typename S> struct Cursor {
    const float4 *step, *factors;  // the lane's channel of the first step; of step lane / 8, the channel of `sum_channels`
    const float *bc, *pairs;       // the lane's states of the first step; of step lane / 8, the factors of `sum_states`
    float *sums, *s1;              // of step g: s2, and y as far behind it as the arrays are long; s1
    uint32_t grad_bc;
    int t0;

    __device__ __forceinline__ Cursor(S& s, int from, int c, int g, int lane, int warp) : t0(from) {
        step = &s.step[t0][S::place(c)];
        factors = &s.step[t0 + lane / 8][S::place(c / 8 * 8 + 2 * g + lane / 4 % 2)];
        bc = &s.bc[t0][g * NS];
        pairs = &s.bc[t0 + lane / 8][g * NS + lane / 4 % 2 * 2];
        sums = &s.s2[t0 + g][c];
        s1 = &s.step[t0 + g][S::place(c)].y;
        grad_bc = shared_address(&s.grad_bc[warp][t0 + g][lane / 4 + g * 8]);
    }
    __device__ __forceinline__ void back() {
        step -= QUAD * S::CH, factors -= QUAD * S::CH;
        bc -= QUAD * 32, pairs -= QUAD * 32;
        sums -= QUAD * S::STRIDE, s1 -= QUAD * S::CH * 4;
        grad_bc -= QUAD * 32 * sizeof(float), t0 -= QUAD;
    }
};

// Four steps back; h0 is the state before them. Decays are computed once more: shared memory is busier than the unit
// for exponentials.
template <bool STARTS, typename S>
__device__ __forceinline__ void window_tensor(const S& s, const Cursor<S>& at, const float (&h0)[NS],
                                              const float (&a)[NS], float (&carry)[NS], float (&grad_a)[NS], int g,
                                              const Turn& turn, const float2& ones) {
    constexpr int NB = 16;
    const float2 b_pair = *reinterpret_cast<const float2*>(at.pairs);
    const float2 c_pair = *reinterpret_cast<const float2*>(at.pairs + NB);
    const float factor_b = at.factors->y, factor_c = at.factors->z;
    float delta[QUAD], decay[QUAD][NS], h[QUAD][NS];
#pragma unroll
    for (int k = 0; k < QUAD; k++) {
        const float2 d = *reinterpret_cast<const float2*>(&at.step[k * S::CH]);
        const float cut = STARTS && s.starts[at.t0 + k] ? -INFINITY : 0.f;
        float B[NS];
        unpack<true>(B, *reinterpret_cast<const float4*>(at.bc + k * 2 * NB));
        delta[k] = d.x;
#pragma unroll
        for (int i = 0; i < NS; i++) {
            decay[k][i] = exp2_approx(STARTS ? fmaf(d.x, a[i], cut) : d.x * a[i]);
            h[k][i] = fmaf(decay[k][i], k ? h[k > 0 ? k - 1 : 0][i] : h0[i], d.y * B[i]);
        }
    }
    float y, s2, s1[4], grad_b[2], grad_c[2];
#pragma unroll
    for (int k = QUAD - 1; k >= 0; k--) {
        const float grad = at.step[k * S::CH].z;
        float C[NS], lambda[NS], sums[2];
        unpack<true>(C, *reinterpret_cast<const float4*>(at.bc + k * 2 * NB + NB));
#pragma unroll
        for (int i = 0; i < NS; i++) {
            lambda[i] = fmaf(C[i], grad, carry[i]);
            carry[i] = decay[k][i] * lambda[i];
            const float e = carry[i] * (k ? h[k > 0 ? k - 1 : 0][i] : h0[i]);
            s1[k] = i ? fmaf(e, a[i], s1[k]) : e * a[i];
            grad_a[i] = fmaf(e, delta[k], grad_a[i]);
        }
        const float y_k = sum_states(h[k], c_pair), s2_k = sum_states(lambda, b_pair);
        if (g == k) y = y_k, s2 = s2_k;
        sum_channels(sums, lambda, turn, factor_b);
        if (g == k) grad_b[0] = sums[0], grad_b[1] = sums[1];
        sum_channels(sums, h[k], turn, factor_c);
        if (g == k) grad_c[0] = sums[0], grad_c[1] = sums[1];
    }
    float d[4];
    mma(d, s1[0], s1[2], s1[1], s1[3], ones.x, ones.y);  // in every lane: steps 0, 1, 2, 3 in d[0], d[1], d[2], d[3]
    const float s1_g = g == 0 ? d[0] : g == 1 ? d[1] : g == 2 ? d[2] : d[3];
    at.sums[0] = s2 * TF32_UNBIAS;
    at.sums[STATE_STRIDE * S::STRIDE] = y * TF32_UNBIAS;
    store_shared(at.grad_bc, grad_b[0]);
    store_shared(at.grad_bc ^ 8 * sizeof(float), grad_b[1]);
    store_shared(at.grad_bc ^ NB * sizeof(float), grad_c[0]);
    store_shared(at.grad_bc ^ (NB + 8) * sizeof(float), grad_c[1]);
    __syncwarp();  // s1 takes the place of delta u, which every lane has read
    *at.s1 = s1_g * (TF32_UNBIAS * LN_2);  // a has a factor of log2(e)
}

}  // namespace scan_backward
