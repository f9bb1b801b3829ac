// Arguments of the attention kernels. Strides in bytes.
#pragma once
#include <cuda/std/cstddef>
#include <cuda/std/cstdint>

// Rows of q, k and v are (n_heads, head_dim). Within a sequence the query at t meets the keys key_first[t] .. key_end[t], and
// the key at s is met by the queries query_first[s] .. query_end[s]: one mask, seen from both sides. None of the four falls
// along a sequence.
struct AttentionInputs {
    const cuda::std::uint32_t* row_of_position;  // [batch * seqlen] or null: rows are positions
    const cuda::std::uint32_t *key_first, *key_end, *query_first, *query_end;  // [batch * seqlen], positions of the sequence
    const void *q, *k, *v;                       // rows
    cuda::std::uint32_t batch, seqlen, n_heads, head_dim, q_stride, k_stride, v_stride;
    float scale;  // of a product of q and k
};
static_assert(sizeof(AttentionInputs) == 96 && offsetof(AttentionInputs, q) == 40 && offsetof(AttentionInputs, batch) == 64);

struct AttentionForward {
    AttentionInputs in;
    void* out;   // rows
    float* lse;  // (batch, n_heads, seqlen): log of the sum of exponentials
    cuda::std::uint64_t out_stride;
};
static_assert(sizeof(AttentionForward) == 120 && offsetof(AttentionForward, out) == 96);

struct AttentionBackward {
    AttentionInputs in;
    const void *out, *grad_out;            // rows
    const float* lse;                      // (batch, n_heads, seqlen)
    float* delta;                          // (batch, n_heads, seqlen): sum of out * grad_out; written with grad_q, then read
    void *grad_q, *grad_k, *grad_v;        // rows
    cuda::std::uint32_t out_stride, grad_out_stride, grad_q_stride, grad_k_stride, grad_v_stride, unused;
};
static_assert(sizeof(AttentionBackward) == 176 && offsetof(AttentionBackward, out) == 96 && offsetof(AttentionBackward, out_stride) == 152);
