// Causal depthwise convolution along time, then SiLU: forward and backward.
//
// A thread owns V neighbouring channels and walks a stretch of 64 positions of one sequence, the window of the last three
// inputs in registers; the stretch before it gives the first three again. Narrower convolutions have taps of zero in front.
// A group of rows is in flight at a time, their places (the row map) one group ahead. Bytes: x in, out out (backward: x and
// the gradient in, the gradient out), plus 3 rows in 64 read again (backward: 6 and 3), from a cache.
#pragma once
#include "../common/dtype.cuh"
#include "../common/math.cuh"
#include "params.h"

namespace conv {

constexpr int TAPS = 4, HISTORY = TAPS - 1;
constexpr int LANES = 32, STRETCHES = 4;  // a block: lanes of V channels, stretches of time
constexpr int STRETCH = 64, GROUP = 4;  // positions of a stretch, but for `forward_stateless`; rows that are asked for at once

// Where a thread works.
template <int V> struct Place {
    int channel, valid;  // first channel, how many there are
    uint32_t sequence;
    int begin, end;    // of its stretch; empty past the last one
    uint64_t stretch;  // its number

    __device__ __forceinline__ explicit Place(const ConvInputs& in, uint32_t length = STRETCH) {
        const uint32_t columns = (in.d_inner + LANES * V - 1) / (LANES * V);
        channel = (blockIdx.x % columns * LANES + threadIdx.x) * V;
        valid = int(in.d_inner) - channel;
        const uint32_t each = (in.seqlen + length - 1) / length;
        stretch = uint64_t(blockIdx.x / columns) * STRETCHES + threadIdx.y;
        sequence = uint32_t(stretch / each);
        begin = int(stretch % each) * int(length);
        end = sequence < in.batch ? min(begin + int(length), int(in.seqlen)) : begin;
    }
};

__device__ __forceinline__ uint32_t row_of(const ConvInputs& in, uint32_t sequence, int t) {
    const uint32_t position = sequence * in.seqlen + t;
    return in.row_of_position ? in.row_of_position[position] : position;
}
__device__ __forceinline__ bool starts_document(const ConvInputs& in, uint32_t sequence, int t) {
    return in.document_starts && in.document_starts[sequence * in.seqlen + t];
}

template <typename T, int V, bool ALIGNED>
__device__ __forceinline__ Vec<T, V> load_row(const void* base, uint32_t row, uint32_t stride, const Place<V>& place) {
    return load_vec<ALIGNED, T, V>(at_row<T>(base, row, stride, place.channel), place.valid);
}

// w[k][i]: tap k of channel i, the last on the present.
template <bool ALIGNED, int V>
__device__ __forceinline__ void load_taps(const ConvInputs& in, const Place<V>& place, float (&w)[TAPS][V], float (&bias)[V]) {
    if (ALIGNED && in.d_conv == TAPS && reinterpret_cast<uint64_t>(in.weight) % sizeof(float4) == 0) {
#pragma unroll
        for (int i = 0; i < V; i++) {
            const float4 taps = reinterpret_cast<const float4*>(in.weight)[place.channel + i];
            w[0][i] = taps.x, w[1][i] = taps.y, w[2][i] = taps.z, w[3][i] = taps.w;
            bias[i] = in.bias ? in.bias[place.channel + i] : 0.f;
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < V; i++) {
        const uint64_t channel = place.channel + i;
        bias[i] = in.bias && i < place.valid ? in.bias[channel] : 0.f;
#pragma unroll
        for (int k = 0; k < TAPS; k++) {
            const int tap = k - (TAPS - int(in.d_conv));
            w[k][i] = tap >= 0 && i < place.valid ? in.weight[channel * in.d_conv + tap] : 0.f;
        }
    }
}

// Entry of a state for t steps before the sequence, t = 1 .. d_conv - 1: oldest first in memory.
__device__ __forceinline__ int64_t state_at(const ConvInputs& in, uint32_t sequence, int t, int channel) {
    return (int64_t(sequence) * (in.d_conv - 1) + (int(in.d_conv) - 1 - t)) * in.d_inner + channel;
}

// The inputs before position `t`: window[HISTORY - 1] the last one.
template <typename T, int V, bool ALIGNED>
__device__ __forceinline__ void load_window(const ConvInputs& in, const Place<V>& place, int t, float (&window)[HISTORY][V]) {
#pragma unroll
    for (int k = 0; k < HISTORY; k++) {
        const int before = t - HISTORY + k;
        if (before >= 0 && starts_document(in, place.sequence, before)) {
#pragma unroll
            for (int j = 0; j < HISTORY; j++)
#pragma unroll
                for (int i = 0; i < V; i++) window[j][i] = 0.f;
        }
        if (before >= 0) {
            const uint32_t row = row_of(in, place.sequence, before);
            const Vec<T, V> x = load_row<T, V, ALIGNED>(in.x, row, in.x_stride, place);
#pragma unroll
            for (int i = 0; i < V; i++) window[k][i] = x.get(i);
        } else {
            const bool stored = in.initial_state && -before < int(in.d_conv);
#pragma unroll
            for (int i = 0; i < V; i++)
                window[k][i] = stored && i < place.valid
                                   ? in.initial_state[state_at(in, place.sequence, -before, place.channel + i)]
                                   : 0.f;
        }
    }
}

template <int V> __device__ __forceinline__ void shift(float (&window)[HISTORY][V], const float (&x)[V]) {
#pragma unroll
    for (int i = 0; i < V; i++) {
        window[0][i] = window[1][i];
        window[1][i] = window[2][i];
        window[2][i] = x[i];
    }
}

template <typename T, int V, bool ALIGNED> __device__ __forceinline__ void forward(const ConvForward& p) {
    const ConvInputs& in = p.in;
    const Place<V> place(in);
    if (place.valid <= 0 || place.begin >= place.end) return;
    float w[TAPS][V], bias[V], window[HISTORY][V];
    load_taps<ALIGNED>(in, place, w, bias);
    load_window<T, V, ALIGNED>(in, place, place.begin, window);
    uint32_t rows[GROUP];
#pragma unroll
    for (int g = 0; g < GROUP; g++) rows[g] = place.begin + g < place.end ? row_of(in, place.sequence, place.begin + g) : 0;
#pragma unroll 1
    for (int t0 = place.begin; t0 < place.end; t0 += GROUP) {
        Vec<T, V> x[GROUP];
        uint32_t to[GROUP];
#pragma unroll
        for (int g = 0; g < GROUP; g++) {
            to[g] = rows[g];
            if (t0 + g < place.end) x[g] = load_row<T, V, ALIGNED>(in.x, rows[g], in.x_stride, place);
        }
#pragma unroll
        for (int g = 0; g < GROUP; g++) {
            const int t = t0 + GROUP + g;
            if (t < place.end) rows[g] = row_of(in, place.sequence, t);
        }
#pragma unroll
        for (int g = 0; g < GROUP; g++) {
            if (t0 + g >= place.end) break;
            if (starts_document(in, place.sequence, t0 + g)) {
#pragma unroll
                for (int k = 0; k < HISTORY; k++)
#pragma unroll
                    for (int i = 0; i < V; i++) window[k][i] = 0.f;
            }
            float now[V], out[V];
#pragma unroll
            for (int i = 0; i < V; i++) {
                now[i] = x[g].get(i);
                out[i] = bias[i];
#pragma unroll
                for (int k = 0; k < HISTORY; k++) out[i] = fmaf(w[k][i], window[k][i], out[i]);
                out[i] = fmaf(w[HISTORY][i], now[i], out[i]);
            }
            if (in.silu) {
#pragma unroll
                for (int i = 0; i < V; i++) out[i] *= sigmoid(out[i]);
            }
            T* row = at_row<T>(p.out, to[g], uint32_t(p.out_stride), place.channel);
            store_vec<ALIGNED, T, V>(row, pack<T, V>(out), place.valid);
            shift(window, now);
        }
    }
    if (p.last_state && place.end == int(in.seqlen)) {
#pragma unroll
        for (int k = 0; k < HISTORY; k++) {
            if (HISTORY - k >= int(in.d_conv)) continue;
#pragma unroll
            for (int i = 0; i < V; i++)
                if (i < place.valid)
                    p.last_state[state_at(in, place.sequence, HISTORY - k, place.channel + i)] = window[k][i];
        }
    }
}

// The same for aligned vectors, four taps, sequences of whole groups and no state before them or behind: a group of rows
// arrives while the one before is computed, and the window stays packed as it came. The first loads of a thread wait for each
// other as little as may be, since many threads begin at once. How long a stretch is, is the launch's to say: one that fills
// the card in whole rounds, a multiple of GROUP.
template <typename T, int V> __device__ __forceinline__ void forward_stateless(const ConvForward& p) {
    static_assert(GROUP == 4);
    const ConvInputs& in = p.in;
    const Place<V> place(in, p.stretch);
    if (place.valid <= 0 || place.begin >= place.end) return;
    auto load = [&](uint32_t row) { return load_row<T, V, true>(in.x, row, in.x_stride, place); };
    // The first position of a group; past the end, of the last group once more.
    auto position = [&](int t) { return place.sequence * in.seqlen + min(t, place.end - GROUP); };
    auto rows_at = [&](int t) {
        const uint32_t at = position(t);
        if (!in.row_of_position) return make_uint4(at, at + 1, at + 2, at + 3);
        return *reinterpret_cast<const uint4*>(in.row_of_position + at);
    };
    auto starts_at = [&](int t) {  // a byte for each position
        return in.document_starts ? *reinterpret_cast<const uint32_t*>(in.document_starts + position(t)) : 0u;
    };
    uint4 rows = rows_at(place.begin);
    uint32_t starts = starts_at(place.begin);
    Vec<T, V> x[HISTORY + GROUP], next[GROUP];
    auto load_next = [&] { next[0] = load(rows.x), next[1] = load(rows.y), next[2] = load(rows.z), next[3] = load(rows.w); };
#pragma unroll
    for (int k = 0; k < HISTORY; k++) x[k].zero();
    if (place.begin > 0) {  // a stretch that is not the first has a whole group in front of it
        const uint4 before = rows_at(place.begin - GROUP);
        const uint32_t cut = starts_at(place.begin - GROUP);
        if (cut >> 24 == 0) {
            if ((cut >> 16 & 0xff) == 0) x[0] = load(before.y);
            x[1] = load(before.z);
        }
        x[2] = load(before.w);
    }
    load_next();
    float w[TAPS][V], bias[V];
    load_taps<true>(in, place, w, bias);
#pragma unroll 1
    for (int t0 = place.begin; t0 < place.end; t0 += GROUP) {
        const uint32_t to[GROUP] = {rows.x, rows.y, rows.z, rows.w}, cut = starts;
#pragma unroll
        for (int g = 0; g < GROUP; g++) x[HISTORY + g] = next[g];
        rows = rows_at(t0 + GROUP);
        starts = starts_at(t0 + GROUP);
        load_next();
#pragma unroll
        for (int g = 0; g < GROUP; g++) {
            if (cut >> 8 * g & 0xff) {
#pragma unroll
                for (int k = 0; k < HISTORY + g; k++) x[k].zero();
            }
            float out[V];
#pragma unroll
            for (int i = 0; i < V; i++) {
                out[i] = bias[i];
#pragma unroll
                for (int k = 0; k < TAPS; k++) out[i] = fmaf(w[k][i], x[g + k].get(i), out[i]);
            }
            if (in.silu) {
#pragma unroll
                for (int i = 0; i < V; i++) out[i] *= sigmoid(out[i]);
            }
            T* row = at_row<T>(p.out, to[g], uint32_t(p.out_stride), place.channel);
            store_vec<true, T, V>(row, pack<T, V>(out), place.valid);
        }
#pragma unroll
        for (int k = 0; k < HISTORY; k++) x[k] = x[GROUP + k];
    }
}

// The slot of position t among those of its stretch that other stretches read too, or EDGES: first and last three.
constexpr int EDGES = 2 * HISTORY;
template <int V> __device__ __forceinline__ int edge_of(const Place<V>& place, int t) {
    if (t - place.begin < HISTORY) return t - place.begin;
    return t - place.end >= -HISTORY ? EDGES + (t - place.end) : EDGES;
}

// Time forwards once more; the gradients of the window's inputs wait until they are complete. Taps' and bias' gradients
// leave as one partial sum a block. grad_x may lie over x: what other stretches read is not overwritten here, but goes to
// `edges` and from there to its rows once all have read.
// `out` and `edges` are looked at if CONSUMES: the branches and their registers would cost every other caller of aligned
// vectors a tenth.
template <typename T, int V, bool ALIGNED, bool CONSUMES>
__device__ __forceinline__ void backward(const ConvBackward& p) {
    const ConvInputs& in = p.in;
    const Place<V> place(in);
    __shared__ float sums[STRETCHES][TAPS + 1][LANES * V];
    float grad_w[TAPS][V], grad_bias[V];
#pragma unroll
    for (int i = 0; i < V; i++) {
        grad_bias[i] = 0.f;
#pragma unroll
        for (int k = 0; k < TAPS; k++) grad_w[k][i] = 0.f;
    }
    if (place.valid > 0 && place.begin < place.end) {
        const int seqlen = in.seqlen;
        float w[TAPS][V], bias[V], window[HISTORY][V], pending[HISTORY][V];
        load_taps<ALIGNED>(in, place, w, bias);
        load_window<T, V, ALIGNED>(in, place, place.begin, window);
        uint32_t targets[HISTORY];  // rows of the window's inputs
        bool wanted[HISTORY];       // whether their gradients are this thread's to write
#pragma unroll
        for (int k = 0; k < HISTORY; k++) {
            wanted[k] = false;
            targets[k] = 0;
#pragma unroll
            for (int i = 0; i < V; i++) pending[k][i] = 0.f;
        }
        auto leave = [&](uint32_t row, int t, const float (&grad)[V]) {
            const int edge = CONSUMES && p.edges ? edge_of(place, t) : EDGES;
            if (edge < EDGES) {
                float* to = p.edges + (place.stretch * EDGES + edge) * in.d_inner + place.channel;
#pragma unroll
                for (int i = 0; i < V; i++)
                    if (i < place.valid) to[i] = grad[i];
                return;
            }
            store_vec<ALIGNED, T, V>(at_row<T>(p.grad_x, row, p.grad_x_stride, place.channel), pack<T, V>(grad), place.valid);
        };
        // Gradient of the entry of the initial state that lies `before` steps before the sequence.
        bool open = p.grad_initial_state && place.begin == 0;
        auto leave_state = [&](int before, const float (&grad)[V]) {
            if (!open || before <= 0 || before >= int(in.d_conv)) return;
#pragma unroll
            for (int i = 0; i < V; i++)
                if (i < place.valid)
                    p.grad_initial_state[state_at(in, place.sequence, before, place.channel + i)] = grad[i];
        };
        const int last = min(place.end + HISTORY, seqlen);
        bool cut = false;  // a document has begun behind the stretch: nothing more reaches into it
        uint32_t rows[GROUP];
#pragma unroll
        for (int g = 0; g < GROUP; g++) rows[g] = place.begin + g < last ? row_of(in, place.sequence, place.begin + g) : 0;
#pragma unroll 1
        for (int t0 = place.begin; t0 < last && !cut; t0 += GROUP) {
            Vec<T, V> x[GROUP], grad_out[GROUP];
            uint32_t here[GROUP];
#pragma unroll
            for (int g = 0; g < GROUP; g++) {
                here[g] = rows[g];
                if (t0 + g < last) {
                    x[g] = load_row<T, V, ALIGNED>(in.x, rows[g], in.x_stride, place);
                    grad_out[g] = load_row<T, V, ALIGNED>(p.grad_out, rows[g], p.grad_out_stride, place);
                }
            }
#pragma unroll
            for (int g = 0; g < GROUP; g++) {
                const int t = t0 + GROUP + g;
                if (t < last) rows[g] = row_of(in, place.sequence, t);
            }
#pragma unroll
            for (int g = 0; g < GROUP; g++) {
                const int t = t0 + g;
                if (t >= last || cut) break;
                const bool own = t < place.end;
                if (starts_document(in, place.sequence, t)) {
#pragma unroll
                    for (int k = 0; k < HISTORY; k++) {
                        if (wanted[k]) leave(targets[k], t - HISTORY + k, pending[k]);
                        wanted[k] = false;
                        leave_state(HISTORY - k - t, pending[k]);
#pragma unroll
                        for (int i = 0; i < V; i++) window[k][i] = pending[k][i] = 0.f;
                    }
                    open = false;
                    if (!own) {
                        cut = true;
                        break;
                    }
                }
                float now[V], grad[V], pre[V], fresh[V];
#pragma unroll
                for (int i = 0; i < V; i++) {
                    now[i] = x[g].get(i);
                    pre[i] = bias[i];
#pragma unroll
                    for (int k = 0; k < HISTORY; k++) pre[i] = fmaf(w[k][i], window[k][i], pre[i]);
                    pre[i] = fmaf(w[HISTORY][i], now[i], pre[i]);
                    grad[i] = grad_out[g].get(i);
                }
                if (in.silu) {
#pragma unroll
                    for (int i = 0; i < V; i++) {
                        const float s = sigmoid(pre[i]);
                        grad[i] *= s * fmaf(pre[i], 1.f - s, 1.f);
                        if (CONSUMES) pre[i] *= s;
                    }
                }
                if (CONSUMES && p.out && own)
                    store_vec<ALIGNED, T, V>(
                        at_row<T>(p.out, here[g], p.out_stride, place.channel), pack<T, V>(pre), place.valid);
#pragma unroll
                for (int i = 0; i < V; i++) {
#pragma unroll
                    for (int k = 0; k < HISTORY; k++) pending[k][i] = fmaf(w[k][i], grad[i], pending[k][i]);
                    fresh[i] = w[HISTORY][i] * grad[i];
                    if (own) {
#pragma unroll
                        for (int k = 0; k < HISTORY; k++) grad_w[k][i] = fmaf(window[k][i], grad[i], grad_w[k][i]);
                        grad_w[HISTORY][i] = fmaf(now[i], grad[i], grad_w[HISTORY][i]);
                        grad_bias[i] += grad[i];
                    }
                }
                if (wanted[0]) leave(targets[0], t - HISTORY, pending[0]);
                leave_state(HISTORY - t, pending[0]);
                shift(pending, fresh);
                shift(window, now);
                targets[0] = targets[1], targets[1] = targets[2], targets[2] = here[g];
                wanted[0] = wanted[1], wanted[1] = wanted[2], wanted[2] = own;
            }
        }
        // What is left in the window at the end of the sequence.
        if (!cut && last == seqlen) {
#pragma unroll
            for (int k = 0; k < HISTORY; k++) {
                const int back = HISTORY - k;  // window[k] lies so many steps before the end
                float grad[V];
#pragma unroll
                for (int i = 0; i < V; i++) {
                    grad[i] = pending[k][i];
                    if (p.grad_last_state && back < int(in.d_conv) && i < place.valid)
                        grad[i] += p.grad_last_state[state_at(in, place.sequence, back, place.channel + i)];
                }
                if (wanted[k]) leave(targets[k], last - back, grad);
                leave_state(back - seqlen, grad);  // of a sequence shorter than the window
            }
        } else if (!cut) {
#pragma unroll
            for (int k = 0; k < HISTORY; k++)
                if (wanted[k]) leave(targets[k], last - HISTORY + k, pending[k]);
        }
    }
#pragma unroll
    for (int i = 0; i < V; i++) {
#pragma unroll
        for (int k = 0; k < TAPS; k++) sums[threadIdx.y][k][threadIdx.x * V + i] = grad_w[k][i];
        sums[threadIdx.y][TAPS][threadIdx.x * V + i] = grad_bias[i];
    }
    __syncthreads();
    const uint32_t columns = (in.d_inner + LANES * V - 1) / (LANES * V);
    const int first = blockIdx.x % columns * LANES * V;
    float* to = p.partial + uint64_t(blockIdx.x / columns) * (TAPS + 1) * in.d_inner;
    for (int i = threadIdx.y * LANES + threadIdx.x; i < (TAPS + 1) * LANES * V; i += LANES * STRETCHES) {
        const int k = i / (LANES * V), channel = i % (LANES * V);
        float sum = 0.f;
#pragma unroll
        for (int y = 0; y < STRETCHES; y++) sum += sums[y][k][channel];
        if (first + channel < int(in.d_inner)) to[uint64_t(k) * in.d_inner + first + channel] = sum;
    }
}

// Gradients of taps and bias: the sum of the partials. Grid (columns / 32, 5), block (32, 8).
__device__ __forceinline__ void sum_partials(const ConvBackward& p) {
    __shared__ float s[8][LANES];
    const ConvInputs& in = p.in;
    const uint32_t channel = blockIdx.x * LANES + threadIdx.x, k = blockIdx.y;
    float sum = 0.f;
    if (channel < in.d_inner) {
#pragma unroll 4
        for (uint32_t n = threadIdx.y; n < p.n_partials; n += 8)
            sum += p.partial[(uint64_t(n) * (TAPS + 1) + k) * in.d_inner + channel];
    }
    s[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y != 0 || channel >= in.d_inner) return;
    float total = 0.f;
#pragma unroll
    for (int y = 0; y < 8; y++) total += s[y][threadIdx.x];
    const int tap = int(k) - (TAPS - int(in.d_conv));
    if (k == TAPS) {
        if (p.grad_bias) p.grad_bias[channel] = total;
    } else if (tap >= 0) {
        p.grad_weight[uint64_t(channel) * in.d_conv + tap] = total;
    }
}

// Edges to their rows. Grid and block as the backward pass.
template <typename T, int V, bool ALIGNED> __device__ __forceinline__ void place_edges(const ConvBackward& p) {
    const ConvInputs& in = p.in;
    const Place<V> place(in);
    if (place.valid <= 0) return;
#pragma unroll
    for (int edge = 0; edge < EDGES; edge++) {
        const int t = edge < HISTORY ? place.begin + edge : place.end - EDGES + edge;
        if (t >= place.end || t < place.begin || edge_of(place, t) != edge) continue;
        const float* from = p.edges + (place.stretch * EDGES + edge) * in.d_inner + place.channel;
        float grad[V];
#pragma unroll
        for (int i = 0; i < V; i++) grad[i] = i < place.valid ? from[i] : 0.f;
        T* to = at_row<T>(p.grad_x, row_of(in, place.sequence, t), p.grad_x_stride, place.channel);
        store_vec<ALIGNED, T, V>(to, pack<T, V>(grad), place.valid);
    }
}

}  // namespace conv

#define CONV_OF(T_NAME, T, SUFFIX, ALIGNED)                                                                           \
    extern "C" __global__ void __launch_bounds__(128) causal_conv1d_forward_##T_NAME##SUFFIX(                         \
        const __grid_constant__ ConvForward p) {                                                                      \
        conv::forward<T, 4, ALIGNED>(p);                                                                              \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(128) causal_conv1d_consume_##T_NAME##SUFFIX(                         \
        const __grid_constant__ ConvBackward p) {                                                                     \
        conv::backward<T, 4, ALIGNED, true>(p);                                                                       \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(128) causal_conv1d_edges_##T_NAME##SUFFIX(                           \
        const __grid_constant__ ConvBackward p) {                                                                     \
        conv::place_edges<T, 4, ALIGNED>(p);                                                                          \
    }
#define CONV(T_NAME, T)                                                                                               \
    CONV_OF(T_NAME, T, , false)                                                                                       \
    CONV_OF(T_NAME, T, _aligned, true)                                                                                \
    extern "C" __global__ void __launch_bounds__(128) causal_conv1d_backward_##T_NAME##_aligned(                      \
        const __grid_constant__ ConvBackward p) {                                                                     \
        conv::backward<T, 4, true, false>(p);                                                                         \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(128, sizeof(T) == 2 ? 7 : 5)                                         \
        causal_conv1d_forward_##T_NAME##_stateless(const __grid_constant__ ConvForward p) {                           \
        conv::forward_stateless<T, 4>(p);                                                                             \
    }
