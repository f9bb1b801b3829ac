#include "embedding.cuh"
BOTH(FORWARD, bf16, bf16)
BOTH(BACKWARD, bf16_bf16, bf16, bf16)
BOTH(BACKWARD, bf16_f32, bf16, float)
BOTH(ACROSS, bf16, bf16)
