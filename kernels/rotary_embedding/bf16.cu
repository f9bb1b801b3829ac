#include "rotary_embedding.cuh"
ROTARY(bf16, bf16)
