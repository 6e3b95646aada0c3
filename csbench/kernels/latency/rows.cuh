// Four rows of a pixel of the output or the residual: neighbours in memory, but in MODE 3, where each
// lies wherever its channel does.
#pragma once
#include "latency/conv.cuh"

__device__ __forceinline__ void unpack4(float (&v)[4], uint2 hi, uint2 lo, float scale) {
    const u32 h[2] = {hi.x, hi.y}, l[2] = {lo.x, lo.y};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        v[i] = widened<Numbers::fp16>((u16)(h[i / 2] >> (16 * (i & 1))));
        if (SPLIT) v[i] += widened<Numbers::fp16>((u16)(l[i / 2] >> (16 * (i & 1))));
        v[i] *= scale;
    }
}

// Four rows that a thread finishes, from `first` on in the order of the weights.
struct Rows {
    int first;
    int place[MODE == 3 ? 4 : 1];  // among the channels of the output, -1 for none

    __device__ __forceinline__ Rows(const Conv& c, int first) : first(first) {
        if constexpr (MODE == 3) {
            const int4 four = *(const int4*)(c.places + first);
            place[0] = four.x, place[1] = four.y, place[2] = four.z, place[3] = four.w;
        }
    }
    // Whether any of them may be in the output.
    __device__ __forceinline__ bool here(const Conv& c) const {
        return MODE == 3 || first < c.rows;
    }
};

__device__ __forceinline__ uint2 load4(const u16* pixel, const Rows& rows) {
    if constexpr (MODE == 3) {
        u32 v[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) v[i] = rows.place[i] < 0 ? 0 : pixel[rows.place[i]];
        return make_uint2(v[0] | v[1] << 16, v[2] | v[3] << 16);
    } else {
        return *(const uint2*)(pixel + rows.first);
    }
}
__device__ __forceinline__ void put4(u16* pixel, const Rows& rows, uint2 v) {
    if constexpr (MODE == 3) {
        const u32 words[2] = {v.x, v.y};
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (rows.place[i] >= 0) pixel[rows.place[i]] = (u16)(words[i / 2] >> 16 * (i & 1));
    } else {
        *(uint2*)(pixel + rows.first) = v;
    }
}
__device__ __forceinline__ void store4(u16* pixel, long long plane, const Rows& rows,
                                       const float (&v)[4], float scale) {
    float w[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) w[i] = v[i] * scale;
    const uint2 hi = make_uint2(narrowed_pair<Numbers::fp16>(w[0], w[1]), narrowed_pair<Numbers::fp16>(w[2], w[3]));
    put4(pixel, rows, hi);
    if constexpr (SPLIT) {
#pragma unroll
        for (int i = 0; i < 4; ++i) w[i] -= widened<Numbers::fp16>((u16)((i < 2 ? hi.x : hi.y) >> 16 * (i & 1)));
        put4(pixel + plane, rows, make_uint2(narrowed_pair<Numbers::fp16>(w[0], w[1]), narrowed_pair<Numbers::fp16>(w[2], w[3])));
    }
}
__device__ __forceinline__ void store_floats(float* pixel, const Conv& c, const Rows& rows,
                                             const float (&v)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int row = MODE == 3 ? rows.place[MODE == 3 ? i : 0] : rows.first + i;
        if (row >= 0 && row < c.rows) pixel[row] = v[i];
    }
}
