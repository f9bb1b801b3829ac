#include "adamw.cuh"
UPDATE(f32, float, float)
SQUARES(f32, float)
