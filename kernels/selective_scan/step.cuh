// One step of decoding: the state is updated in place. A thread owns a channel of a sequence.
#pragma once
#include "common.cuh"

template <typename T> __device__ __forceinline__ void scan_step(const ScanStep& p) {
    const ScanInputs& in = p.in;
    const uint32_t d_inner = in.layout.d_inner;
    const uint64_t at = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= uint64_t(in.layout.batch) * d_inner) return;
    const uint32_t sequence = at / d_inner, channel = at % d_inner;
    const Step step = read_step(in.layout, Span<false>::of(in, sequence), 0);
    const uint32_t row = step.row;
    const float* bias = in.dt_bias ? far_bias(in, row) : nullptr;
    float delta = to_f32(*at_row<T>(in.dt, row, in.dt_stride, channel)) + (bias ? bias[channel] : 0.f);
    if (in.layout.softplus) delta = softplus<sizeof(T) == 4>(delta);
    const float u = to_f32(*at_row<T>(in.u, row, in.u_stride, channel));
    float* h = p.state + at * in.layout.d_state;
    const float* a = in.A + int64_t(channel) * in.layout.d_state;
    float y = in.D ? in.D[channel] * u : 0.f;
    for (uint32_t n = 0; n < in.layout.d_state; n++) {
        const float B = to_f32(*at_row<T>(in.B, row, in.B_stride, n));
        const float C = to_f32(*at_row<T>(in.C, row, in.C_stride, n));
        const float before = step.starts_document ? 0.f : h[n];
        const float next = fmaf(exp2_approx(delta * a[n] * LOG2_E), before, delta * u * B);
        h[n] = next;
        y = fmaf(next, C, y);
    }
    if (in.z) {
        const float z = to_f32(*at_row<T>(in.z, row, in.z_stride, channel));
        y *= z * sigmoid(z);
    }
    *at_row<T>(p.out, row, p.out_stride, channel) = from_f32<T>(y);
}

#define SCAN_STEP(T_NAME, T) \
    extern "C" __global__ void __launch_bounds__(128) selective_scan_step_##T_NAME(const __grid_constant__ ScanStep p) { scan_step<T>(p); }
