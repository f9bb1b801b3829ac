#include "causal_conv1d.cuh"

#define CONV(T_NAME, T, V)                                                                                            \
    extern "C" __global__ void __launch_bounds__(128) causal_conv1d_forward_##T_NAME##_aligned(                         \
        const __grid_constant__ ConvForward p) {                                                                        \
        conv::forward<T, V, true>(p);                                                                                   \
    }                                                                                                                   \
    extern "C" __global__ void __launch_bounds__(128) causal_conv1d_forward_##T_NAME(                                   \
        const __grid_constant__ ConvForward p) {                                                                        \
        conv::forward<T, V, false>(p);                                                                                  \
    }                                                                                                                   \
    extern "C" __global__ void __launch_bounds__(128) causal_conv1d_backward_##T_NAME##_aligned(                        \
        const __grid_constant__ ConvBackward p) {                                                                       \
        conv::backward<T, 4, true>(p);                                                                                  \
    }                                                                                                                   \
    extern "C" __global__ void __launch_bounds__(128) causal_conv1d_backward_##T_NAME(                                  \
        const __grid_constant__ ConvBackward p) {                                                                       \
        conv::backward<T, 4, false>(p);                                                                                 \
    }                                                                                                                   \
    extern "C" __global__ void __launch_bounds__(128) causal_conv1d_edges_##T_NAME##_aligned(                           \
        const __grid_constant__ ConvBackward p) {                                                                       \
        conv::place_edges<T, 4, true>(p);                                                                               \
    }                                                                                                                   \
    extern "C" __global__ void __launch_bounds__(128) causal_conv1d_edges_##T_NAME(                                     \
        const __grid_constant__ ConvBackward p) {                                                                       \
        conv::place_edges<T, 4, false>(p);                                                                              \
    }
CONV(bf16, bf16, 4)
CONV(f16, f16, 4)
CONV(f32, float, 4)

extern "C" __global__ void __launch_bounds__(256) causal_conv1d_sum(const __grid_constant__ ConvBackward p) {
    conv::sum_partials(p);
}
