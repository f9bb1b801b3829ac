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
#include "../common/dependent_launch.cuh"
#include "k_grouped.cuh"
#include "leaving_rows.cuh"
#include "m_grouped.cuh"
#include "tma.cuh"
#include "wgmma.cuh"

namespace grouped_gemm {

constexpr int PANEL = 64;  // elements of a row of a box: 128 bytes, which the copy engine permutes as wgmma reads them
constexpr int WARPGROUP = 128, WARPGROUP_ROWS = 64;

// A block alone on its multiprocessor has a whole warpgroup that asks for copies, and leaves the others its registers; else
// two warps ask.
template <int WARPGROUPS, int BLOCKS> constexpr int THREADS_90 = WARPGROUPS * WARPGROUP + (BLOCKS == 1 ? WARPGROUP : 64);
template <int WARPGROUPS, int BLOCKS> __device__ __forceinline__ void take_registers() {
    if constexpr (BLOCKS == 1) asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(WARPGROUPS == 2 ? 232 : WARPGROUPS == 3 ? 160 : 112));
}
template <int WARPGROUPS, int BLOCKS> __device__ __forceinline__ void give_registers() {
    if constexpr (BLOCKS == 1) asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(WARPGROUPS == 2 ? 40 : 32));
}

// All threads of this one's warpgroup.
__device__ __forceinline__ void warpgroup_barrier() {
    asm volatile("bar.sync %0, %1;" ::"r"(1 + threadIdx.x / WARPGROUP), "n"(WARPGROUP) : "memory");
}

// This warp has read a slot that every block of its cluster writes.
template <int CLUSTER> __device__ __forceinline__ void release(uint32_t empty) {
    const uint32_t lane = threadIdx.x % 32;
    if constexpr (CLUSTER == 1) {
        if (lane == 0) barrier_arrive(empty);
    } else {
        if (lane < CLUSTER) barrier_arrive(empty, lane);
    }
}

// The products are complete, and the compiler reads no sum before.
template <int N> __device__ __forceinline__ void finish(float (&sums)[N]) {
    wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(sums[i])::"memory");
}

