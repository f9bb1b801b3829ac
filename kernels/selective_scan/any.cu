// Over a chunk's border: what some chunks leave, taken together. A thread has one state of one channel of one sequence.
#include "../common/dtype.cuh"
#include "params.h"

extern "C" __global__ void __launch_bounds__(256) selective_scan_fold(const __grid_constant__ ScanFold p) {
    const uint64_t i = uint64_t(blockIdx.x) * 256 + threadIdx.x;
    if (i >= uint64_t(p.batch) * p.d_inner * p.n_states) return;
    const uint32_t state = i % p.n_states;
    const uint64_t channel = i / p.n_states;
    const uint64_t at = channel / p.d_inner * p.sequence_stride + channel % p.d_inner * p.padded + state;
    float decay = 1.f, end = 0.f;
    for (uint32_t k = 0; k < p.count; k++) {
        const uint64_t item = p.first + (p.backward ? p.count - 1 - k : k);
        const float d = p.decays[at + item * p.item_stride];
        decay *= d;
        end = fmaf(d, end, p.ends[at + item * p.item_stride]);
    }
    if (p.decay) p.decay[i] = decay;
    p.end[i] = end;
}
