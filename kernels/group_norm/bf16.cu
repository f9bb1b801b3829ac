#include "group_norm.cuh"
GROUP_NORM(bf16, bf16)
