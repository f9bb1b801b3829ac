// One thread asks for what a step needs, and warpgroups multiply what has arrived.
#pragma once
#include "traits.cuh"

namespace grouped_gemm {

template <typename T, bool FORWARD, int BN, int WARPGROUPS, int STAGES, bool SHORT, int BLOCKS>
__device__ __forceinline__ void MGrouped90Tile<T, FORWARD, BN, WARPGROUPS, STAGES, SHORT, BLOCKS>::run(const MGrouped90& p, char* memory) {
    uint32_t* offsets = reinterpret_cast<uint32_t*>(memory + OFFSETS);
    const MGrouped90Tile tile{p, offsets, uint32_t(__cvta_generic_to_shared(memory)), int(p.k + BK - 1) / BK};
    if (threadIdx.x <= p.n_groups) offsets[threadIdx.x] = offset(p.offsets, p.n_rows, threadIdx.x);
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES + ROW_SLOTS + BOXES; i++) {
            barrier_init(tile.full(i), 1);
            barrier_init(tile.empty(i), i < STAGES + ROW_SLOTS ? CONSUMERS / 32 : 1);
        }
        barrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x < CONSUMERS) {
        take_registers<WARPGROUPS, BLOCKS>();
        tile.consume();
    } else {
        give_registers<WARPGROUPS, BLOCKS>();
        if (threadIdx.x == CONSUMERS) tile.produce();
        if (!ROWS_LEAVE && threadIdx.x == CONSUMERS + 32 && p.add) tile.produce_addend();
    }
}

template <typename T, bool FORWARD, int BN, int WARPGROUPS, int STAGES, bool SHORT, int BLOCKS>
__device__ __forceinline__ void MGrouped90Tile<T, FORWARD, BN, WARPGROUPS, STAGES, SHORT, BLOCKS>::produce() const {
    Turn turn, row_turn;
    tiles([&](const RowTile& rows, uint32_t first, uint32_t last) {
        const TensorMap& weight = p.weights[rows.group];
        if constexpr (SHORT) {
            const uint32_t barrier = full(row_barrier(row_turn.slot)), to = rows_at(row_turn.slot);
            barrier_wait(empty(row_barrier(row_turn.slot)), row_turn.parity ^ 1);
            barrier_expect(barrier, n_steps * A_BYTES);
            for (int step = 0; step < n_steps; step++) load_box(to + step * A_BYTES, p.x, step * BK, int(rows.row), barrier);
            row_turn.next(row_slots());
        }
        for (uint32_t tile = first; tile < last; tile++) {
            const int n0 = int(tile) * BN;
            for (int step = 0; step < n_steps; step++, turn.next(stages())) {
                uint32_t to = ring() + turn.slot * STAGE_BYTES;
                const uint32_t barrier = full(turn.slot);
                barrier_wait(empty(turn.slot), turn.parity ^ 1);
                barrier_expect(barrier, STAGE_BYTES);
                if constexpr (!SHORT) {
                    load_box(to, p.x, step * BK, int(rows.row), barrier);
                    to += A_BYTES;
                }
                if constexpr (FORWARD) {
                    load_box(to, weight, step * BK, n0, barrier);
                } else {
#pragma unroll
                    for (int i = 0; i < PANELS; i++) load_box(to + i * BK * 128, weight, n0 + i * PANEL, step * BK, barrier);
                }
            }
        }
    });
}

// What tiles are added to, in the order in which their boxes leave.
template <typename T, bool FORWARD, int BN, int WARPGROUPS, int STAGES, bool SHORT, int BLOCKS>
__device__ __forceinline__ void MGrouped90Tile<T, FORWARD, BN, WARPGROUPS, STAGES, SHORT, BLOCKS>::produce_addend() const {
    Turn turn;
    tiles([&](const RowTile& rows, uint32_t first, uint32_t last) {
        const int n_columns = min(int(last) * BN, int(p.n));
        for (int column = int(first) * BN; column < n_columns; column += PANEL, turn.next(2))
            for (int i = 0; i < WARPGROUPS; i++) {
                const uint32_t slot = 2 * i + turn.slot, barrier = full(box_barrier(slot));
                barrier_wait(empty(box_barrier(slot)), turn.parity ^ 1);
                barrier_expect(barrier, BOX_BYTES);
                load_box(box(slot), p.addend, column, int(rows.row) + i * WARPGROUP_ROWS, barrier);
            }
    });
}

