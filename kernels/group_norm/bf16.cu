#include "layer_norm.cuh"
GROUP_NORM(bf16, bf16)
LAYER_NORM(bf16, bf16)
