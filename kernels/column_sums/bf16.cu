#include "column_sums.cuh"
SUM_CHUNK(bf16, bf16)
