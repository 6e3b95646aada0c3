// Finishing: sums become 16-bit numbers in a warp's scratch, channels in rows of 64 columns. A piece
// is 32 columns x 8 channels.
#pragma once
#include "gather/store.cuh"

__device__ __forceinline__ float4 add(float4 a, float4 b) {
  return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

// The unit's scales and biases, which every tile reads again, to shared memory: one group of copies.
__device__ __forceinline__ void keep_factors(const Pointers& p, const Shape& s, const Me& me) {
  if (me.lane < kUnit) {
    const int at = me.unit * kUnit + me.lane;
    const u32 to = me.factors(s) + me.lane / 2 * 16 + me.lane % 2 * 4;  // of two rows together
    copy_async<4>(to, p.scale + at);
    copy_async<4>(to + 8, p.bias + at);
  }
  close_copies();
}

// Where an activation clamps.
struct Clamp {
  float low, high;

  __device__ __forceinline__ Clamp(const Pointers& p, const Shape& s) {
    low = s.relu ? 0.f : __uint_as_float(0xff800000u), high = __uint_as_float(0x7f800000u);
    if (p.limit) high = __ldg(p.limit);
  }
};

// Scale, bias, residual, activation and rounding of one piece.
__device__ __forceinline__ void finish(const Pointers& p, const Shape& s, const Me& me, u32 scratch,
                                       int pair, int n, const float (&sum)[8], const Clamp& clamp) {
  const int row = n * 8 + (me.lane & 7), chunk = pair % 2 * 4 + me.lane / 8;
  const u32 at =
      scratch + pair / 2 * kScratchHalf + row * 128 + ((chunk ^ (row & 7)) << 4);
  const float4 f = load_floats(me.factors(s) + (n * 4 + (me.lane & 3)) * 16);
  float v[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) v[i] = sum[i] * (i & 1 ? f.y : f.x) + (i & 1 ? f.w : f.z);
  u32 r[4];
  if (p.residual) {
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      load_transposed(r, at + plane * kScratchPlane);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float first, second;
        unpack2(r[i], first, second);
        v[2 * i] += first * s.residual_scale, v[2 * i + 1] += second * s.residual_scale;
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) v[i] = min_or_nan(max_or_nan(v[i], clamp.low), clamp.high);
#pragma unroll
  for (int i = 0; i < 4; ++i) r[i] = pack2(v[2 * i], v[2 * i + 1]);
  store_transposed(at, r);
  if (kPlanes == 2) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float first, second;
      unpack2(r[i], first, second);
      r[i] = pack2(v[2 * i] - first, v[2 * i + 1] - second);
    }
    store_transposed(at + kScratchPlane, r);
  }
}

#if GATHER_SPLIT
// The sums of all warps and blocks that share a tile, piece by piece, in the order of their stages.
// They lie over the ring as [group, column, part][piece][half of it][lane] of four numbers.
__device__ __forceinline__ void add_up(float (&sum)[kM][kN][4], const Pointers& p, const Shape& s,
                                       const Me& me) {
  constexpr int kPieces = kM / 2 * kN, kPiece = 1024, kPart = kPieces * kPiece;  // bytes
  const u32 first =
      me.ring + (me.along * kGroups + me.group) * kParts * kPart + me.lane * 16;
  sync_threads(1, 32 * kWarps);  // nobody reads stages any more
#pragma unroll
  for (int i = 0; i < 2 * kPieces; ++i) {
    const float* v = sum[i / 2 / kN * 2 + i % 2][i / 2 % kN];
    store_floats(first + me.part * kPart + i * 512, make_float4(v[0], v[1], v[2], v[3]));
  }
  sync_threads(1, 32 * kWarps);
  if (kParts > 1 && s.ranks > 1) {
    for (int i = me.part; i < 2 * kPieces; i += kParts) {
      float4 v = load_floats(first + i * 512);
      for (int part = 1; part < kParts; ++part)
        v = add(v, load_floats(first + part * kPart + i * 512));
      store_floats(first + i * 512, v);
    }
  }
  if (s.ranks > 1) cluster_sync();
  const int sources = s.ranks > 1 ? s.ranks : kParts;
  const Clamp clamp(p, s);
#pragma unroll 1
  for (int piece = me.rank + me.part * s.ranks; piece < kPieces; piece += kParts * s.ranks) {
    float4 v[2] = {};
#pragma unroll 4
    for (int from = 0; from < sources; ++from)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const u32 at = first + piece * kPiece + i * 512;
        v[i] = add(v[i], s.ranks > 1 ? load_remote(at, from) : load_floats(at + from * kPart));
      }
    const float flat[8] = {v[0].x, v[0].y, v[0].z, v[0].w, v[1].x, v[1].y, v[1].z, v[1].w};
    const int n = piece % kN;
    finish(p, s, me, me.scratch, piece / kN, n, flat, clamp);
  }
}
#else
// Rows 8 * kFrom to 8 * kTo of a tile, which lie there from `scratch` on.
template <int kFrom, int kTo>
__device__ __forceinline__ void finish_rows(const float (&sum)[kM][kN][4], const Pointers& p,
                                            const Shape& s, const Me& me, u32 scratch, int tile) {
  scratch -= kFrom * 8 * 128;
  const Clamp clamp(p, s);
#pragma unroll
  for (int n = kFrom; n < kTo; ++n) {
#pragma unroll
    for (int pair = 0; pair < kM / 2; ++pair) {
      float flat[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) flat[i] = sum[pair * 2 + i / 4][n][i % 4];
      finish(p, s, me, scratch, pair, n, flat, clamp);
    }
  }
  store<8 * kFrom, 8 * kTo>(p, s, me, scratch, tile);
}

__device__ __forceinline__ void finish_all(const float (&sum)[kM][kN][4], const Pointers& p,
                                           const Shape& s, const Me& me, u32 scratch, int tile) {
  if (kPasses == 1 || p.residual) {
    finish_rows<0, kN>(sum, p, s, me, scratch, tile);
  } else {
    finish_rows<0, kN / 2>(sum, p, s, me, scratch, tile);
    finish_rows<kN / 2, kN>(sum, p, s, me, scratch, tile);
  }
}
#endif
