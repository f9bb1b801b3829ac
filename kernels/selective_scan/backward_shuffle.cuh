// Eight steps of the scan's backward pass in f32, sums over lanes by shuffles: for f32 and f16, and for d_state above 16.
//
// Lane l of a warp has channel l % (32 / G), states NS (l / (32 / G)) ...
#pragma once
#include "common.cuh"

namespace scan_backward {

constexpr int WINDOW = 8;
// KEEP: there is room for the states of steps 0..5 beside their decays.
constexpr int KEPT = 5;

// Steps 0..8 forwards; their decays, and with KEEP the first states, go to shared memory.
template <bool STARTS, bool KEEP, typename S>
__device__ __forceinline__ void advance(S& s, float (&h)[NS], const float (&a)[NS], int c, int g) {
    // Loads first: the compiler cannot know that the stores leave them alone, and each would wait for the last.
    float2 d[WINDOW];
    float4 B[WINDOW];
#pragma unroll
    for (int t = 0; t < WINDOW; t++) {
        d[t] = *reinterpret_cast<const float2*>(&s.step[t][S::place(c)]);
        B[t] = *reinterpret_cast<const float4*>(&s.bc[t][g * NS]);
    }
#pragma unroll
    for (int t = 0; t < WINDOW; t++) {
        const float cut = STARTS && s.starts[t] ? -INFINITY : 0.f;
        float b[NS], e[NS];
        unpack<false>(b, B[t]);
#pragma unroll
        for (int i = 0; i < NS; i++) {
            e[i] = exp2_approx(STARTS ? fmaf(d[t].x, a[i], cut) : d[t].x * a[i]);
            h[i] = fmaf(e[i], h[i], d[t].y * b[i]);
        }
        s.decay[t][threadIdx.x] = make_float4(e[0], e[1], e[2], e[3]);
        if constexpr (KEEP) {
            if (t < KEPT) s.kept[t][threadIdx.x] = make_float4(h[0], h[1], h[2], h[3]);
        }
    }
}

// Decays of steps 8..16.
template <bool STARTS, typename S>
__device__ __forceinline__ void decays(S& s, float (&decay)[WINDOW][NS], const float (&a)[NS], int c) {
#pragma unroll
    for (int r = 0; r < WINDOW; r++) {
        const float delta = s.step[WINDOW + r][S::place(c)].x;
        const float cut = STARTS && s.starts[WINDOW + r] ? -INFINITY : 0.f;
#pragma unroll
        for (int i = 0; i < NS; i++) decay[r][i] = exp2_approx(STARTS ? fmaf(delta, a[i], cut) : delta * a[i]);
    }
}

// Where a lane stores the one of s1 and s2, of the two steps of a pair, that the fold leaves to it.
struct Target {
    uint32_t address, row_bytes;  // of the pair's later step, when that is 0
    template <int G, typename S> static __device__ __forceinline__ Target of(S& s, int c, int g) {
        const int which = g / (G / 4);
        Target to = which / 2 ? Target{shared_address(&s.s2[0][c]), sizeof(s.s2[0])}
                              : Target{shared_address(&s.step[0][S::place(c)].y), sizeof(s.step[0])};
        to.address -= which % 2 * to.row_bytes;
        return to;
    }
};

// States after each of the eight steps from t0 on, of which the first FROM are there.
template <int FROM, typename S>
__device__ __forceinline__ void states(S& s, int t0, const float (&decay)[WINDOW][NS], const float (&h0)[NS],
                                       float (&h)[WINDOW][NS], int c, int g) {
#pragma unroll
    for (int r = FROM; r < WINDOW; r++) {
        const float delta_u = s.step[t0 + r][S::place(c)].y;
        float B[NS];
        unpack<false>(B, *reinterpret_cast<const float4*>(&s.bc[t0 + r][g * NS]));
#pragma unroll
        for (int i = 0; i < NS; i++) h[r][i] = fmaf(decay[r][i], r ? h[r > 0 ? r - 1 : 0][i] : h0[i], delta_u * B[i]);
    }
}

// The eight steps from t0 on, back; h0 is the state before them, h those after.
template <int G, typename S>
__device__ __forceinline__ void window(S& s, int t0, const float (&decay)[WINDOW][NS], const float (&h)[WINDOW][NS],
                                       const float (&h0)[NS], const float (&a)[NS], float (&carry)[NS],
                                       float (&grad_a)[NS], int c, int g, const Target& q_to) {
    constexpr int CW = 32 / G, NB = NS * G;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, place = S::place(c);
    float4(*step)[S::CH] = &s.step[t0];
    const float(*bc)[2 * NB] = &s.bc[t0];
    float ys[WINDOW];
#pragma unroll
    for (int r = 0; r < WINDOW; r++) {
        const float4 c4 = *reinterpret_cast<const float4*>(&bc[r][NB + g * NS]);
        ys[r] = fmaf(h[r][3], c4.w, fmaf(h[r][2], c4.z, fmaf(h[r][1], c4.y, h[r][0] * c4.x)));
    }
    // What a pair of steps leaves is folded and stored while the next pair runs: stores behind its loads.
    struct Pair {
        float q[4];  // s1 of both steps, then s2
    } last;
    auto leave = [&](Pair& pair, int r2) {
        pair.q[0] *= LN_2, pair.q[1] *= LN_2;  // a has a factor of log2(e)
        fold<4, G, CW>(pair.q, g);
        __syncwarp();  // s1 takes the place of delta u, which every lane of the channel has read
        if (g % (G / 4) == 0) store_shared(q_to.address + (t0 + r2) * q_to.row_bytes, pair.q[0]);
    };
#pragma unroll
    for (int r2 = WINDOW - 1; r2 > 0; r2 -= 2) {
        Pair pair;
#pragma unroll
        for (int k = 0; k < 2; k++) {
            const int r = r2 - k;
            const float4 d = step[r][place];
            const float4 b4 = *reinterpret_cast<const float4*>(&bc[r][g * NS]);
            const float4 c4 = *reinterpret_cast<const float4*>(&bc[r][NB + g * NS]);
            const float B[NS] = {b4.x, b4.y, b4.z, b4.w}, C[NS] = {c4.x, c4.y, c4.z, c4.w};
            float s1 = 0.f, s2 = 0.f, v[2 * NS];
#pragma unroll
            for (int i = 0; i < NS; i++) {
                const float lambda = fmaf(C[i], d.z, carry[i]);
                s2 = i ? fmaf(lambda, B[i], s2) : lambda * B[i];
                carry[i] = decay[r][i] * lambda;
                const float e = carry[i] * (r ? h[r > 0 ? r - 1 : 0][i] : h0[i]);
                s1 = i ? fmaf(e, a[i], s1) : e * a[i];
                grad_a[i] = fmaf(e, d.x, grad_a[i]);
                v[i] = lambda * d.y;
                v[NS + i] = d.z * h[r][i];
            }
            pair.q[k] = s1;
            pair.q[2 + k] = s2;
            fold<2 * NS, CW, 1>(v, lane % CW);
            constexpr int LEFT = 2 * NS / CW;
#pragma unroll
            for (int j = 0; j < LEFT; j++) {
                const int index = lane % CW * LEFT + j;
                s.grad_bc[warp][t0 + r][index / NS * NB + g * NS + index % NS] = v[j];
            }
        }
        if (r2 == WINDOW - 1) {
#pragma unroll
            for (int r0 = 0; r0 < WINDOW; r0 += 4) {
                float four[4] = {ys[r0], ys[r0 + 1], ys[r0 + 2], ys[r0 + 3]};
                fold<4, G, CW>(four, g);
                if (g % (G / 4) == 0) s.y[t0 + r0 + g / (G / 4)][c] = four[0];
            }
        } else {
            leave(last, r2 + 2);
        }
        last = pair;
    }
    leave(last, 1);
}

}  // namespace scan_backward
