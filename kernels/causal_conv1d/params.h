// Arguments of the convolution kernels, as crates/mom-kernels/src/cuda/causal_conv1d/params.rs has them. Strides in bytes.
#pragma once
#include <cuda/std/cstddef>
#include <cuda/std/cstdint>

struct ConvInputs {
    const cuda::std::uint32_t* row_of_position;  // [batch * seqlen] or null: rows are positions
    const cuda::std::uint8_t* document_starts;   // [batch * seqlen] or null
    const void* x;                               // rows
    const float *weight, *bias, *initial_state;  // (d_inner, d_conv), (d_inner) or null, (batch, d_conv - 1, d_inner) or null
    cuda::std::uint32_t batch, seqlen, d_inner, d_conv, silu, x_stride;
};
static_assert(sizeof(ConvInputs) == 72 && offsetof(ConvInputs, batch) == 48 && offsetof(ConvInputs, x_stride) == 68);

struct ConvForward {
    ConvInputs in;
    void* out;          // rows
    float* last_state;  // (batch, d_conv - 1, d_inner) or null
    cuda::std::uint32_t out_stride;
    cuda::std::uint32_t stretch;  // positions of a stretch, in `forward_stateless`
};
static_assert(sizeof(ConvForward) == 96 && offsetof(ConvForward, out) == 72 && offsetof(ConvForward, stretch) == 92);

struct ConvBackward {
    ConvInputs in;
    const void* grad_out;          // rows
    const float* grad_last_state;  // or null
    void* grad_x;                  // rows
    void* out;                     // rows: the forward pass's output, or null
    float* grad_initial_state;     // or null
    float* partial;                // (n_partials, 5, d_inner): four taps, then the bias
    float* edges;  // (n_stretches, 6, d_inner): grad_x of a stretch's first and last three, or null: in its rows
    float *grad_weight, *grad_bias;  // (d_inner, d_conv), (d_inner) or null
    cuda::std::uint32_t grad_out_stride, grad_x_stride, out_stride, n_partials;
};
static_assert(sizeof(ConvBackward) == 160 && offsetof(ConvBackward, partial) == 112);
static_assert(offsetof(ConvBackward, grad_out_stride) == 144);
