// Exponential moving averages of many tensors of weights in one launch: average += share (weight - average).
//
// A block owns 4096 elements of one tensor; 12 bytes a weight go in and out.
#include "../common/dtype.cuh"
#include "../common/entry_of_block.cuh"
#include "params.h"

constexpr int THREADS = 256, V = 4, CHUNK = 4096;

// Each product and sum rounded apart, as on the processor.
__device__ __forceinline__ float moved(float average, float weight, float share) {
    return __fadd_rn(average, __fmul_rn(share, __fsub_rn(weight, average)));
}

extern "C" __global__ void __launch_bounds__(THREADS) weight_average(const __grid_constant__ Averages p) {
    const Tensor& t = p.tensors[entry_of_block<128>(p.tensors, p.n_tensors)];
    const uint64_t begin = uint64_t(blockIdx.x - t.first_block) * CHUNK;
    const int left = int(min(t.len - begin, uint64_t(CHUNK)));
    float* average = t.average + begin;
    const float* weight = t.weight + begin;
    const bool aligned = (reinterpret_cast<uint64_t>(average) | reinterpret_cast<uint64_t>(weight)) % 16 == 0;
    const int n_vectors = aligned ? left / V : 0;
    for (int i = threadIdx.x; i < n_vectors; i += THREADS) {
        float4 a = reinterpret_cast<const float4*>(average)[i];
        const float4 w = reinterpret_cast<const float4*>(weight)[i];
        a.x = moved(a.x, w.x, p.share), a.y = moved(a.y, w.y, p.share);
        a.z = moved(a.z, w.z, p.share), a.w = moved(a.w, w.w, p.share);
        reinterpret_cast<float4*>(average)[i] = a;
    }
    for (int i = n_vectors * V + threadIdx.x; i < left; i += THREADS)
        average[i] = moved(average[i], weight[i], p.share);
}
