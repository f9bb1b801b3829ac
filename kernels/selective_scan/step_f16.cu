#include "step.cuh"
SCAN_STEP(f16, f16)
