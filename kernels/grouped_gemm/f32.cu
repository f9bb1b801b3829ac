#include "f32.cuh"

extern "C" __global__ void __launch_bounds__(grouped_gemm::THREADS) m_grouped_forward_n64_f32(const __grid_constant__ MGrouped p) {
    __shared__ grouped_gemm::F32Shared s;
    grouped_gemm::f32_m_grouped<true>(p, s);
}
extern "C" __global__ void __launch_bounds__(grouped_gemm::THREADS) m_grouped_input_n64_f32(const __grid_constant__ MGrouped p) {
    __shared__ grouped_gemm::F32Shared s;
    grouped_gemm::f32_m_grouped<false>(p, s);
}
extern "C" __global__ void __launch_bounds__(grouped_gemm::THREADS) k_grouped_n64_f32(const __grid_constant__ KGrouped p) {
    __shared__ grouped_gemm::F32Shared s;
    grouped_gemm::f32_k_grouped(p, s);
}
K_GROUPED_SUM(k_grouped_sum_f32, float, 1)
K_GROUPED_SUM(k_grouped_sum_vector_f32, float, 4)
