// Weights in steps of 32 channels at one tap (MODE 0 to 2 of conv.cu): their copies and products.
#pragma once
#include "latency/conv.cuh"

// Weights of one chunk, by one thread: the units it touches. Sets past the last are not read.
__device__ __forceinline__ void fetch_weights(const Conv& c, const Tile& t, int chunk, u32 to,
                                              u32 barrier) {
    const int first = chunk << c.chunk_log >> c.run_log;
    const int units = min(t.units, (c.sets - first) * t.taps);
    barrier_expect(barrier, units * UNIT + t.groups * PLANES * c.halo * t.pitch);
    load_bytes(to, c.weights + ((long long)t.row_block * c.sets + first) * t.taps * UNIT,
              units * UNIT, barrier);
}

// What a lane keeps of one m16 tile at one (set, tap).
struct Weights {
    u32 values[MT][WORDS], pair[MT][2], meta[MT];
};

__device__ __forceinline__ void load_weights(Weights& w, u32 from) {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int m = 0; m < MT; ++m) {
        load_words(w.values[m], from + m * RECORD);
        if constexpr (MODE == 2) {
            const u32 bytes = load_word(from + m * RECORD + CHOICE_AT + lane * 4);
            // Numbers of pairs as halves 1024 + p, whose bits are 0x6400 + p.
            w.pair[m][0] = __byte_perm(bytes, 0x64646464u, 0x4140);
            w.pair[m][1] = __byte_perm(bytes, 0x64646464u, 0x4342);
        }
        if constexpr (MODE != 0)
            w.meta[m] = load_word(from + m * RECORD + META_AT + (lane >> 2) * 4 +
                                  (MODE == 1 ? (lane & 1) * 32 : 0));
    }
}

// One step: 32 channels of every pixel. Products of one kind come together, so that sums which
// wait for each other are far apart.
__device__ __forceinline__ void step(float (&sum)[MT][NT][4], const Weights& w, u32 member,
                                     u32 next, const u32 (&address)[NT], u32 flip, u32 plane_bytes) {
    u32 b[PLANES][NT][4];
#pragma unroll
    for (int p = 0; p < PLANES; ++p)
#pragma unroll
        for (int n = 0; n < NT; ++n)
            load_matrices(b[p][n], (address[n] ^ flip) + p * plane_bytes);
    u32 a[PLANES][MT][4];
    if constexpr (MODE != 0) {
#pragma unroll
        for (int m = 0; m < MT; ++m)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                u32 mask = ~0u;
                if (MODE == 2) mask = equal_mask(w.pair[m][i & 1], i < 2 ? member : next);
#pragma unroll
                for (int p = 0; p < PLANES; ++p)
                    a[p][m][i] = MODE == 2 ? w.values[m][(p * 2 + (i & 1)) % WORDS] & mask
                                           : w.values[m][(p * 4 + i) % WORDS];
            }
    }
    // Small products first: lo*hi, hi*lo, hi*hi.
#pragma unroll
    for (int product = SPLIT ? 0 : 2; product < 3; ++product) {
        const int pa = product == 0 ? PLANES - 1 : 0, pb = product == 1 ? PLANES - 1 : 0;
#pragma unroll
        for (int half = 0; half < (MODE == 0 ? 2 : 1); ++half)
#pragma unroll
            for (int n = 0; n < NT; ++n)
#pragma unroll
                for (int m = 0; m < MT; ++m) {
                    if constexpr (MODE == 0)
                        multiply_dense(sum[m][n], &w.values[m][pa * 8 + half * 4],
                                       b[pb][n][half * 2], b[pb][n][half * 2 + 1]);
                    else
                        multiply_sparse(sum[m][n], a[pa][m], b[pb][n], w.meta[m]);
                }
    }
}

// The warp's share of one chunk, in steps counted over (set, tap, step of the set).
struct Walk {
    int at, end, unit, set, tap_y, tap_x, step, first;  // first: number of the chunk's first step
};

__device__ __forceinline__ Walk start_walk(const Conv& c, const Tile& t, int chunk, int wk) {
    const int sets = c.sets - (chunk << c.chunk_log >> c.run_log);
    const int total = min(t.units, sets * t.taps) * t.steps;
    Walk w;
    w.at = wk * total / WK, w.end = (wk + 1) * total / WK;
    w.unit = w.at >> min(c.chunk_log, c.run_log), w.step = w.at & (t.steps - 1);
    w.set = w.unit / t.taps;
    const int tap = w.unit - w.set * t.taps;
    w.tap_y = tap / c.taps_w, w.tap_x = tap - w.tap_y * c.taps_w;
    w.first = (chunk << c.chunk_log) & ((1 << c.run_log) - 1);
    return w;
}

__device__ __forceinline__ void multiply(const Conv& c, const Tile& t, Walk w, int wm, u32 weights,
                                         u32 pixels, const int (&pixel)[NT],
                                         float (&sum)[MT][NT][4]) {
    const int lane = threadIdx.x & 31, run_log = min(c.chunk_log, c.run_log);
    // Groups may repeat in the 8 places of a pair's channels (fewer than 8): further pairs.
    const u32 one = 0x00010001u << (3 - c.sub_shift), k0 = 2 * (lane & 3);
    const u32 mine = 0x64006400u + (k0 >> c.sub_shift) + ((k0 + 1 >> c.sub_shift) << 16);
    const u32 pieces = t.pitch / 16 - 1;
#pragma unroll 1
    while (w.at < w.end) {
        Weights kept;
        load_weights(kept, weights + w.unit * UNIT + wm * MT * RECORD);
        // Rows of 16-byte pieces, exchanged by the copy engine's swizzle: bits 4.. ^= bits 7..
        u32 address[NT];
        const int tap = w.tap_y * c.dilation_h * c.columns + w.tap_x * c.dilation_w;
#pragma unroll
        for (int n = 0; n < NT; ++n) {
            const u32 row = (pixel[n] + tap) * t.pitch;
            address[n] = pixels + row + (((lane >> 3) ^ (row >> 7 & pieces)) << 4);
        }
        const int stop = min(t.steps, w.step + w.end - w.at);
        w.at += stop - w.step;
#pragma unroll 1
        for (; w.step < stop; ++w.step) {
            const int k = (w.set << run_log) + w.step;
            const u32 member = mine + 2 * (w.first + w.step) * one;
            u32 here[NT];
#pragma unroll
            for (int n = 0; n < NT; ++n) here[n] = address[n] + (k >> 1) * PLANES * t.plane_bytes;
            step(sum, kept, member, member + one, here, (k & 1) << 6, t.plane_bytes);
        }
        w.step = 0, ++w.unit, ++w.tap_x;
        if (w.tap_x == c.taps_w) w.tap_x = 0, ++w.tap_y;
        if (w.tap_y == c.taps_h) w.tap_y = 0, ++w.set;
    }
}
