#include "step.cuh"
EVERY_STEP(mixer_step, bf16, bf16)
