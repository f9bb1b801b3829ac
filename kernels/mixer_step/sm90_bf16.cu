#define STEP_SM90
#include "step.cuh"
EVERY_STEP(sm90_mixer_step, bf16, bf16)
