#include "step.cuh"
SCAN_STEP(f32, float)
