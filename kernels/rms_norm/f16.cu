#include "rms_norm.cuh"
NORM(f16, f16)
HELD(f16, f16, 2, 4, 3)
HELD(f16, f16, 3, 3, 2)
