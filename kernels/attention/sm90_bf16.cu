#include "sm90/backward.cuh"
#include "sm90/forward.cuh"
ATTENTION_FORWARD_SM90(sm90_attention_forward_bf16, bf16)
ATTENTION_BACKWARD_SM90(sm90_attention_backward_q_bf16, bf16, backward_q, 2)
ATTENTION_BACKWARD_SM90(sm90_attention_backward_kv_bf16, bf16, backward_kv, 1)
