#include "cross_entropy.cuh"
#include "scale.cuh"
CROSS_ENTROPY(f16, f16)
SCALING(f16, f16, f16, f16)
SCALING(f32, f16, float, f16)
