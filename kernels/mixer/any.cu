// A = -exp(A_log), and the gradient of A_log from that of A: the derivative is A itself.
#include "../common/dtype.cuh"
#include "params.h"

extern "C" __global__ void __launch_bounds__(256) mixer_decays(const __grid_constant__ Decays p) {
    const uint64_t i = uint64_t(blockIdx.x) * 256 + threadIdx.x;
    if (i < p.n) p.out[i] = -expf(p.a_log[i]);
}

extern "C" __global__ void __launch_bounds__(256) mixer_decays_gradient(const __grid_constant__ Decays p) {
    const uint64_t i = uint64_t(blockIdx.x) * 256 + threadIdx.x;
    if (i < p.n) p.out[i] *= p.a[i];
}
