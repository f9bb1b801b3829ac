#include "elementwise.cuh"
OF_TYPE(bf16, bf16)
CONVERSIONS(bf16, bf16)
