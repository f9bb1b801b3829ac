#include "backward.cuh"
#include "forward.cuh"
ATTENTION_FORWARD(attention_forward_bf16, bf16, 64)
ATTENTION_BACKWARD(attention_backward_q_bf16, bf16, 64, backward_q)
ATTENTION_BACKWARD(attention_backward_kv_bf16, bf16, 64, backward_kv)
