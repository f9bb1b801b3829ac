#include "column_sums.cuh"
SUM_CHUNK(f32, float)
