#include "causal_conv1d.cuh"
CONV(f16, f16)
