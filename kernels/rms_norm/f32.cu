#include "rms_norm.cuh"
NORM(f32, float)
HELD(f32, float, 2, 3, 2)
HELD(f32, float, 3, 2, 1)
