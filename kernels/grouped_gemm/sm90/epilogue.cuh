// What becomes of a tile's sums: biases, the addend, rows or boxes that leave by way of shared memory, partial sums and their
// addition in the second launch.
#pragma once
#include "traits.cuh"

namespace grouped_gemm {

template <typename T, bool FORWARD, int BN, int WARPGROUPS, int STAGES, bool SHORT, int BLOCKS>
__device__ __forceinline__ void MGrouped90Tile<T, FORWARD, BN, WARPGROUPS, STAGES, SHORT, BLOCKS>::add_biases(const RowTile& rows, int n0, float (&sums)[BN / 2]) const {
    if (!p.biases) return;
    const int lane = threadIdx.x % 32;
    const float* bias = p.biases + int64_t(rows.group) * p.n;
#pragma unroll
    for (int j = 0; j < BN / 8; j++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int column = n0 + j * 8 + lane % 4 * 2 + i;
            const float b = column < int(p.n) ? __ldg(bias + column) : 0.f;
            sums[4 * j + i] += b;
            sums[4 * j + 2 + i] += b;
        }
}

template <typename T, bool FORWARD, int BN, int WARPGROUPS, int STAGES, bool SHORT, int BLOCKS>
__device__ __forceinline__ typename MGrouped90Tile<T, FORWARD, BN, WARPGROUPS, STAGES, SHORT, BLOCKS>::Row MGrouped90Tile<T, FORWARD, BN, WARPGROUPS, STAGES, SHORT, BLOCKS>::row_of(const RowTile& rows, int n0) const {
    uint32_t thread = threadIdx.x;
    asm volatile("" : "+r"(thread));  // computed where it is asked for: it holds no registers meanwhile
    const uint32_t row = thread / 32 * Leaving::ROWS + thread % Leaving::ROWS;
    return {int64_t(rows.row) + row, row < rows.n_rows ? min(BN, int(p.n) - n0) : 0};
}

// What the tile is added to.
template <typename T, bool FORWARD, int BN, int WARPGROUPS, int STAGES, bool SHORT, int BLOCKS>
__device__ __forceinline__ void MGrouped90Tile<T, FORWARD, BN, WARPGROUPS, STAGES, SHORT, BLOCKS>::ask(Leaving& leaving, const RowTile& rows, int n0) const {
    const Row row = row_of(rows, n0);
    const T* from = static_cast<const T*>(p.addend_rows) + row.row * p.addend_stride + n0;
    leaving.ask(box(this_warp()), from, row.columns, full(box_barrier(this_warp())));
}

// The tile to where it leaves from.
template <typename T, bool FORWARD, int BN, int WARPGROUPS, int STAGES, bool SHORT, int BLOCKS>
__device__ __forceinline__ void MGrouped90Tile<T, FORWARD, BN, WARPGROUPS, STAGES, SHORT, BLOCKS>::take(Leaving& leaving, const RowTile& rows, int n0, float (&sums)[BN / 2], Turn& turn) const {
    add_biases(rows, n0, sums);
    const Row row = row_of(rows, n0);
    leaving.to = static_cast<T*>(p.to) + row.row * p.y_stride + n0;
    leaving.columns = row.columns;
    if (p.add) {
        barrier_wait(full(box_barrier(this_warp())), turn.parity);
        turn.next(1);
        leaving.template take<true>(box(this_warp()), sums);
    } else {
        leaving.template take<false>(box(this_warp()), sums);
    }
}

// Each warpgroup writes its 64 rows, 64 columns at a time: a box in shared memory that a copy takes away. Rows of the next
// modality are another tile's; where they follow, the threads write.
template <typename T, bool FORWARD, int BN, int WARPGROUPS, int STAGES, bool SHORT, int BLOCKS>
__device__ __forceinline__ void MGrouped90Tile<T, FORWARD, BN, WARPGROUPS, STAGES, SHORT, BLOCKS>::write(const RowTile& rows, int n0, float (&sums)[BN / 2], Turn& turn) const {
    int thread = threadIdx.x % WARPGROUP;
    asm volatile("" : "+r"(thread));  // places are computed here, for each tile: they hold no registers meanwhile
    const int warpgroup = threadIdx.x / WARPGROUP, lane = thread % 32, row0 = int(rows.row) + warpgroup * WARPGROUP_ROWS;
    const int n_rows = int(rows.n_rows) - warpgroup * WARPGROUP_ROWS;
    const bool by_copy = n_rows >= WARPGROUP_ROWS || rows.row + rows.n_rows == p.n_rows;
    add_biases(rows, n0, sums);
    // This lane's row of 8 x 8 matrices in a box.
    const uint32_t matrix = thread / 32 * 2048 + lane % 16 * 128 + ((lane / 16 ^ lane % 8) << 4);
#pragma unroll
    for (int panel = 0; panel < PANELS; panel++) {
        const int column = n0 + panel * PANEL, n_columns = int(p.n) - column;
        if (n_columns <= 0) break;
        const uint32_t slot = 2 * warpgroup + turn.slot, at = box(slot);
        if (p.add) {
            barrier_wait(full(box_barrier(slot)), turn.parity);
        } else {
            if (thread == 0) store_wait_read<1>();
            warpgroup_barrier();
        }
#pragma unroll
        for (int j = 0; j < PANEL / 8; j += 2) {
            if (panel * PANEL + j * 8 >= BN) break;
            // The upper and the lower rows of a column block, then of the next one.
            const float* v = sums + (panel * PANEL / 8 + j) * 4;
            const uint32_t to = at + (matrix ^ j * 16);
            uint32_t words[4];
            if (p.add) {
                uint32_t old[4];
                ldmatrix4<false>(old, to);
                onto_words<T>(words, old, v);
            } else {
                to_words<T>(words, v);
            }
            store_matrix4(to, words);
        }
        if (by_copy) {
            fence_shared();
            warpgroup_barrier();
            if (thread == 0 && n_rows > 0) store_box(p.y, column, row0, at);
        } else {
            warpgroup_barrier();
            write_rows(row0, n_rows, column, at, thread);
            if (p.add) warpgroup_barrier();
        }
        if (thread == 0) {
            store_commit();  // of nothing, where the threads wrote: what waits counts one for each box
            if (p.add) {
                store_wait_read<0>();
                barrier_arrive(empty(box_barrier(slot)));
            }
        }
        turn.next(2);
    }
}

// `n_rows` rows of a box, by the threads of its warpgroup.
template <typename T, bool FORWARD, int BN, int WARPGROUPS, int STAGES, bool SHORT, int BLOCKS>
__device__ __forceinline__ void MGrouped90Tile<T, FORWARD, BN, WARPGROUPS, STAGES, SHORT, BLOCKS>::write_rows(int row0, int n_rows, int column, uint32_t box, int thread) const {
#pragma unroll 1
    for (int i = thread; i < n_rows * (PANEL / 8); i += WARPGROUP) {
        const int row = i / (PANEL / 8), chunk = i % (PANEL / 8), n = int(p.n) - column - chunk * 8;
        Vec<T, 8> v;
        asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(v.words[0]), "=r"(v.words[1]), "=r"(v.words[2]), "=r"(v.words[3])
                     : "r"(box + row * 128 + ((chunk ^ row % 8) << 4)) : "memory");
        T* to = static_cast<T*>(p.to) + (int64_t(row0) + row) * p.y_stride + column + chunk * 8;
        if (n >= 8) store_vec<true, T, 8>(to, v, 8);
        else if (n > 0) store_vec<false, T, 8>(to, v, n);
    }
}

