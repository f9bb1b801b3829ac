#include "backward.cuh"
#include "layer_norm.cuh"
GROUP_NORM(bf16, bf16)
GROUP_NORM_BACKWARD(bf16, bf16)
LAYER_NORM(bf16, bf16)
