#include "forward.cuh"
SCAN_FORWARD(selective_scan_forward_f32_16_aligned, float, 4, 4, 16, true, false, false)
SCAN_FORWARD(selective_scan_forward_f32_16, float, 4, 4, 16, false, false, false)
SCAN_FORWARD(selective_scan_forward_f32_32, float, 8, 4, 16, false, false, false)
SCAN_FORWARD(selective_scan_forward_f32_64, float, 16, 4, 16, false, false, false)
