#include "rms_norm.cuh"
NORM(bf16, bf16)
HELD(bf16, bf16, 2, 4, 3)
HELD(bf16, bf16, 3, 3, 2)
