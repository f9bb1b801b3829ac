// A step of decoding: three launches a residual block, and one for the head.
//
// Where there is compute capability 9.0 (STEP_SM90) each is launched while the one in front still runs: it copies its first
// weights, and waits. What follows it is let in at once, so that two kernels' copies are on their way while a third computes.
#include "in.cuh"
#include "product.cuh"
#include "scan.cuh"

#ifdef STEP_SM90
#define SCAN_CLUSTER __cluster_dims__(mixer_step::CLUSTER, 1, 1)
#else
#define SCAN_CLUSTER
#endif

#define STEP_KERNEL(NAME, ATTRIBUTES, PARAMS, ...)                                                     \
    extern "C" __constant__ const uint32_t NAME##_shared_bytes = sizeof(__VA_ARGS__::Shared);          \
    extern "C" __global__ void ATTRIBUTES __launch_bounds__(__VA_ARGS__::THREADS, __VA_ARGS__::BLOCKS) \
        NAME(const __grid_constant__ PARAMS p) {                                                       \
        extern __shared__ __align__(1024) unsigned char memory[];                                      \
        __VA_ARGS__::run(p, memory);                                                                   \
    }

// What the Rust side launches, of one element type.
#define EVERY_STEP(PREFIX, T_NAME, T)                                                                   \
    STEP_KERNEL(PREFIX##_in_1_##T_NAME, , StepIn, mixer_step::InKernel<T, 1>)                           \
    STEP_KERNEL(PREFIX##_in_8_##T_NAME, , StepIn, mixer_step::InKernel<T, 8>)                           \
    STEP_KERNEL(PREFIX##_scan_16_##T_NAME, SCAN_CLUSTER, StepScan, mixer_step::ScanKernel<T, 2>)        \
    STEP_KERNEL(PREFIX##_scan_64_##T_NAME, SCAN_CLUSTER, StepScan, mixer_step::ScanKernel<T, 8>)        \
    STEP_KERNEL(PREFIX##_out_1_##T_NAME, , StepProduct, mixer_step::ProductKernel<T, 1, false>)         \
    STEP_KERNEL(PREFIX##_out_8_##T_NAME, , StepProduct, mixer_step::ProductKernel<T, 8, false>)         \
    STEP_KERNEL(PREFIX##_head_1_##T_NAME, , StepProduct, mixer_step::ProductKernel<T, 1, true>)         \
    STEP_KERNEL(PREFIX##_head_8_##T_NAME, , StepProduct, mixer_step::ProductKernel<T, 8, true>)