// SHORT: the rows of a tile stay, all steps of them, in front of a ring that has what they leave of SPACE; else they go
// through the ring as well.
template <typename T, bool FORWARD, int BN, int WARPGROUPS, int STAGES, bool SHORT, int BLOCKS> struct MGrouped90Tile {
    static constexpr int ROWS = WARPGROUPS * WARPGROUP_ROWS, CONSUMERS = WARPGROUPS * WARPGROUP, PANELS = (BN + PANEL - 1) / PANEL;
    static constexpr int A_BYTES = ROWS * 128, B_BYTES = FORWARD ? BN * 128 : PANELS * BK * 128;
    static constexpr int STAGE_BYTES = B_BYTES + (SHORT ? 0 : A_BYTES), SPACE = STAGES * STAGE_BYTES;
    // What is on its way in and out: rows of each warp, or two boxes for each warpgroup.
    static constexpr bool ROWS_LEAVE = BN == 256;
    using Leaving = LeavingRows<T, BN>;
    static constexpr int BOX_BYTES = ROWS_LEAVE ? Leaving::BYTES : WARPGROUP_ROWS * 128;
    static constexpr int BOXES = ROWS_LEAVE ? CONSUMERS / 32 : 2 * WARPGROUPS;
    static constexpr int BARRIERS = SPACE + BOXES * BOX_BYTES, ROW_SLOTS = SHORT ? 2 : 0;
    static constexpr int OFFSETS = BARRIERS + 16 * (STAGES + ROW_SLOTS + BOXES), SHARED_BYTES = OFFSETS + 4 * (MAX_MAPS + 1);
    static_assert(B_BYTES % 1024 == 0 && SHARED_BYTES <= (BLOCKS == 1 ? 232448 : 115200));

    const MGrouped90& p;
    const uint32_t* offsets;  // in shared memory
    const uint32_t shared;
    const int n_steps;

    // Barriers of a slot: filled, and free. First those of the ring, then of rows that stay, then of boxes.
    __device__ __forceinline__ uint32_t full(uint32_t slot) const { return shared + BARRIERS + 16 * slot; }
    __device__ __forceinline__ uint32_t empty(uint32_t slot) const { return full(slot) + 8; }
    __device__ __forceinline__ uint32_t box(uint32_t slot) const { return shared + SPACE + slot * BOX_BYTES; }
    static __device__ __forceinline__ uint32_t row_barrier(uint32_t slot) { return STAGES + slot; }
    static __device__ __forceinline__ uint32_t box_barrier(uint32_t slot) { return STAGES + ROW_SLOTS + slot; }

    // Of rows that stay a second slot where they are few.
    __device__ __forceinline__ uint32_t row_slots() const { return n_steps == 1 ? 2 : 1; }
    __device__ __forceinline__ uint32_t rows_at(uint32_t slot) const { return shared + slot * n_steps * A_BYTES; }
    __device__ __forceinline__ uint32_t ring() const { return SHORT ? shared + row_slots() * n_steps * A_BYTES : shared; }
    __device__ __forceinline__ uint32_t stages() const { return SHORT ? (SPACE - row_slots() * n_steps * A_BYTES) / STAGE_BYTES : STAGES; }

    static __device__ __forceinline__ void run(const MGrouped90& p, char* memory) {
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

    // Calls `each(rows, first, last)` for the rows of this block and their column tiles. Blocks that run at the same time
    // share rows and columns, and write whole rows: bands of rows, in each all columns.
    template <typename Each> __device__ __forceinline__ void tiles(const Each& each) const {
        constexpr uint32_t BAND = SHORT ? 1 : 8;
        const uint32_t m_tiles = (p.n_rows + ROWS - 1) / ROWS + p.n_groups - 1, per = SHORT ? p.tiles_at_once : 1;
        const uint32_t n_parts = (p.n_tiles + per - 1) / per;
        for (uint32_t i = blockIdx.x; i < m_tiles * n_parts; i += gridDim.x) {
            const uint32_t band = i / (BAND * n_parts), rest = i % (BAND * n_parts), height = min(BAND, m_tiles - band * BAND);
            const auto border = [&](uint32_t group) { return offsets[group]; };
            const RowTile rows = row_tile_of(border, p.n_groups, band * BAND + rest % height, ROWS);
            const uint32_t first = rest / height * per;
            if (rows.n_rows > 0) each(rows, first, min(first + per, p.n_tiles));
        }
    }

    __device__ __forceinline__ void produce() const {
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
    __device__ __forceinline__ void produce_addend() const {
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

    __device__ __forceinline__ void consume() const {
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
    static __device__ __forceinline__ void start(float (&sums)[BN / 2], uint32_t a, uint32_t b, bool add) {
        wgmma_fence();
#pragma unroll
        for (int kk = 0; kk < BK / 16; kk++)
            Wgmma<T, BN, false, !FORWARD>::run(sums, wgmma_matrix(a + kk * 32, 16),
                                               wgmma_matrix(b + kk * (FORWARD ? 32 : 2048), FORWARD ? 16 : BK * 128), add || kk > 0);
        wgmma_commit();
    }

    __device__ __forceinline__ void add_biases(const RowTile& rows, int n0, float (&sums)[BN / 2]) const {
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

    static __device__ __forceinline__ uint32_t this_warp() { return threadIdx.x / 32; }

    // What a lane of this warp has of a wide tile: a row, and how many columns of it there are. Rows of the next modality are
    // another tile's.
    struct Row {
        int64_t row;
        int columns;
    };
    __device__ __forceinline__ Row row_of(const RowTile& rows, int n0) const {
        uint32_t thread = threadIdx.x;
        asm volatile("" : "+r"(thread));  // computed where it is asked for: it holds no registers meanwhile
        const uint32_t row = thread / 32 * Leaving::ROWS + thread % Leaving::ROWS;
        return {int64_t(rows.row) + row, row < rows.n_rows ? min(BN, int(p.n) - n0) : 0};
    }

    // What the tile is added to.
    __device__ __forceinline__ void ask(Leaving& leaving, const RowTile& rows, int n0) const {
        const Row row = row_of(rows, n0);
        const T* from = static_cast<const T*>(p.addend_rows) + row.row * p.addend_stride + n0;
        leaving.ask(box(this_warp()), from, row.columns, full(box_barrier(this_warp())));
    }

    // The tile to where it leaves from.
    __device__ __forceinline__ void take(Leaving& leaving, const RowTile& rows, int n0, float (&sums)[BN / 2], Turn& turn) const {
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
    __device__ __forceinline__ void write(const RowTile& rows, int n0, float (&sums)[BN / 2], Turn& turn) const {
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
    __device__ __forceinline__ void write_rows(int row0, int n_rows, int column, uint32_t box, int thread) const {
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
};

// A tile is 64 columns of a for each warpgroup by BN of b. Blocks stay and take tiles in turn, split after split: those that
// run at the same time read the same rows. The CLUSTER blocks of a cluster take tiles side by side in a, and each loads a share
// of b's rows for all of them.
template <typename T, int WARPGROUPS, int BN, int STAGES, int CLUSTER> struct KGrouped90Tile {
    static constexpr int CONSUMERS = WARPGROUPS * WARPGROUP, COLUMNS = WARPGROUPS * PANEL;
    static constexpr int A_PANELS = WARPGROUPS, B_PANELS = (BN + PANEL - 1) / PANEL, PANEL_BYTES = BK * 128;
    static constexpr int STAGE_BYTES = (A_PANELS + B_PANELS) * PANEL_BYTES;
    static constexpr int SHARE_ROWS = BK / CLUSTER, SHARE_BYTES = PANEL_BYTES / CLUSTER;
    // Where both operands are wide, a warp writes 16 columns of a by 32 of b by way of shared memory, so that its stores take
    // whole lines. Narrow gradients are small, and little code (which comes from a cold cache) is worth more.
    static constexpr bool NARROW = BN <= 160;
    static constexpr int PITCH = 40, CORNER = NARROW ? 0 : 16 * PITCH, CORNERS_BYTES = CONSUMERS / 32 * CORNER * 4;
    // Of the widest tile a whole gradient of 16 bits leaves row by row.
    static constexpr bool ROWS_LEAVE = BN == 256;
    using Leaving = LeavingRows<T, BN>;
    static constexpr int ROWS_BYTES = ROWS_LEAVE ? CONSUMERS / 32 * Leaving::BYTES : 0;
    static constexpr int CORNERS = STAGES * STAGE_BYTES, OUT_BYTES = ROWS_BYTES > CORNERS_BYTES ? ROWS_BYTES : CORNERS_BYTES;
    static constexpr int BARRIERS = CORNERS + OUT_BYTES;
    static constexpr int OFFSETS = BARRIERS + 16 * STAGES, SHARED_BYTES = OFFSETS + 4 * (MAX_GROUPS + 1);
    // Of a thread: four sums each, of two columns of b in two of a. Four of them make the 32 columns of b.
    static constexpr int FRAGMENTS = BN / 8, AT_ONCE = NARROW ? 1 : 4;
    static_assert(SHARED_BYTES <= 232448 && THREADS_90<WARPGROUPS, 1> > MAX_GROUPS && FRAGMENTS % AT_ONCE == 0);

    const KGrouped90& p;
    const uint32_t* offsets;  // in shared memory
    float* corners;           // of every warp, in shared memory
    const uint32_t shared;

    __device__ __forceinline__ uint32_t full(uint32_t slot) const { return shared + BARRIERS + 16 * slot; }
    __device__ __forceinline__ uint32_t empty(uint32_t slot) const { return full(slot) + 8; }
    static __device__ __forceinline__ uint32_t rank() { return blockIdx.x % CLUSTER; }  // of this block in its cluster

    static __device__ __forceinline__ void run(const KGrouped90& p, char* memory) {
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

    // Calls `each(tile, split, segment)` for what this block sums. Blocks that run at the same time share rows and columns:
    // they take bands of tiles in a, in each all tiles in b.
    template <typename Each> __device__ __forceinline__ void sums(const Each& each) const {
        constexpr uint32_t BAND = BN == 256 ? 8 : 1;
        const uint32_t at_once = p.n_tiles / CLUSTER;  // of the cluster's blocks
        for (uint32_t i = blockIdx.x / CLUSTER; i < at_once * p.n_splits; i += gridDim.x / CLUSTER) {
            const uint32_t split = i / at_once, band = i % at_once / (BAND * p.b_tiles), rest = i % at_once % (BAND * p.b_tiles);
            const uint32_t height = min(BAND, at_once / p.b_tiles - band * BAND);
            const uint32_t tile = ((band * BAND + rest % height) * CLUSTER + rank()) * p.b_tiles + rest / height;
            const auto border = [&](uint32_t group) { return offsets[group]; };
            // Of a wide tile first what leaves as a whole, which has the rest of the split to do so.
#pragma unroll 1
            for (int partial = 0; partial < (NARROW ? 1 : 2); partial++)
                segments(p, border, p.border_rows, split, [&](const Segment& segment) {
                    if (NARROW || segment.whole == (partial == 0)) each(tile, split, segment);
                });
        }
    }

    __device__ __forceinline__ void produce() const {
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

    __device__ __forceinline__ void consume() const {
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

    __device__ __forceinline__ uint32_t rows_at() const { return shared + CORNERS + threadIdx.x / 32 * Leaving::BYTES; }

    // A whole gradient to where it leaves from.
    __device__ __forceinline__ void take(Leaving& leaving, T* to, uint32_t tile, const float (&sums)[BN / 2]) const {
        uint32_t thread = threadIdx.x;
        asm volatile("" : "+r"(thread));  // places are computed here: they hold no registers meanwhile
        const uint32_t a = tile / p.b_tiles * COLUMNS + thread / 32 * 16 + thread % 16, b = tile % p.b_tiles * BN;
        leaving.to = to + a * p.to_a + b;
        leaving.columns = a < p.a_width ? min(BN, int(p.b_width) - int(b)) : 0;
        leaving.template take<false>(rows_at(), sums);
    }

    // This thread's first fragment of a partial sum; the others are CONSUMERS apart.
    __device__ __forceinline__ float4* partial(uint32_t pair, uint32_t tile) const {
        return reinterpret_cast<float4*>(p.partial) + (uint64_t(pair) * p.n_tiles + tile) * (FRAGMENTS * CONSUMERS) + threadIdx.x;
    }

    // Writes AT_ONCE fragments of a warp's sums, from `fragment` on.
    __device__ __forceinline__ void write(uint32_t tile, uint32_t group, int fragment, const float* sums) const {
        if (p.f32) write(static_cast<float*>(p.grads[group]), tile, fragment, sums);
        else write(static_cast<T*>(p.grads[group]), tile, fragment, sums);
    }

    template <typename G> __device__ __forceinline__ void write(G* to, uint32_t tile, int fragment, const float* sums) const {
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

    template <typename G> __device__ __forceinline__ void write4(G* to, const float4& v, int valid) const {
        const float sums[4] = {v.x, v.y, v.z, v.w};
        if (p.vector) store_vec<true, G, 4>(to, pack<G, 4>(sums), valid);
        else
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (i < valid) put(to + i, sums[i]);
    }

    // The second launch, of CONSUMERS threads in blocks (tiles times FRAGMENTS / AT_ONCE, groups): adds a modality's partial
    // sums, where it has more than one.
    static __device__ __forceinline__ void sum(const KGrouped90& p, char* memory) {
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

    // Zeroes the rows of a step from `valid` on, in every panel of both operands.
    static __device__ __forceinline__ void keep_rows(uint32_t step, int valid) {
        const int words = (BK - valid) * 8;  // of 16 bytes
        for (int i = threadIdx.x; i < (A_PANELS + B_PANELS) * words; i += CONSUMERS) {
            const uint32_t at = step + i / words * PANEL_BYTES + valid * 128 + i % words * 16;
            asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(at), "r"(0) : "memory");
        }
        fence_shared();
        asm volatile("bar.sync 1, %0;" ::"n"(CONSUMERS) : "memory");
    }
};

}  // namespace grouped_gemm

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
