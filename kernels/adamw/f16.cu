#include "adamw.cuh"
UPDATE(f16, f16, f16)
UPDATE(f32_f16, float, f16)
SQUARES(f16, f16)
