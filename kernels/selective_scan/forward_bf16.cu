#include "chunks.cuh"
#include "forward.cuh"
SCAN_FORWARD(selective_scan_forward_bf16_16_full, bf16, 4, 4, 8, true, true, true)
SCAN_FORWARD(selective_scan_forward_bf16_16_full_roomy, bf16, 4, 3, 16, true, true, true)
SCAN_FORWARD(selective_scan_forward_bf16_16_full_chunks, bf16, 4, 3, 16, true, true, true, true)
SCAN_FORWARD(selective_scan_forward_bf16_16_aligned, bf16, 4, 4, 8, true, false, true)
SCAN_FORWARD(selective_scan_forward_bf16_16, bf16, 4, 4, 8, false, false, true)
SCAN_FORWARD(selective_scan_forward_bf16_32, bf16, 8, 4, 16, false, false, false)
SCAN_FORWARD(selective_scan_forward_bf16_64, bf16, 16, 4, 16, false, false, false)
SCAN_CHUNKS(selective_scan_forward_chunk_ends_bf16_16_full, bf16, 4, false, true, true, false)
SCAN_CHUNKS(selective_scan_forward_chunk_ends_bf16_16_aligned, bf16, 4, false, true, false, false)
SCAN_CHUNKS(selective_scan_forward_chunk_ends_bf16_16, bf16, 4, false, false, false, false)
SCAN_CHUNKS(selective_scan_forward_chunk_ends_bf16_32, bf16, 8, false, false, false, false)
SCAN_CHUNKS(selective_scan_forward_chunk_ends_bf16_64, bf16, 16, false, false, false, false)
