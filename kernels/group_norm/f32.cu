#include "backward.cuh"
#include "layer_norm.cuh"
GROUP_NORM(f32, float)
GROUP_NORM_BACKWARD(f32, float)
LAYER_NORM(f32, float)
