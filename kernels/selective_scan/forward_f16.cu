#include "chunks.cuh"
#include "forward.cuh"
SCAN_FORWARD(selective_scan_forward_f16_16_full, f16, 4, 4, 8, true, true, false)
SCAN_FORWARD(selective_scan_forward_f16_16_full_roomy, f16, 4, 3, 16, true, true, false)
SCAN_FORWARD(selective_scan_forward_f16_16_full_chunks, f16, 4, 3, 16, true, true, false, true)
SCAN_FORWARD(selective_scan_forward_f16_16_aligned, f16, 4, 4, 16, true, false, false)
SCAN_FORWARD(selective_scan_forward_f16_16, f16, 4, 4, 16, false, false, false)
SCAN_FORWARD(selective_scan_forward_f16_32, f16, 8, 4, 16, false, false, false)
SCAN_FORWARD(selective_scan_forward_f16_64, f16, 16, 4, 16, false, false, false)
SCAN_CHUNKS(selective_scan_forward_chunk_ends_f16_16_full, f16, 4, false, true, true, false)
SCAN_CHUNKS(selective_scan_forward_chunk_ends_f16_16_aligned, f16, 4, false, true, false, false)
SCAN_CHUNKS(selective_scan_forward_chunk_ends_f16_16, f16, 4, false, false, false, false)
SCAN_CHUNKS(selective_scan_forward_chunk_ends_f16_32, f16, 8, false, false, false, false)
SCAN_CHUNKS(selective_scan_forward_chunk_ends_f16_64, f16, 16, false, false, false, false)
