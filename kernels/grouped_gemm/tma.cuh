// Bulk tensor copies of compute capability 9.0, and the barriers in shared memory that they complete on.
#pragma once
#include "../common/dtype.cuh"
#include "params.h"

namespace grouped_gemm {

__device__ __forceinline__ void barrier_init(uint32_t at, uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(arrivals) : "memory");
}
// What was initialised is seen by the copy engine; a barrier of the block follows.
__device__ __forceinline__ void barrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void barrier_arrive(uint32_t at) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at) : "memory");
}
// At the barrier that has this place in another block of the cluster, or in this one.
__device__ __forceinline__ void barrier_arrive(uint32_t at, uint32_t rank) {
    asm volatile(
        "{\n"
        ".reg .b32 there;\n"
        "mapa.shared::cluster.u32 there, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
        "}" ::"r"(at), "r"(rank) : "memory");
}
// All threads of the cluster that have not ended.
__device__ __forceinline__ void cluster_barrier() {
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}
// Arrives, and lets the phase wait for `bytes` that copies will bring.
__device__ __forceinline__ void barrier_expect(uint32_t at, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
}
// Waits until the phase of this parity is complete.
__device__ __forceinline__ void barrier_wait(uint32_t at, uint32_t parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}" ::"r"(at), "r"(parity) : "memory");
}

// The box whose first element is (row, column); what lies outside of the matrix comes as zeros.
__device__ __forceinline__ void load_box(uint32_t to, const TensorMap& map, int column, int row, uint32_t barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(to),
                 "l"(&map), "r"(column), "r"(row), "r"(barrier) : "memory");
}
// The same of what is read once: it is the first that the second-level cache gives up.
__device__ __forceinline__ uint64_t read_once() {
    uint64_t policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0;" : "=l"(policy));
    return policy;
}
__device__ __forceinline__ void load_box(uint32_t to, const TensorMap& map, int column, int row, uint32_t barrier, uint64_t policy) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
        "l"(&map), "r"(column), "r"(row), "r"(barrier), "l"(policy) : "memory");
}
// Into the same place of all blocks of the cluster, where each one's barrier counts its bytes.
template <int CLUSTER> __device__ __forceinline__ void load_box_to_all(uint32_t to, const TensorMap& map, int column, int row, uint32_t barrier) {
    if constexpr (CLUSTER == 1) load_box(to, map, column, row, barrier);
    else
        asm volatile(
            "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
            "l"(&map), "r"(column), "r"(row), "r"(barrier), "h"(cuda::std::uint16_t((1 << CLUSTER) - 1)) : "memory");
}
// Bytes that lie side by side; multiples of 16, as both places are.
__device__ __forceinline__ void load_bytes(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from),
                 "r"(bytes), "r"(barrier) : "memory");
}
// The way back; what lies outside of the matrix is not written. Then `store_commit`, and before the shared memory is written
// again `store_wait_read`, by the same thread.
__device__ __forceinline__ void store_box(const TensorMap& map, int column, int row, uint32_t from) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&map), "r"(column), "r"(row),
                 "r"(from) : "memory");
}
__device__ __forceinline__ void store_bytes(void* to, uint32_t from, uint32_t bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// All but the last N commits have read their shared memory.
template <int N> __device__ __forceinline__ void store_wait_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}
// What was written to shared memory is seen by copies and by wgmma that follow a barrier.
__device__ __forceinline__ void fence_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Slots of shared memory that a producer fills and consumers free, in turn.
struct Turn {
    uint32_t slot = 0, parity = 0;
    __device__ __forceinline__ void next(uint32_t slots) {
        slot = slot + 1 == slots ? 0 : slot + 1;
        parity ^= slot == 0;
    }
};

}  // namespace grouped_gemm
