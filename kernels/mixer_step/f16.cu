#include "step.cuh"
EVERY_STEP(mixer_step, f16, f16)
