#include "rotary_embedding.cuh"
ROTARY(f32, float)
