#include "cross_entropy.cuh"
#include "scale.cuh"
CROSS_ENTROPY(bf16, bf16)
SCALING(bf16, bf16, bf16, bf16)
SCALING(f32, bf16, float, bf16)
