#include "embedding.cuh"
BOTH(FORWARD, f16, f16)
BOTH(BACKWARD, f16_f16, f16, f16)
BOTH(BACKWARD, f16_f32, f16, float)
BOTH(ACROSS, f16, f16)