// A whole gradient to where it leaves from.
template <typename T, int WARPGROUPS, int BN, int STAGES, int CLUSTER>
__device__ __forceinline__ void KGrouped90Tile<T, WARPGROUPS, BN, STAGES, CLUSTER>::take(Leaving& leaving, T* to, uint32_t tile, const float (&sums)[BN / 2]) const {
    uint32_t thread = threadIdx.x;
    asm volatile("" : "+r"(thread));  // places are computed here: they hold no registers meanwhile
    const uint32_t a = tile / p.b_tiles * COLUMNS + thread / 32 * 16 + thread % 16, b = tile % p.b_tiles * BN;
    leaving.to = to + a * p.to_a + b;
    leaving.columns = a < p.a_width ? min(BN, int(p.b_width) - int(b)) : 0;
    leaving.template take<false>(rows_at(), sums);
}

// This thread's first fragment of a partial sum; the others are CONSUMERS apart.
template <typename T, int WARPGROUPS, int BN, int STAGES, int CLUSTER>
__device__ __forceinline__ float4* KGrouped90Tile<T, WARPGROUPS, BN, STAGES, CLUSTER>::partial(uint32_t pair, uint32_t tile) const {
    return reinterpret_cast<float4*>(p.partial) + (uint64_t(pair) * p.n_tiles + tile) * (FRAGMENTS * CONSUMERS) + threadIdx.x;
}

// Writes AT_ONCE fragments of a warp's sums, from `fragment` on.
template <typename T, int WARPGROUPS, int BN, int STAGES, int CLUSTER>
__device__ __forceinline__ void KGrouped90Tile<T, WARPGROUPS, BN, STAGES, CLUSTER>::write(uint32_t tile, uint32_t group, int fragment, const float* sums) const {
    if (p.f32) write(static_cast<float*>(p.grads[group]), tile, fragment, sums);
    else write(static_cast<T*>(p.grads[group]), tile, fragment, sums);
}

