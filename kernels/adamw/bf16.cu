#include "adamw.cuh"
UPDATE(bf16, bf16, bf16)
UPDATE(f32_bf16, float, bf16)
SQUARES(bf16, bf16)
