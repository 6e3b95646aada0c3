// Weights in vectors (MODE 3 of conv.cu): a unit of 32 output channels, the rows of a warp, keeps the
// same columns (channel and tap). Its kept columns of a chunk come in records of 16: two fragments
// of weights, and where each column's number of the first pixel lies in the input tile. A channel's
// pixels are not neighbours in shared memory, so a lane reads its four numbers of a pixel one by one
// and puts them side by side: the product is dense, of kept columns only.
//
// The host deals columns to the lanes by bank (vectors.py): the four words that the lanes of a pixel
// read together are others of the four in 16 bytes, and the copy engine's swizzle has spread the
// eight pixels.
#pragma once
#include "latency/conv.cuh"

static_assert(MT == 2, "a warp's rows are a unit");
constexpr int COLUMNS_AT = MT * WORDS * 128, VECTOR_RECORD = COLUMNS_AT + 64;

__device__ __forceinline__ const int* starts_of(const Conv& c, const Tile& t, int wm, int chunk) {
    return c.starts + (t.row_block * WM + wm) * (c.chunks + 1) + chunk;
}

// Weights of one chunk, by one thread: the records of the block's units.
__device__ __forceinline__ void fetch_weights(const Conv& c, const Tile& t, int chunk, u32 to,
                                              u32 barrier) {
    int first[WM], count[WM], all = 0;
#pragma unroll
    for (int wm = 0; wm < WM; ++wm) {
        const int* starts = starts_of(c, t, wm, chunk);
        first[wm] = __ldg(starts), count[wm] = __ldg(starts + 1) - first[wm], all += count[wm];
    }
    barrier_expect(barrier, all * VECTOR_RECORD + t.groups * PLANES * c.halo * t.pitch);
#pragma unroll
    for (int wm = 0; wm < WM; ++wm)
        if (count[wm])
            load_bytes(to + wm * c.unit_bytes, c.weights + (long long)first[wm] * VECTOR_RECORD,
                      count[wm] * VECTOR_RECORD, barrier);
}

// The warp's share of one chunk, in records of its unit; none past the last chunk.
struct Walk {
    int at, end;
};

__device__ __forceinline__ Walk start_walk(const Conv& c, const Tile& t, int chunk, int wk) {
    if (chunk >= c.chunks) return {0, 0};
    const int* starts = starts_of(c, t, threadIdx.x / 32 % WM, chunk);
    const int count = __ldg(starts + 1) - __ldg(starts);
    return {wk * count / WK, (wk + 1) * count / WK};
}

__device__ __forceinline__ void multiply(const Conv& c, const Tile& t, Walk w, int wm, u32 weights,
                                         u32 pixels, const int (&pixel)[NT],
                                         float (&sum)[MT][NT][4]) {
    u32 here[NT];
#pragma unroll
    for (int n = 0; n < NT; ++n) here[n] = pixels + pixel[n] * 128;
    u32 record = weights + wm * c.unit_bytes + w.at * VECTOR_RECORD;
#pragma unroll 1
    for (; w.at < w.end; ++w.at, record += VECTOR_RECORD) {
        u32 a[MT][WORDS], b[PLANES][NT][2];
#pragma unroll
        for (int m = 0; m < MT; ++m) load_words(a[m], record + m * WORDS * 128);
        const int4 four = load_ints(record + COLUMNS_AT + (threadIdx.x & 3) * 16);
        const int column[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int n = 0; n < NT; ++n) {
            u32 v[PLANES][4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const u32 plain = here[n] + column[i], at = plain ^ (plain >> 3 & 0x70);
#pragma unroll
                for (int p = 0; p < PLANES; ++p) v[p][i] = load_short(at + p * t.plane_bytes);
            }
#pragma unroll
            for (int p = 0; p < PLANES; ++p)
#pragma unroll
                for (int half = 0; half < 2; ++half)
                    b[p][n][half] = v[p][2 * half] | v[p][2 * half + 1] << 16;
        }
        // Small products first: lo*hi, hi*lo, hi*hi.
#pragma unroll
        for (int product = SPLIT ? 0 : 2; product < 3; ++product) {
            const int pa = product == 0 ? PLANES - 1 : 0, pb = product == 1 ? PLANES - 1 : 0;
#pragma unroll
            for (int n = 0; n < NT; ++n)
#pragma unroll
                for (int m = 0; m < MT; ++m)
                    multiply_dense(sum[m][n], &a[m][pa * 4], b[pb][n][0], b[pb][n][1]);
        }
    }
}
