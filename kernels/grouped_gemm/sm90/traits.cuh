// Tiles of both products: their sizes, where in shared memory everything lies, and what their parts are called. The parts are in
// scheduler.cuh, mainloop.cuh and epilogue.cuh.
#pragma once
#include "../../common/dependent_launch.cuh"
#include "../../common/wgmma.cuh"
#include "../k_grouped.cuh"
#include "../leaving_rows.cuh"
#include "../m_grouped.cuh"
#include "../tma.cuh"

namespace grouped_gemm {

constexpr int PANEL = 64;  // elements of a row of a box: 128 bytes, which the copy engine permutes as wgmma reads them
constexpr int WARPGROUP_ROWS = 64;

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

    static __device__ __forceinline__ void run(const MGrouped90& p, char* memory);
    template <typename Each> __device__ __forceinline__ void tiles(const Each& each) const;
    __device__ __forceinline__ void produce() const;
    __device__ __forceinline__ void produce_addend() const;
    __device__ __forceinline__ void consume() const;
    static __device__ __forceinline__ void start(float (&sums)[BN / 2], uint32_t a, uint32_t b, bool add);
    __device__ __forceinline__ void add_biases(const RowTile& rows, int n0, float (&sums)[BN / 2]) const;
    static __device__ __forceinline__ uint32_t this_warp() { return threadIdx.x / 32; }

    // What a lane of this warp has of a wide tile: a row, and how many columns of it there are. Rows of the next modality are
    // another tile's.
    struct Row {
        int64_t row;
        int columns;
    };
    __device__ __forceinline__ Row row_of(const RowTile& rows, int n0) const;
    __device__ __forceinline__ void ask(Leaving& leaving, const RowTile& rows, int n0) const;
    __device__ __forceinline__ void take(Leaving& leaving, const RowTile& rows, int n0, float (&sums)[BN / 2], Turn& turn) const;
    __device__ __forceinline__ void write(const RowTile& rows, int n0, float (&sums)[BN / 2], Turn& turn) const;
    __device__ __forceinline__ void write_rows(int row0, int n_rows, int column, uint32_t box, int thread) const;
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

    static __device__ __forceinline__ void run(const KGrouped90& p, char* memory);
    template <typename Each> __device__ __forceinline__ void sums(const Each& each) const;
    __device__ __forceinline__ void produce() const;
    __device__ __forceinline__ void consume() const;
    __device__ __forceinline__ uint32_t rows_at() const { return shared + CORNERS + threadIdx.x / 32 * Leaving::BYTES; }

    __device__ __forceinline__ void take(Leaving& leaving, T* to, uint32_t tile, const float (&sums)[BN / 2]) const;
    __device__ __forceinline__ float4* partial(uint32_t pair, uint32_t tile) const;
    __device__ __forceinline__ void write(uint32_t tile, uint32_t group, int fragment, const float* sums) const;
    template <typename G> __device__ __forceinline__ void write(G* to, uint32_t tile, int fragment, const float* sums) const;
    template <typename G> __device__ __forceinline__ void write4(G* to, const float4& v, int valid) const;
    static __device__ __forceinline__ void sum(const KGrouped90& p, char* memory);
    static __device__ __forceinline__ void keep_rows(uint32_t step, int valid);
};

}  // namespace grouped_gemm
