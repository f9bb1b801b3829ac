#include "causal_conv1d.cuh"
CONV(bf16, bf16)
