#include "causal_conv1d.cuh"

#define CONV_OF(T_NAME, T, SUFFIX, ALIGNED)                                                                           \
    extern "C" __global__ void __launch_bounds__(128) causal_conv1d_forward_##T_NAME##SUFFIX(                         \
        const __grid_constant__ ConvForward p) {                                                                      \
        conv::forward<T, 4, ALIGNED>(p);                                                                              \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(128) causal_conv1d_backward_##T_NAME##SUFFIX(                        \
        const __grid_constant__ ConvBackward p) {                                                                     \
        conv::backward<T, 4, ALIGNED, false>(p);                                                                      \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(128) causal_conv1d_consume_##T_NAME##SUFFIX(                         \
        const __grid_constant__ ConvBackward p) {                                                                     \
        conv::backward<T, 4, ALIGNED, true>(p);                                                                       \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(128) causal_conv1d_edges_##T_NAME##SUFFIX(                           \
        const __grid_constant__ ConvBackward p) {                                                                     \
        conv::place_edges<T, 4, ALIGNED>(p);                                                                          \
    }
#define CONV(T_NAME, T)                                                                                               \
    CONV_OF(T_NAME, T, , false)                                                                                       \
    CONV_OF(T_NAME, T, _aligned, true)
CONV(bf16, bf16)
CONV(f16, f16)
CONV(f32, float)

extern "C" __global__ void __launch_bounds__(256) causal_conv1d_sum(const __grid_constant__ ConvBackward p) {
    conv::sum_partials(p);
}
