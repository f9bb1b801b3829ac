// Rows by a matrix: out_proj onto the residual stream, in place, or the head behind the last norm.
#pragma once
#include "rows.cuh"

namespace mixer_step {

template <typename T, int ROWS, bool HEAD> struct ProductKernel {
    static constexpr int THREADS = mixer_step::THREADS, BLOCKS = MIN_BLOCKS<T, ROWS>;
    static constexpr int K_MAX = HEAD ? 2048 : 4096;
    static constexpr int DEPTH = HEAD && OVERLAP ? 3 : ROWS == 1 ? 2 : 1;
    static constexpr int ITEMS = ROWS == 1 ? 1 : TILE * ROWS / 32;
    static constexpr int TILES = HEAD && ROWS == 1 ? 4 : 1;  // between two barriers
    using Out = std::conditional_t<HEAD, float, T>;

    struct Shared {
        alignas(16) unsigned char ring[Ring<T, DEPTH>::BYTES];
        alignas(16) unsigned char x[Inputs<T>::room(ROWS, K_MAX) * sizeof(T)];
        Parts<ROWS, TILES> parts;
        float squares[WARPS];
    };

    static __device__ __forceinline__ void run(const StepProduct& p, unsigned char* memory) {
        launch_dependents();
        Shared& shared = *reinterpret_cast<Shared*>(memory);
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        const int rows = p.rows, n = p.n, k = p.k;
        const int n_tiles = (n + TILE - 1) / TILE;
        const int first = int64_t(n_tiles) * blockIdx.x / gridDim.x, last = int64_t(n_tiles) * (blockIdx.x + 1) / gridDim.x;
        const int units = (k + Unit<T>::K - 1) / Unit<T>::K, turns = (units + WARPS - 1) / WARPS * WARPS;
        const T* weight = static_cast<const T*>(p.weight);

        using R = Ring<T, DEPTH>;
        R ring(shared.ring);
        constexpr int STEP = WARPS * Unit<T>::K;
        int tile = first, next = warp * Unit<T>::K + R::column();
        const T* from = weight + (int64_t(first) * TILE + R::row()) * k + next;
        auto fetch = [&]() {
            if (tile < last) {
                ring.fetch(from, from + int64_t(8) * k, n - tile * TILE, n - tile * TILE - 8, k, next < k);
                from += STEP;
                next += STEP;
                if (next >= turns * Unit<T>::K) {
                    tile++;
                    from += int64_t(TILE) * k - turns * Unit<T>::K;
                    next -= turns * Unit<T>::K;
                }
            }
            ring.commit();
        };
        ring.fill(fetch);
        Inputs<T> x(reinterpret_cast<T*>(shared.x), rows, k);
        x.pad(k);
        using N = Norm<T, ROWS, K_MAX>;
        if constexpr (HEAD) {
            N norm(p.norm, k);
            wait_for_launch_before();
            norm.run(static_cast<const T*>(p.x), p.eps, k, x, shared.squares);
        } else {
            constexpr int V = Unit<T>::VECTOR;
            wait_for_launch_before();
            const int vectors = k / V;
            for (int i = threadIdx.x; i < rows * vectors; i += THREADS) {
                const int row = i / vectors, at = i % vectors * V;
                *reinterpret_cast<Vec<T, V>*>(x.rows + row * x.stride + at) =
                    load_fresh(static_cast<const T*>(p.x) + int64_t(row) * k + at);
            }
        }
        __syncthreads();

        Out* to = static_cast<Out*>(p.out);
        int turn = 0;
#pragma unroll 1
        for (int start = first; start < last; start += TILES, turn ^= 1) {
            const int end = min(start + TILES, last);
#pragma unroll 1
            for (int at = start; at < end; at++) {
                Sums<T, ROWS> sums;
#pragma unroll 1
                for (int i = warp; i < turns; i += WARPS) {
                    ring.wait();
                    multiply(sums, ring, x, i * Unit<T>::K, i < units ? Unit<T>::CHUNKS : 0);
                    ring.release();
                    fetch();
                }
                sums.finish();
                shared.parts.put(sums, turn, at - start, rows);
            }
            // A tile for each of the next warps.
            const int mine = (warp - (start - first) % WARPS + WARPS) % WARPS, column = (start + mine) * TILE + lane % TILE;
            const bool has = mine < end - start;
            float before[ITEMS];
#pragma unroll
            for (int i = 0; i < ITEMS; i++) {
                const int row = lane / TILE + 2 * i;
                const bool there = has && column < n && row < rows;
                before[i] = there && p.bias ? p.bias[column] : 0.f;
                if constexpr (!HEAD) {
                    if (there) before[i] += load_fresh_one(to + int64_t(row) * n + column);
                }
            }
            __syncthreads();
            if (!has) continue;
            const float r = HEAD ? N::later(shared.squares, p.eps, k) : 1.f;
#pragma unroll
            for (int i = 0; i < ITEMS; i++) {
                const int row = lane / TILE + 2 * i;
                if (column < n && row < rows)
                    to[int64_t(row) * n + column] =
                        from_f32<Out>(fmaf(shared.parts.total(turn, mine, lane % TILE, row), r, before[i]));
            }
        }
    }
};

}  // namespace mixer_step
