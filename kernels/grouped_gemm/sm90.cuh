// The grouped products on compute capability 9.0: one thread asks for bulk copies into a ring of shared memory, and
// warpgroups multiply by wgmma what has arrived, 64 rows of the tile each.
//
// m_grouped: blocks stay and take tiles in turn. A tile leaves by way of shared memory, as copies that go on while the next
// one is multiplied: of a wide one its rows, one after the other, else boxes. What it is added to comes the same way, asked
// for before the tile is done, boxes by a thread of their own. Where the sum is short (dt_proj forward, x_proj's input
// gradient) a block takes column tiles of the same 256 rows, which stay in shared memory meanwhile (SHORT), and only weights
// are loaded for each. A copy may bring rows of the next modality behind those of a tile: they are multiplied, and not
// written.
// k_grouped: rows of the next modality would enter the sum, and are zeroed in shared memory.
#pragma once
#include "sm90/epilogue.cuh"
#include "sm90/mainloop.cuh"
#include "sm90/scheduler.cuh"
#include "sm90/traits.cuh"

#define M_GROUPED_90(NAME, T, FORWARD, BN, WARPGROUPS, STAGES, SHORT, BLOCKS)                                                  \
    extern "C" __constant__ const uint32_t NAME##_shared_bytes =                                                               \
        grouped_gemm::MGrouped90Tile<T, FORWARD, BN, WARPGROUPS, STAGES, SHORT, BLOCKS>::SHARED_BYTES;                         \
    extern "C" __global__ void __launch_bounds__(grouped_gemm::THREADS_90<WARPGROUPS, BLOCKS>, BLOCKS)                         \
        NAME(const __grid_constant__ MGrouped90 p) {                                                                           \
        extern __shared__ __align__(1024) char memory[];                                                                       \
        grouped_gemm::MGrouped90Tile<T, FORWARD, BN, WARPGROUPS, STAGES, SHORT, BLOCKS>::run(p, memory);                       \
    }
#define IN_CLUSTERS_OF_1
#define IN_CLUSTERS_OF_2 __cluster_dims__(2, 1, 1)
#define K_GROUPED_90(NAME, SUM, T, WARPGROUPS, BN, STAGES, CLUSTER)                                                            \
    extern "C" __constant__ const uint32_t NAME##_shared_bytes =                                                               \
        grouped_gemm::KGrouped90Tile<T, WARPGROUPS, BN, STAGES, CLUSTER>::SHARED_BYTES;                                        \
    extern "C" __constant__ const uint32_t SUM##_shared_bytes =                                                                \
        grouped_gemm::KGrouped90Tile<T, WARPGROUPS, BN, STAGES, CLUSTER>::CORNERS_BYTES;                                       \
    extern "C" __global__ void IN_CLUSTERS_OF_##CLUSTER __launch_bounds__(grouped_gemm::THREADS_90<WARPGROUPS, 1>, 1)          \
        NAME(const __grid_constant__ KGrouped90 p) {                                                                           \
        extern __shared__ __align__(1024) char memory[];                                                                       \
        grouped_gemm::KGrouped90Tile<T, WARPGROUPS, BN, STAGES, CLUSTER>::run(p, memory);                                      \
    }                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(WARPGROUPS * 128) SUM(const __grid_constant__ KGrouped90 p) {                 \
        extern __shared__ __align__(1024) char memory[];                                                                       \
        grouped_gemm::KGrouped90Tile<T, WARPGROUPS, BN, STAGES, CLUSTER>::sum(p, memory);                                      \
    }

// What the Rust side launches, of one element type.
#define EVERY_GROUPED_90(T)                                                                                                    \
    M_GROUPED_90(sm90_m_grouped_forward_n64_##T, T, true, 64, 2, 3, false, 2)                                                  \
    M_GROUPED_90(sm90_m_grouped_forward_n80_##T, T, true, 80, 2, 3, false, 2)                                                  \
    M_GROUPED_90(sm90_m_grouped_forward_n128_##T, T, true, 128, 2, 6, false, 1)                                                \
    M_GROUPED_90(sm90_m_grouped_forward_n160_##T, T, true, 160, 2, 5, false, 1)                                                \
    M_GROUPED_90(sm90_m_grouped_forward_n256_##T, T, true, 256, 2, 3, false, 1)                                                \
    M_GROUPED_90(sm90_m_grouped_forward_short_##T, T, true, 128, 4, 10, true, 1)                                               \
    M_GROUPED_90(sm90_m_grouped_input_n64_##T, T, false, 64, 2, 3, false, 2)                                                   \
    M_GROUPED_90(sm90_m_grouped_input_n80_##T, T, false, 80, 2, 2, false, 2)                                                   \
    M_GROUPED_90(sm90_m_grouped_input_n128_##T, T, false, 128, 2, 6, false, 1)                                                 \
    M_GROUPED_90(sm90_m_grouped_input_n160_##T, T, false, 160, 2, 4, false, 1)                                                 \
    M_GROUPED_90(sm90_m_grouped_input_n256_##T, T, false, 256, 2, 3, false, 1)                                                 \
    M_GROUPED_90(sm90_m_grouped_input_short_##T, T, false, 128, 4, 10, true, 1)                                                \
    K_GROUPED_90(sm90_k_grouped_n64_##T, sm90_k_grouped_sum_n64_##T, T, 2, 64, 9, 1)                                           \
    K_GROUPED_90(sm90_k_grouped_n80_##T, sm90_k_grouped_sum_n80_##T, T, 2, 80, 7, 1)                                           \
    K_GROUPED_90(sm90_k_grouped_n128_##T, sm90_k_grouped_sum_n128_##T, T, 2, 128, 7, 2)                                        \
    K_GROUPED_90(sm90_k_grouped_n160_##T, sm90_k_grouped_sum_n160_##T, T, 2, 160, 5, 2)                                        \
    K_GROUPED_90(sm90_k_grouped_n192_##T, sm90_k_grouped_sum_n192_##T, T, 3, 192, 4, 1)                                        \
    K_GROUPED_90(sm90_k_grouped_n256_##T, sm90_k_grouped_sum_n256_##T, T, 2, 256, 3, 2)
