#include "cross_entropy.cuh"
#include "scale.cuh"
CROSS_ENTROPY(f32, float)
SCALING(f32, f32, float, float)