template <typename T, bool FORWARD, int BN, int WARPGROUPS, int STAGES, bool SHORT, int BLOCKS>
__device__ __forceinline__ void MGrouped90Tile<T, FORWARD, BN, WARPGROUPS, STAGES, SHORT, BLOCKS>::consume() const {
    const uint32_t lane = threadIdx.x % 32, warpgroup = threadIdx.x / WARPGROUP, a_offset = warpgroup * WARPGROUP_ROWS * 128;
    Turn turn, row_turn, box_turn;
    Leaving leaving;
    // All have left in the steps of a tile, or in half of them, so that the other half brings the addend.
    const int rows_a_step = ((p.add ? 2 : 1) * Leaving::ROWS + n_steps - 1) / n_steps;
    tiles([&](const RowTile& rows, uint32_t first, uint32_t last) {
        if constexpr (SHORT) barrier_wait(full(row_barrier(row_turn.slot)), row_turn.parity);
#pragma unroll 1
        for (uint32_t tile = first; tile < last; tile++) {
            float sums[BN / 2];
            uint32_t before = 0;
#pragma unroll 1
            for (int step = 0; step < n_steps; step++, turn.next(stages())) {
                barrier_wait(full(turn.slot), turn.parity);
                const uint32_t slot = ring() + turn.slot * STAGE_BYTES;
                const uint32_t a = (SHORT ? rows_at(row_turn.slot) + step * A_BYTES : slot) + a_offset;
                start(sums, a, SHORT ? slot : slot + A_BYTES, step > 0);
                if (step > 0) {
                    wgmma_wait<1>();
                    if (lane == 0) barrier_arrive(empty(before));
                }
                before = turn.slot;
                if constexpr (ROWS_LEAVE) {
                    if (p.add && leaving.next == Leaving::ROWS) ask(leaving, rows, int(tile) * BN);
#pragma unroll 1
                    for (int i = 0; i < rows_a_step; i++) leaving.leave(box(this_warp()));
                }
            }
            if constexpr (ROWS_LEAVE) {
                if (p.add && leaving.next != Leaving::ASKED) ask(leaving, rows, int(tile) * BN);
                if (!p.add) leaving.all_leave(box(this_warp()));
            }
            finish(sums);
            if (lane == 0) {
                barrier_arrive(empty(before));
                if (SHORT && tile + 1 == last) barrier_arrive(empty(row_barrier(row_turn.slot)));
            }
            if constexpr (ROWS_LEAVE) take(leaving, rows, int(tile) * BN, sums, box_turn);
            else write(rows, int(tile) * BN, sums, box_turn);
        }
        row_turn.next(row_slots());
    });
    if constexpr (ROWS_LEAVE) leaving.all_leave(box(this_warp()));
    else if (threadIdx.x % WARPGROUP == 0) store_wait_read<0>();
}

// Starts the product of a step, which is the first or adds to what is there; the caller waits. Past the end of the sum
// there are zeros: a branch around them would make every instruction wait for the one before.
template <typename T, bool FORWARD, int BN, int WARPGROUPS, int STAGES, bool SHORT, int BLOCKS>
__device__ __forceinline__ void MGrouped90Tile<T, FORWARD, BN, WARPGROUPS, STAGES, SHORT, BLOCKS>::start(float (&sums)[BN / 2], uint32_t a, uint32_t b, bool add) {
    wgmma_fence();
#pragma unroll
    for (int kk = 0; kk < BK / 16; kk++)
        Wgmma<T, BN, false, !FORWARD>::run(sums, wgmma_matrix(a + kk * 32, 16),
                                           wgmma_matrix(b + kk * (FORWARD ? 32 : 2048), FORWARD ? 16 : BK * 128), add || kk > 0);
    wgmma_commit();
}

template <typename T, int WARPGROUPS, int BN, int STAGES, int CLUSTER>
__device__ __forceinline__ void KGrouped90Tile<T, WARPGROUPS, BN, STAGES, CLUSTER>::run(const KGrouped90& p, char* memory) {
    uint32_t* offsets = reinterpret_cast<uint32_t*>(memory + OFFSETS);
    const KGrouped90Tile tile{p, offsets, reinterpret_cast<float*>(memory + CORNERS), uint32_t(__cvta_generic_to_shared(memory))};
    if (threadIdx.x <= p.n_groups) offsets[threadIdx.x] = offset(p.offsets, p.n_rows, threadIdx.x);
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(tile.full(i), 1);
            barrier_init(tile.empty(i), CLUSTER * CONSUMERS / 32);
        }
        barrier_init_fence();
    }
    if constexpr (CLUSTER > 1) cluster_barrier();
    else __syncthreads();
    launch_dependents();
    if (threadIdx.x < CONSUMERS) {
        take_registers<WARPGROUPS, 1>();
        tile.consume();
        // Others may have yet to say here that a slot is free.
        if constexpr (CLUSTER > 1) cluster_barrier();
    } else {
        give_registers<WARPGROUPS, 1>();
        if (threadIdx.x == CONSUMERS) tile.produce();
    }
}

