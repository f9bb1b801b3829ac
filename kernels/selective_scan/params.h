// Arguments of the scan kernels, as crates/mom-kernels/src/ops/selective_scan/cuda/abi.rs has them. Strides in bytes.
#pragma once
#include <cuda/std/cstdint>
#include <cuda/std/cstddef>

struct ScanLayout {
    const cuda::std::uint32_t* row_of_position;  // [batch * seqlen] or null: rows are positions
    const cuda::std::uint8_t* document_starts;   // [batch * seqlen] or null
    const cuda::std::uint32_t* bias_offsets;     // [n_biases + 1] or null: one bias
    cuda::std::uint32_t batch, seqlen, d_inner, d_state, n_biases, softplus;
};
static_assert(sizeof(ScanLayout) == 48 && offsetof(ScanLayout, batch) == 24 && offsetof(ScanLayout, softplus) == 44);

struct ScanInputs {
    ScanLayout layout;
    const void *u, *dt, *z, *B, *C;  // rows; z may be null
    const float *A, *D, *dt_bias;    // (d_inner, d_state), (d_inner) or null, (n_biases, d_inner) or null
    cuda::std::uint32_t u_stride, dt_stride, z_stride, B_stride, C_stride;
    cuda::std::uint32_t chunk;  // steps of the chunks that a sequence is cut into, a multiple of 32; the last has the rest
};
static_assert(sizeof(ScanInputs) == 136 && offsetof(ScanInputs, u) == 48 && offsetof(ScanInputs, A) == 88);
static_assert(offsetof(ScanInputs, u_stride) == 112 && offsetof(ScanInputs, chunk) == 132);

// What each chunk leaves for those behind it, or before it in the backward pass: see chunks.cuh.
struct ScanChunks {
    ScanInputs in;
    const void* grad_out;  // rows; of the backward pass
    float* chunks;         // (2, batch * n_chunks, d_inner, padded d_state): decays, then states
    cuda::std::uint32_t grad_out_stride;
    cuda::std::uint32_t all;  // also the chunk that nothing of the sequence is behind, or before in the backward pass
};
static_assert(sizeof(ScanChunks) == 160 && offsetof(ScanChunks, grad_out_stride) == 152);

// What items (chunks of a sequence, or whole parts of it) leave, one after the other: end = decay before + end of each, from zero.
struct ScanFold {
    const float *decays, *ends;  // of an item: (d_inner, padded d_state)
    float* decay;                // (batch, d_inner, n_states): their product; or null
    float* end;                  // (batch, d_inner, n_states)
    cuda::std::uint64_t item_stride, sequence_stride;  // elements between what items and sequences leave
    cuda::std::uint32_t batch, d_inner, padded, n_states, first, count, backward, unused;  // backward: the last item first
};
static_assert(sizeof(ScanFold) == 80 && offsetof(ScanFold, item_stride) == 32 && offsetof(ScanFold, batch) == 48);
static_assert(offsetof(ScanFold, backward) == 72);

struct ScanForward {
    ScanInputs in;
    const float* initial_state;  // (batch, d_inner, d_state) or null
    void* out;                   // rows
    float* last_state;           // (batch, d_inner, d_state) or null
    float* saved_states;         // (batch, ceil(seqlen / 16), d_inner, d_state padded to 16, 32 or 64) or null
    cuda::std::uint64_t out_stride;
    const float* chunks;  // as ScanChunks; read where there is more than one
};
static_assert(sizeof(ScanForward) == 184 && offsetof(ScanForward, chunks) == 176);

struct ScanBackward {
    ScanInputs in;
    const float* saved_states;
    const float* grad_last_state;  // or null
    const void* grad_out;          // rows
    void *grad_u, *grad_dt, *grad_z, *out;  // rows; grad_z and out may be null
    float* grad_initial_state;              // or null
    // (blocks of channels, rows, 2 padded d_state): of the first n_lent blocks in lent_bc, of the others in partial_bc, which
    // begins where the first block's would lie before them.
    float *lent_bc, *partial_bc;
    float* partial_a;   // (batch * n_chunks, d_inner, padded d_state)
    float* partial_d;   // (batch * n_chunks, d_inner)
    float* partial_bias;  // (batch * n_chunks, n_biases, d_inner); by the kernels that sum the biases' gradients
    cuda::std::uint32_t grad_out_stride, grad_u_stride, grad_dt_stride, grad_z_stride, out_stride, n_rows;
    const float* chunks;  // as ScanChunks; read where there is more than one
    cuda::std::uint32_t n_lent, unused;
};
static_assert(sizeof(ScanBackward) == 280 && offsetof(ScanBackward, grad_out) == 152);
static_assert(offsetof(ScanBackward, partial_bc) == 208 && offsetof(ScanBackward, grad_out_stride) == 240);
static_assert(offsetof(ScanBackward, chunks) == 264);

struct ScanSums {
    const float *lent_bc, *partial_bc;  // as ScanBackward
    const float *partial_a, *partial_d, *partial_bias;
    void *grad_B, *grad_C;  // rows
    float *grad_A, *grad_D, *grad_bias;  // grad_D and grad_bias may be null
    cuda::std::uint64_t grad_B_stride, grad_C_stride;
    cuda::std::uint64_t n_rows;
    cuda::std::uint32_t n_blocks, n_parts, d_inner, d_state, n_biases, n_lent;  // n_parts: batch * n_chunks
};
static_assert(sizeof(ScanSums) == 128 && offsetof(ScanSums, grad_B_stride) == 80 && offsetof(ScanSums, n_blocks) == 104);

struct ScanStep {
    ScanInputs in;
    float* state;  // (batch, d_inner, d_state), in and out
    void* out;     // rows
    cuda::std::uint64_t out_stride;
};
static_assert(sizeof(ScanStep) == 160 && offsetof(ScanStep, state) == 136);
