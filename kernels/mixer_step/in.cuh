// u = SiLU(conv(in_proj(norm(x)))) and z, and what each block's channels of u add to x_proj's output.
//
// A block owns channels, by tiles of 8: the rows of in_proj that make them in u and in z are one tile of a product. Its
// columns of x_proj then need nothing of other blocks; the scan's kernel adds up what the blocks leave.
#pragma once
#include "rows.cuh"

namespace mixer_step {

template <typename T, int ROWS> struct InKernel {
    static constexpr int THREADS = mixer_step::THREADS, BLOCKS = MIN_BLOCKS<T, ROWS>;
    static constexpr int CHANNELS = 8;  // of a tile
    static constexpr int CHANNELS_MAX = 256, K_MAX = 2048;
    // One block of this kernel, one of the product behind the scan and one of the scan fit on a multiprocessor, not two of
    // this one: so each has one of the next kernel's, whose copies are on their way.
    static constexpr int DEPTH = (ROWS == 1 ? 2 : 1) * (OVERLAP ? 2 : 1);
    static constexpr int ITEMS = ROWS == 1 ? 1 : 2;  // rows of a lane behind the product
    static constexpr int TILES = ROWS == 1 ? 4 : 1;  // between two barriers

    struct Shared {
        alignas(16) unsigned char ring[Ring<T, DEPTH>::BYTES];
        alignas(16) unsigned char x[Inputs<T>::room(ROWS, K_MAX) * sizeof(T)];
        alignas(16) unsigned char u[Inputs<T>::room(ROWS, CHANNELS_MAX) * sizeof(T)];
        Parts<ROWS, TILES> parts;
        float squares[WARPS];
    };

    // What the conv of a lane's channel and rows reads. Taps are aligned to the present: absent ones are zero.
    struct Conv {
        float taps[4], bias, past[ITEMS][3], bias_x, bias_z;

        __device__ __forceinline__ Conv(const StepIn& p, int channel, int row) {
            const int absent = 4 - int(p.d_conv);
#pragma unroll
            for (int j = 0; j < 4; j++) taps[j] = j >= absent ? p.conv_weight[int64_t(channel) * p.d_conv + j - absent] : 0.f;
            bias = p.conv_bias ? p.conv_bias[channel] : 0.f;
            bias_x = p.in_bias ? p.in_bias[channel] : 0.f;
            bias_z = p.in_bias ? p.in_bias[p.d_inner + channel] : 0.f;
#pragma unroll
            for (int i = 0; i < ITEMS; i++)
#pragma unroll
                for (int j = 0; j < 3; j++)
                    if (j >= absent && row + 4 * i < int(p.rows)) prefetch(place(p, channel, row + 4 * i, j));
        }
        // Behind the wait.
        __device__ __forceinline__ void read(const StepIn& p, int channel, int row) {
            const int absent = 4 - int(p.d_conv);
#pragma unroll
            for (int i = 0; i < ITEMS; i++)
#pragma unroll
                for (int j = 0; j < 3; j++)
                    past[i][j] = j >= absent && row + 4 * i < int(p.rows) ? load_fresh_one(place(p, channel, row + 4 * i, j)) : 0.f;
        }
        // Of the window's entry that tap j meets.
        static __device__ __forceinline__ float* place(const StepIn& p, int channel, int row, int j) {
            const int kept = int(p.d_conv) - 1;
            return p.window + (int64_t(row) * kept + j - (3 - kept)) * p.d_inner + channel;
        }
        __device__ __forceinline__ float step(const StepIn& p, int channel, int row, int i, float x) const {
            const int absent = 4 - int(p.d_conv);
            float out = fmaf(taps[3], x, bias);
#pragma unroll
            for (int j = 0; j < 3; j++) {
                out = fmaf(taps[j], past[i][j], out);
                if (j >= absent) *place(p, channel, row, j) = j < 2 ? past[i][j < 2 ? j + 1 : j] : x;
            }
            return out * sigmoid(out);
        }
    };

    static __device__ __forceinline__ void run(const StepIn& p, unsigned char* memory) {
        launch_dependents();
        Shared& shared = *reinterpret_cast<Shared*>(memory);
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        const int rows = p.rows, d_model = p.d_model, d_inner = p.d_inner;
        const int n_tiles = d_inner / CHANNELS;
        const int first = int64_t(n_tiles) * blockIdx.x / gridDim.x, last = int64_t(n_tiles) * (blockIdx.x + 1) / gridDim.x;
        const int channels = (last - first) * CHANNELS;
        const int units = (d_model + Unit<T>::K - 1) / Unit<T>::K, turns = (units + WARPS - 1) / WARPS * WARPS;
        const int x_units = (channels + Unit<T>::K - 1) / Unit<T>::K;
        const T* in_proj = static_cast<const T*>(p.in_proj);
        const T* x_proj = static_cast<const T*>(p.x_proj) + first * CHANNELS;

        // Units of this warp: of in_proj's tiles, every WARPS-th; then whole tiles of x_proj, every WARPS-th.
        using R = Ring<T, DEPTH>;
        R ring(shared.ring);
        constexpr int STEP = WARPS * Unit<T>::K;
        const int64_t to_z = int64_t(d_inner) * d_model;
        int tile = first, column = warp * Unit<T>::K + R::column();
        const T* from = in_proj + (int64_t(first) * CHANNELS + R::row()) * d_model + column;
        auto fetch = [&]() {
            if (tile < last) {
                ring.fetch(from, from + to_z, CHANNELS, CHANNELS, d_model, column < d_model);
                from += STEP;
                column += STEP;
                if (column >= turns * Unit<T>::K) {
                    tile++;
                    from += int64_t(CHANNELS) * d_model - turns * Unit<T>::K;
                    column -= turns * Unit<T>::K;
                    if (tile == last) column = R::column();
                }
            } else {
                const int row = (tile - last + warp) * TILE, there = int(p.width) - row;
                if (row < int(p.padded)) {
                    const T* low = x_proj + int64_t(row + R::row()) * d_inner + column;
                    ring.fetch(low, low + int64_t(8) * d_inner, there, there - 8, d_inner, column < channels);
                    column += Unit<T>::K;
                    if (column >= x_units * Unit<T>::K) {
                        tile += WARPS;
                        column = R::column();
                    }
                }
            }
            ring.commit();
        };
        ring.fill(fetch);
        using N = Norm<T, ROWS, K_MAX>;
        N norm(p.norm, d_model);
        // Each warp has a tile to finish, and the next ones where there are more.
        const int row = lane / 8;
        int channel = min(first + warp, last - 1) * CHANNELS + lane % 8;
        Conv conv(p, channel, row);
        Inputs<T> x(reinterpret_cast<T*>(shared.x), rows, d_model), u(reinterpret_cast<T*>(shared.u), rows, channels);
        u.pad(channels);
        x.pad(d_model);
        wait_for_launch_before();
        conv.read(p, channel, row);
        norm.run(static_cast<const T*>(p.x), p.eps, d_model, x, shared.squares);
        __syncthreads();

        auto take = [&](Sums<T, ROWS>& sums, const Inputs<T>& by, int k, int chunks) {
            ring.wait();
            multiply(sums, ring, by, k, chunks);
            ring.release();
            fetch();
        };
        int turn = 0;
#pragma unroll 1
        for (int start = first; start < last; start += TILES, turn ^= 1) {
            const int end = min(start + TILES, last);
#pragma unroll 1
            for (int at = start; at < end; at++) {
                Sums<T, ROWS> sums;
#pragma unroll 1
                for (int i = warp; i < turns; i += WARPS) take(sums, x, i * Unit<T>::K, i < units ? Unit<T>::CHUNKS : 0);
                sums.finish();
                shared.parts.put(sums, turn, at - start, rows);
            }
            // A tile for each of the next warps.
            const int mine = (warp - (start - first) % WARPS + WARPS) % WARPS, at = start + mine;
            if (mine < end - start && at - first >= WARPS) {
                channel = at * CHANNELS + lane % 8;
                conv = Conv(p, channel, row);
                conv.read(p, channel, row);
            }
            __syncthreads();
            if (mine >= end - start) continue;
            const float r = N::later(shared.squares, p.eps, d_model);
#pragma unroll
            for (int i = 0; i < ITEMS; i++) {
                const int n = row + 4 * i;
                if (n >= rows) break;
                const float xs = fmaf(shared.parts.total(turn, mine, lane % 8, n), r, conv.bias_x);
                const float zs = fmaf(shared.parts.total(turn, mine, lane % 8 + 8, n), r, conv.bias_z);
                // As the products over whole sequences do, what they leave is rounded to the element type.
                const T out = from_f32<T>(conv.step(p, channel, n, i, to_f32(from_f32<T>(xs))));
                u.rows[n * u.stride + (at - first) * CHANNELS + lane % 8] = out;
                static_cast<T*>(p.u)[int64_t(n) * d_inner + channel] = out;
                static_cast<T*>(p.z)[int64_t(n) * d_inner + channel] = from_f32<T>(zs);
            }
        }
        __syncthreads();
#pragma unroll 1
        for (int at = warp; at * TILE < int(p.padded); at += WARPS) {
            Sums<T, ROWS> sums;
#pragma unroll 1
            for (int i = 0; i < x_units; i++) {
                const int k = i * Unit<T>::K;
                take(sums, u, k, (channels - k + Unit<T>::CHUNK - 1) / Unit<T>::CHUNK);
            }
            sums.finish();
            each(sums, rows, [&](int row, int n, float sum) {
                p.partial[(int64_t(n) * gridDim.x + blockIdx.x) * p.padded + at * TILE + row] = sum;
            });
        }
    }
};

}  // namespace mixer_step