template <typename T, int WARPGROUPS, int BN, int STAGES, int CLUSTER>
__device__ __forceinline__ void KGrouped90Tile<T, WARPGROUPS, BN, STAGES, CLUSTER>::produce() const {
    Turn turn;
    const uint64_t once = read_once();
    sums([&](uint32_t tile, uint32_t, const Segment& segment) {
        const int a0 = int(tile / p.b_tiles) * COLUMNS, b0 = int(tile % p.b_tiles) * BN;
        for (uint32_t row = segment.first; row < segment.last; row += BK, turn.next(STAGES)) {
            const uint32_t a = shared + turn.slot * STAGE_BYTES, b = a + A_PANELS * PANEL_BYTES, barrier = full(turn.slot);
            barrier_wait(empty(turn.slot), turn.parity ^ 1);
            barrier_expect(barrier, STAGE_BYTES);
#pragma unroll
            for (int i = 0; i < A_PANELS; i++) {
                // Where b is one tile wide, nobody else reads this part of a.
                if constexpr (NARROW) load_box(a + i * PANEL_BYTES, p.a, a0 + i * PANEL, int(row), barrier, once);
                else load_box(a + i * PANEL_BYTES, p.a, a0 + i * PANEL, int(row), barrier);
            }
#pragma unroll
            for (int i = 0; i < B_PANELS; i++)
                load_box_to_all<CLUSTER>(b + i * PANEL_BYTES + rank() * SHARE_BYTES, p.b, b0 + i * PANEL,
                                         int(row + rank() * SHARE_ROWS), barrier);
        }
    });
}

template <typename T, int WARPGROUPS, int BN, int STAGES, int CLUSTER>
__device__ __forceinline__ void KGrouped90Tile<T, WARPGROUPS, BN, STAGES, CLUSTER>::consume() const {
    const uint32_t a_offset = threadIdx.x / WARPGROUP * PANEL_BYTES;
    Turn turn;
    Leaving leaving;
    sums([&](uint32_t tile, uint32_t split, const Segment& segment) {
        const uint32_t first = segment.first, last = segment.last;
        float sums[BN / 2];
        uint32_t before = 0;
#pragma unroll 1
        for (uint32_t row = first; row < last; row += BK, turn.next(STAGES)) {
            barrier_wait(full(turn.slot), turn.parity);
            const uint32_t a = shared + turn.slot * STAGE_BYTES, b = a + A_PANELS * PANEL_BYTES;
            if (last - row < BK) keep_rows(a, int(last - row));
            wgmma_fence();
#pragma unroll
            for (int kk = 0; kk < BK / 16; kk++)
                Wgmma<T, BN, true, true>::run(sums, wgmma_matrix(a + a_offset + kk * 2048, PANEL_BYTES),
                                              wgmma_matrix(b + kk * 2048, PANEL_BYTES), row > first || kk > 0);
            wgmma_commit();
            if (row > first) {
                wgmma_wait<1>();
                release<CLUSTER>(empty(before));
            }
            before = turn.slot;
            if constexpr (ROWS_LEAVE) leaving.leave(rows_at());
        }
        const bool rows_leave = ROWS_LEAVE && segment.whole && p.rows_leave;
        if (rows_leave) leaving.all_leave(rows_at());
        finish(sums);
        if (first < last) {
            release<CLUSTER>(empty(before));
        } else {
#pragma unroll
            for (int i = 0; i < BN / 2; i++) sums[i] = 0.f;
        }
        if (rows_leave) {
            take(leaving, static_cast<T*>(p.grads[segment.group]), tile, sums);
        } else if (segment.whole) {
#pragma unroll
            for (int j = 0; j < FRAGMENTS; j += AT_ONCE) write(tile, segment.group, j, sums + 4 * j);
        } else {
            // As the threads hold them: `sum` finds the places.
            float4* to = partial(split + segment.group, tile);
#pragma unroll
            for (int j = 0; j < FRAGMENTS; j++) {
                const float* v = sums + 4 * j;
                to[j * CONSUMERS] = make_float4(v[0], v[1], v[2], v[3]);
            }
        }
    });
    if constexpr (ROWS_LEAVE) leaving.all_leave(rows_at());
}

// Zeroes the rows of a step from `valid` on, in every panel of both operands.
template <typename T, int WARPGROUPS, int BN, int STAGES, int CLUSTER>
__device__ __forceinline__ void KGrouped90Tile<T, WARPGROUPS, BN, STAGES, CLUSTER>::keep_rows(uint32_t step, int valid) {
    const int words = (BK - valid) * 8;  // of 16 bytes
    for (int i = threadIdx.x; i < (A_PANELS + B_PANELS) * words; i += CONSUMERS) {
        const uint32_t at = step + i / words * PANEL_BYTES + valid * 128 + i % words * 16;
        asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(at), "r"(0) : "memory");
    }
    fence_shared();
    asm volatile("bar.sync 1, %0;" ::"n"(CONSUMERS) : "memory");
}

}  // namespace grouped_gemm
