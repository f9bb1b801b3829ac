#include "elementwise.cuh"
OF_TYPE(f16, f16)
CONVERSIONS(f16, f16)
