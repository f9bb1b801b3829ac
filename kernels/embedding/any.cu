#include "embedding.cuh"

// The sort.
constexpr int SORT_THREADS = 1024, SORT_WARPS = SORT_THREADS / 32, DIGITS = 256;

// The key of a position: its id, or `vocabulary` without one, behind all others.
__device__ __forceinline__ uint32_t key_of(const EmbeddingSort& p, uint64_t position) {
    return min(p.keys[position], p.vocabulary);
}

extern "C" __global__ void __launch_bounds__(SORT_THREADS)
    embedding_sort_count(const __grid_constant__ EmbeddingSort p) {
    __shared__ uint32_t counts[DIGITS];
    if (threadIdx.x < DIGITS) counts[threadIdx.x] = 0;
    __syncthreads();
    const uint64_t position = uint64_t(blockIdx.x) * SORT_THREADS + threadIdx.x;
    if (position < p.n) {
        const uint32_t id = p.keys[position];
        if (p.out_of_range && id >= p.vocabulary && id != NO_ID) atomicAdd(p.out_of_range, 1u);
        atomicAdd(&counts[key_of(p, position) >> p.shift & (DIGITS - 1)], 1u);
    }
    __syncthreads();
    if (threadIdx.x < DIGITS) p.counts[uint64_t(threadIdx.x) * p.n_blocks + blockIdx.x] = counts[threadIdx.x];
}

// Exclusive prefix sum over the 256 threads of a block; `total` of all. `sums` may be used again behind a barrier.
__device__ __forceinline__ uint32_t exclusive_sum(uint32_t x, uint32_t* sums, uint32_t& total) {
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint32_t sum = x;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
        const uint32_t left = __shfl_up_sync(~0u, sum, d);
        if (lane >= d) sum += left;
    }
    if (warp < DIGITS / 32 && lane == 31) sums[warp] = sum;
    __syncthreads();
    uint32_t before = 0;
    total = 0;
#pragma unroll
    for (int w = 0; w < DIGITS / 32; w++) {
        if (w < warp) before += sums[w];
        total += sums[w];
    }
    return before + sum - x;
}

// Prefix sums over blocks, a block for each digit.
extern "C" __global__ void __launch_bounds__(DIGITS) embedding_sort_scan(const __grid_constant__ EmbeddingSort p) {
    __shared__ uint32_t sums[DIGITS / 32];
    uint32_t* counts = p.counts + uint64_t(blockIdx.x) * p.n_blocks;
    uint32_t before = 0;
    for (uint32_t first = 0; first < p.n_blocks; first += DIGITS) {
        const uint32_t at = first + threadIdx.x;
        uint32_t total;
        const uint32_t exclusive = exclusive_sum(at < p.n_blocks ? counts[at] : 0, sums, total);
        if (at < p.n_blocks) counts[at] = before + exclusive;
        before += total;
        __syncthreads();
    }
    if (threadIdx.x == 0) p.totals[blockIdx.x] = before;
}

// A position's place: those of smaller digits, those of this digit in blocks before, in warps before, in lanes before.
extern "C" __global__ void __launch_bounds__(SORT_THREADS)
    embedding_sort_scatter(const __grid_constant__ EmbeddingSort p) {
    __shared__ uint32_t counts[SORT_WARPS][DIGITS], sums[DIGITS / 32], bases[DIGITS];
    const uint32_t t = threadIdx.x, lane = t % 32, warp = t / 32;
    for (int i = t; i < SORT_WARPS * DIGITS; i += SORT_THREADS) counts[i / DIGITS][i % DIGITS] = 0;
    uint32_t total;
    const uint32_t smaller = exclusive_sum(t < DIGITS ? p.totals[t] : 0, sums, total);
    if (t < DIGITS) bases[t] = smaller + p.counts[uint64_t(t) * p.n_blocks + blockIdx.x];
    __syncthreads();
    const uint64_t position = uint64_t(blockIdx.x) * SORT_THREADS + t;
    const bool valid = position < p.n;
    const uint32_t key = valid ? key_of(p, position) : 0;
    const uint32_t digit = valid ? key >> p.shift & (DIGITS - 1) : DIGITS;  // past the end: a digit of its own
    const uint32_t same = __match_any_sync(~0u, digit), rank = __popc(same & ((1u << lane) - 1));
    if (valid && rank == 0) counts[warp][digit] = __popc(same);
    __syncthreads();
    if (t < DIGITS) {
        uint32_t at = bases[t];
#pragma unroll 8
        for (int w = 0; w < SORT_WARPS; w++) {
            const uint32_t n = counts[w][t];
            counts[w][t] = at;
            at += n;
        }
    }
    __syncthreads();
    if (!valid) return;
    const uint32_t to = counts[warp][digit] + rank;
    p.to_keys[to] = key;
    p.to_rows[to] = p.rows ? p.rows[position] : uint32_t(position);
}
