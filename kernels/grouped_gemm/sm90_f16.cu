#include "sm90.cuh"
EVERY_GROUPED_90(f16)
