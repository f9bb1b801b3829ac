#include "f32.cuh"
extern "C" __global__ void __launch_bounds__(attention_f32::THREADS) attention_forward_f32(const __grid_constant__ AttentionForward p) {
    attention_f32::forward(p);
}
extern "C" __global__ void __launch_bounds__(attention_f32::THREADS) attention_backward_q_f32(const __grid_constant__ AttentionBackward p) {
    attention_f32::backward_q(p);
}
extern "C" __global__ void __launch_bounds__(attention_f32::THREADS) attention_backward_kv_f32(const __grid_constant__ AttentionBackward p) {
    attention_f32::backward_kv(p);
}