template <typename T, int WARPGROUPS, int BN, int STAGES, int CLUSTER>
template <typename G>
__device__ __forceinline__ void KGrouped90Tile<T, WARPGROUPS, BN, STAGES, CLUSTER>::write(G* to, uint32_t tile, int fragment, const float* sums) const {
    const uint32_t lane = threadIdx.x % 32, row = lane / 4, column = lane % 4 * 2;
    const uint32_t a0 = tile / p.b_tiles * COLUMNS + threadIdx.x / 32 * 16, b0 = tile % p.b_tiles * BN + fragment * 8;
    if constexpr (NARROW) {
        const uint32_t a = a0 + row, b = b0 + column;
        if (b >= p.b_width) return;
        to += a * p.to_a + b * p.to_b;
#pragma unroll
        for (int half = 0; half < 2; half++, to += 8 * p.to_a) {
            if (a + 8 * half >= p.a_width) break;
            put(to, sums[2 * half]);
            if (b + 1 < p.b_width) put(to + p.to_b, sums[2 * half + 1]);
        }
    } else {
        float* corner = corners + threadIdx.x / 32 * CORNER;
        __syncwarp();
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++) {
            const float* v = sums + 4 * j;
            float* at = corner + row * PITCH + column + 8 * j;
            *reinterpret_cast<float2*>(at) = make_float2(v[0], v[1]);
            *reinterpret_cast<float2*>(at + 8 * PITCH) = make_float2(v[2], v[3]);
        }
        __syncwarp();
        // Four columns of b each, which lie side by side in a gradient; in the next turn four columns of a further on.
        const uint32_t a = a0 + lane / 8, b = b0 + lane % 8 * 4;
        const int n_a = int(p.a_width) - int(a), n_b = int(p.b_width) - int(b);
        const float* from = corner + lane / 8 * PITCH + lane % 8 * 4;
        to += a * p.to_a + b;
        const int64_t step = 4 * p.to_a;
        if (p.vector && a0 + 16 <= p.a_width && b0 + 8 * AT_ONCE <= p.b_width) {
            // No branch between the stores, and registers for each: they do not wait for each other.
            float4 v[4];
#pragma unroll
            for (int i = 0; i < 4; i++) v[i] = *reinterpret_cast<const float4*>(from + 4 * i * PITCH);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float sums[4] = {v[i].x, v[i].y, v[i].z, v[i].w};
                store_vec<true, G, 4>(to + i * step, pack<G, 4>(sums), 4);
            }
        } else {
#pragma unroll 1
            for (int i = 0; 4 * i < min(n_a, 16); i++)
                write4(to + i * step, *reinterpret_cast<const float4*>(from + 4 * i * PITCH), n_b);
        }
    }
}

template <typename T, int WARPGROUPS, int BN, int STAGES, int CLUSTER>
template <typename G>
__device__ __forceinline__ void KGrouped90Tile<T, WARPGROUPS, BN, STAGES, CLUSTER>::write4(G* to, const float4& v, int valid) const {
    const float sums[4] = {v.x, v.y, v.z, v.w};
    if (p.vector) store_vec<true, G, 4>(to, pack<G, 4>(sums), valid);
    else
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (i < valid) put(to + i, sums[i]);
}

// The second launch, of CONSUMERS threads in blocks (tiles times FRAGMENTS / AT_ONCE, groups): adds a modality's partial
// sums, where it has more than one.
template <typename T, int WARPGROUPS, int BN, int STAGES, int CLUSTER>
__device__ __forceinline__ void KGrouped90Tile<T, WARPGROUPS, BN, STAGES, CLUSTER>::sum(const KGrouped90& p, char* memory) {
    constexpr int AHEAD = NARROW ? 8 : 4;  // splits on their way
    const KGrouped90Tile sums{p, nullptr, reinterpret_cast<float*>(memory), 0};
    const uint32_t fragment = blockIdx.x % (FRAGMENTS / AT_ONCE) * AT_ONCE, tile = blockIdx.x / (FRAGMENTS / AT_ONCE);
    const uint32_t group = blockIdx.y;
    const uint32_t first = offset(p.offsets, p.n_rows, group), last = offset(p.offsets, p.n_rows, group + 1);
    const uint32_t before = group * p.border_rows;  // as `segments` cuts
    const uint32_t begin = (first + before) / p.rows_per_split, end = (last - 1 + before) / p.rows_per_split;
    if (first >= last || begin == end) {
        // What is launched behind this grid waits for this grid alone: it must not end before the first launch has.
        wait_for_launch_before();
        return;
    }
    float sum[4 * AT_ONCE];
#pragma unroll
    for (int i = 0; i < 4 * AT_ONCE; i++) sum[i] = 0.f;
    const float4* from = sums.partial(begin + group, tile) + fragment * CONSUMERS;
    const uint64_t step = uint64_t(p.n_tiles) * (FRAGMENTS * CONSUMERS);
    wait_for_launch_before();
    for (uint32_t split = begin; split <= end; split += AHEAD, from += AHEAD * step) {
        float4 x[AHEAD][AT_ONCE];
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
#pragma unroll
            for (int j = 0; j < AT_ONCE; j++)
                x[i][j] = split + i <= end ? from[i * step + j * CONSUMERS] : make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
#pragma unroll
            for (int j = 0; j < AT_ONCE; j++) {
                sum[4 * j] += x[i][j].x;
                sum[4 * j + 1] += x[i][j].y;
                sum[4 * j + 2] += x[i][j].z;
                sum[4 * j + 3] += x[i][j].w;
            }
    }
    sums.write(tile, group, int(fragment), sum);
}

}  // namespace grouped_gemm
