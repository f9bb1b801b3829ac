// One step of the scan: x_proj's sums over blocks, dt_proj, the state, the gate. Eight threads have a channel of a row.
#pragma once
#include "ring.cuh"

namespace mixer_step {

// Blocks that share their sums, where there are clusters of blocks.
constexpr int CLUSTER = OVERLAP ? 8 : 1;

__device__ __forceinline__ int cluster_rank() {
    uint32_t rank = 0;
    if constexpr (CLUSTER > 1) asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
// All threads of a cluster; of a block, where it is alone.
__device__ __forceinline__ void cluster_arrive() {
    if constexpr (CLUSTER > 1) asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ __forceinline__ void cluster_wait() {
    if constexpr (CLUSTER > 1) {
        asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
    } else {
        __syncthreads();
    }
}
// What another block has in the place of `at`.
__device__ __forceinline__ float load_of_rank(const float* at, int rank) {
    if constexpr (CLUSTER > 1) {
        float x;
        asm volatile("{ .reg .u32 a; mapa.shared::cluster.u32 a, %1, %2; ld.shared::cluster.f32 %0, [a]; }"
                     : "=f"(x)
                     : "r"(shared_address(at)), "r"(rank)
                     : "memory");
        return x;
    }
    return *at;
}

// STATES: of a thread, at most.
template <typename T, int STATES> struct ScanKernel {
    static constexpr int PADDED_MAX = 768, THREADS = 512, BLOCKS = 2, TEAM = 8, CHANNELS = THREADS / TEAM, HELD = 2;
    static constexpr int AT_ONCE = CLUSTER > 1 ? 4 : 12;  // partial sums of a thread on their way
    static constexpr int V = Unit<T>::VECTOR;

    struct Shared {
        float parts[4 * THREADS];
        float own[PADDED_MAX], sums[PADDED_MAX];
    };

    // Of a channel, what no kernel of the step writes.
    struct Constants {
        Vec<T, V> dt[HELD];
        float a[STATES], bias, skip;

        __device__ __forceinline__ Constants(const StepScan& p, int channel, int member) {
            const bool there = channel < int(p.d_inner);
            const T* weight = static_cast<const T*>(p.dt_proj) + int64_t(channel) * p.dt_rank;
#pragma unroll
            for (int i = 0; i < HELD; i++) {
                const int at = (i * TEAM + member) * V;
                if (there && p.dt_vector && at < int(p.dt_rank)) {
                    dt[i] = *reinterpret_cast<const Vec<T, V>*>(weight + at);
                } else {
                    dt[i].zero();
                }
            }
#pragma unroll
            for (int i = 0; i < STATES; i++) {
                const int n = i * TEAM + member;
                a[i] = there && n < int(p.d_state) ? p.a_log[int64_t(channel) * p.d_state + n] : 0.f;
            }
            bias = there && p.dt_bias ? p.dt_bias[channel] : 0.f;
            skip = there ? p.d_skip[channel] : 0.f;
        }
        // This thread's part of the channel's row of dt_proj by x_proj's first outputs.
        __device__ __forceinline__ float product(const StepScan& p, int channel, int member, const float* low) const {
            const T* weight = static_cast<const T*>(p.dt_proj) + int64_t(channel) * p.dt_rank;
            const int dt_rank = p.dt_rank;
            float sum = 0.f;
            if (!p.dt_vector) {
                for (int at = member; at < dt_rank; at += TEAM) sum = fmaf(to_f32(weight[at]), low[at], sum);
                return sum;
            }
#pragma unroll
            for (int i = 0; i < HELD; i++) {
                const int at = (i * TEAM + member) * V;
                if (at < dt_rank) {
#pragma unroll
                    for (int j = 0; j < V; j++) sum = fmaf(dt[i].get(j), low[at + j], sum);
                }
            }
            for (int at = (HELD * TEAM + member) * V; at < dt_rank; at += TEAM * V) {
                const Vec<T, V> more = *reinterpret_cast<const Vec<T, V>*>(weight + at);
#pragma unroll
                for (int j = 0; j < V; j++) sum = fmaf(more.get(j), low[at + j], sum);
            }
            return sum;
        }
    };

    // Of a channel in a row, what is read behind the wait.
    struct Values {
        float h[STATES], u, z;

        __device__ __forceinline__ Values(const StepScan& p, int channel, int row, int member) {
            const bool there = channel < int(p.d_inner);
            const int64_t at = int64_t(row) * p.d_inner + channel;
#pragma unroll
            for (int i = 0; i < STATES; i++) {
                const int n = i * TEAM + member;
                h[i] = there && n < int(p.d_state) ? load_fresh_one(p.state + at * p.d_state + n) : 0.f;
            }
            u = there ? load_fresh_one(static_cast<const T*>(p.u) + at) : 0.f;
            z = there ? load_fresh_one(static_cast<const T*>(p.z) + at) : 0.f;
        }
    };

    // x_proj's output for a row, rounded as the product over a whole sequence leaves it. Each block of a cluster adds up some
    // of the partial sums: what the second-level cache has to give is what this waits for.
    static __device__ __forceinline__ void add_up(const StepScan& p, int row, Shared& shared) {
        const int quads = p.padded / 4, groups = THREADS / quads, quad = threadIdx.x % quads, group = threadIdx.x / quads;
        const int rank = cluster_rank();
        const int begin = int(p.n_partials) * rank / CLUSTER, end = int(p.n_partials) * (rank + 1) / CLUSTER;
        if (group < groups) {
            const float* from = p.partial + int64_t(row) * p.n_partials * p.padded + quad * 4;
            float4 sum = {0.f, 0.f, 0.f, 0.f};
            // Several at once: each is an answer to wait for.
            for (int start = begin + group; start < end; start += groups * AT_ONCE) {
                float4 parts[AT_ONCE];
#pragma unroll
                for (int j = 0; j < AT_ONCE; j++) {
                    const int i = start + j * groups;
                    parts[j] = i < end ? __ldcg(reinterpret_cast<const float4*>(from + int64_t(i) * p.padded))
                                       : float4{0.f, 0.f, 0.f, 0.f};
                }
#pragma unroll
                for (int j = 0; j < AT_ONCE; j++) {
                    sum.x += parts[j].x;
                    sum.y += parts[j].y;
                    sum.z += parts[j].z;
                    sum.w += parts[j].w;
                }
            }
            *reinterpret_cast<float4*>(shared.parts + group * p.padded + quad * 4) = sum;
        }
        __syncthreads();
        for (int i = threadIdx.x; i < int(p.padded); i += THREADS) {
            float sum = 0.f;
            for (int g = 0; g < groups; g++) sum += shared.parts[g * p.padded + i];
            shared.own[i] = sum;
        }
        cluster_arrive();
        cluster_wait();
        for (int i = threadIdx.x; i < int(p.padded); i += THREADS) {
            float sum = 0.f;
#pragma unroll
            for (int r = 0; r < CLUSTER; r++) sum += load_of_rank(shared.own + i, r);
            shared.sums[i] = to_f32(from_f32<T>(sum));
        }
        // Nobody's memory goes before all have read it: the kernel ends behind the wait for this.
        cluster_arrive();
        __syncthreads();
    }

    static __device__ __forceinline__ float team_sum(float x) {
#pragma unroll
        for (int d = TEAM / 2; d >= 1; d /= 2) x += __shfl_xor_sync(~0u, x, d);
        return x;
    }

    static __device__ __forceinline__ void advance(const StepScan& p, int channel, int row, int member, const Constants& of,
                                                   const Values& values, const float* x_dbl) {
        const bool there = channel < int(p.d_inner);
        const float dt = team_sum(there ? of.product(p, channel, member, x_dbl) : 0.f);
        const float delta = softplus<sizeof(T) == 4>(dt + of.bias);
        const int64_t at = int64_t(row) * p.d_inner + channel;
        float y = 0.f;
#pragma unroll
        for (int i = 0; i < STATES; i++) {
            const int n = i * TEAM + member;
            if (there && n < int(p.d_state)) {
                const float B = x_dbl[p.dt_rank + n], C = x_dbl[p.dt_rank + p.d_state + n];
                const float decay = exp2_approx(delta * -expf(of.a[i]) * LOG2_E);
                const float next = fmaf(decay, values.h[i], delta * values.u * B);
                p.state[at * p.d_state + n] = next;
                y = fmaf(next, C, y);
            }
        }
        y = fmaf(of.skip, values.u, team_sum(y));
        if (there && member == 0) static_cast<T*>(p.y)[at] = from_f32<T>(y * values.z * sigmoid(values.z));
    }

    static __device__ __forceinline__ void run(const StepScan& p, unsigned char* memory) {
        launch_dependents();
        Shared& shared = *reinterpret_cast<Shared*>(memory);
        const int member = threadIdx.x % TEAM, row = blockIdx.y;
        const int first = blockIdx.x * p.channels, last = min(first + int(p.channels), int(p.d_inner));
        int channel = first + threadIdx.x / TEAM;
        const Constants of(p, channel, member);
        // A line's place in the second-level cache is no read: whoever writes it may be on the way.
        const float* state = p.state + (int64_t(row) * p.d_inner + channel) * p.d_state;
        if (channel < last && member * 32 < int(p.d_state)) prefetch(state + member * 32);
        wait_for_launch_before();
        const Values values(p, channel, row, member);
        add_up(p, row, shared);
        advance(p, channel, row, member, of, values, shared.sums);
        for (int next = first + CHANNELS; next < last; next += CHANNELS) {
            channel += CHANNELS;
            advance(p, channel, row, member, Constants(p, channel, member), Values(p, channel, row, member), shared.sums);
        }
        cluster_wait();
    }
};

}  // namespace mixer_step
