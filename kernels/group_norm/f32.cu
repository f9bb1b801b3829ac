#include "layer_norm.cuh"
GROUP_NORM(f32, float)
LAYER_NORM(f32, float)
