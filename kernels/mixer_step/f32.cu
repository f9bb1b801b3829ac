#include "step.cuh"
EVERY_STEP(mixer_step, f32, float)
