#include "causal_conv1d.cuh"

extern "C" __global__ void __launch_bounds__(256) causal_conv1d_sum(const __grid_constant__ ConvBackward p) {
    conv::sum_partials(p);
}
