#include "chunks.cuh"
#include "forward.cuh"
SCAN_FORWARD(selective_scan_forward_f32_16_aligned, float, 4, 4, 16, true, false, false)
SCAN_FORWARD(selective_scan_forward_f32_16, float, 4, 4, 16, false, false, false)
SCAN_FORWARD(selective_scan_forward_f32_32, float, 8, 4, 16, false, false, false)
SCAN_FORWARD(selective_scan_forward_f32_64, float, 16, 4, 16, false, false, false)
SCAN_CHUNKS(selective_scan_forward_chunk_ends_f32_16_aligned, float, 4, false, true, false, false)
SCAN_CHUNKS(selective_scan_forward_chunk_ends_f32_16, float, 4, false, false, false, false)
SCAN_CHUNKS(selective_scan_forward_chunk_ends_f32_32, float, 8, false, false, false, false)
SCAN_CHUNKS(selective_scan_forward_chunk_ends_f32_64, float, 16, false, false, false, false)
