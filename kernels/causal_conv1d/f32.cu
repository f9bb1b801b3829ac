#include "causal_conv1d.cuh"
CONV(f32, float)
