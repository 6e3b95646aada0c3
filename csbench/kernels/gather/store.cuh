// Between a warp's scratch, channels in rows of 64 columns, and memory: results go out, residuals come.
#pragma once
#include "gather/shape.cuh"
#if GATHER_UNFOLD
#include "gather/unfold.cuh"
#endif

// Whether this warp finishes a piece.
__device__ __forceinline__ bool mine(const Shape& s, const Me& me, int piece) {
#if GATHER_SPLIT
  return piece % s.ranks == me.rank && piece / s.ranks % kParts == me.part;
#else
  return true;
#endif
}

// Where eight neighbouring columns of this lane lie in memory, for each block of 64 of a tile.
__device__ __forceinline__ void locate(int (&places)[kHalves], const Shape& s, const Me& me,
                                       int tile) {
#pragma unroll
  for (int half = 0; half < kHalves; ++half) {
    const int along = me.along * kHalves + half, eighth = me.lane % 8;
    places[half] = place_of(s.blocks, s.box_bits, s.size, s.out_stride, s.block(tile, along),
                            kWindow ? along * 8 + eighth : eighth);
  }
}

struct Sixteen {  // bytes of the output: eight columns of a channel
  bool here;
  int at;
  u32 scratch;
};

__device__ __forceinline__ Sixteen sixteen_of(const Shape& s, const Me& me, u32 scratch, int half,
                                              int turn, int place) {
  const int row = turn * 4 + me.lane / 8, chunk = me.lane % 8;
  const int channel = __shfl_sync(0xffffffffu, me.channel, row);
  const int piece = (half * 2 + chunk / 4) * kN + row / 8;
  return {place >= 0 && channel >= 0 && mine(s, me, piece), channel + place,
          scratch + half * kScratchHalf + row * 128 + ((chunk ^ (row & 7)) << 4)};
}

// Every plane's sixteen bytes of rows kFrom to kTo that this lane moves between its scratch and
// memory.
template <int kFrom = 0, int kTo = kUnit, class Act>
__device__ __forceinline__ void each_sixteen(const Shape& s, const Me& me, u32 scratch,
                                             const int (&places)[kHalves], const Act& act) {
#pragma unroll
  for (int half = 0; half < kHalves; ++half)
#pragma unroll
    for (int turn = kFrom / 4; turn < kTo / 4; ++turn) {
      const Sixteen it = sixteen_of(s, me, scratch, half, turn, places[half]);
      if (it.here)
#pragma unroll
        for (int plane = 0; plane < kPlanes; ++plane) act(it, plane);
    }
}

// A tile's residual, as one group of copies; nothing, as one too, after the last tile.
__device__ __forceinline__ void fetch_residual(const Pointers& p, const Shape& s, const Me& me,
                                               u32 scratch, int tile) {
  if (tile < s.tiles) {
    int places[kHalves];
    locate(places, s, me, tile);
    each_sixteen(s, me, scratch, places, [&](const Sixteen& it, int plane) {
      copy_async<16>(it.scratch + plane * kScratchPlane, p.residual + plane * s.plane + it.at);
    });
  }
  close_copies();
}

template <int kFrom = 0, int kTo = kUnit>
__device__ __forceinline__ void store(const Pointers& p, const Shape& s, const Me& me, u32 scratch,
                                      int tile) {
  int places[kHalves];
  locate(places, s, me, tile);
  __syncwarp();
  each_sixteen<kFrom, kTo>(s, me, scratch, places, [&](const Sixteen& it, int plane) {
    const int4 numbers = load_ints(it.scratch + plane * kScratchPlane);
    *reinterpret_cast<int4*>(p.out + plane * s.plane + it.at) = numbers;
#if GATHER_UNFOLD
    unfold(p, s, it.at, plane, numbers);
#endif
  });
  __syncwarp();
}
