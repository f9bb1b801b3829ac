#include "group_norm.cuh"
GROUP_NORM(f32, float)
