#include "step.cuh"
SCAN_STEP(bf16, bf16)
