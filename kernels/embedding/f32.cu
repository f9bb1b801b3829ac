#include "embedding.cuh"
BOTH(FORWARD, f32, float)
BOTH(BACKWARD, f32_f32, float, float)
BOTH(ACROSS, f32, float)
