#include "chunks.cuh"
#include "backward.cuh"
SCAN_BACKWARD(selective_scan_backward_f32_16_aligned, float, 4, 128, 3, false, true, false, false)
SCAN_BACKWARD(selective_scan_backward_f32_16, float, 4, 128, 3, false, false, false, false)
SCAN_BACKWARD(selective_scan_backward_f32_32, float, 8, 128, 2, false, false, false, false)
SCAN_BACKWARD(selective_scan_backward_f32_64, float, 16, 128, 2, false, false, false, false)
SCAN_SUMS(f32, float, 16, false)
SCAN_SUMS(f32, float, 32, false)
SCAN_SUMS(f32, float, 64, false)
SCAN_CHUNKS(selective_scan_backward_chunk_ends_f32_16_aligned, float, 4, true, true, false, false)
SCAN_CHUNKS(selective_scan_backward_chunk_ends_f32_16, float, 4, true, false, false, false)
SCAN_CHUNKS(selective_scan_backward_chunk_ends_f32_32, float, 8, true, false, false, false)
SCAN_CHUNKS(selective_scan_backward_chunk_ends_f32_64, float, 16, true, false, false, false)
