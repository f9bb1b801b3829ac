#include "column_sums.cuh"
SUM_CHUNK(f16, f16)
