// Copying: one warp fills the ring of stages, each lane one box (box, block of columns, plane), or
// one lane of each plane a whole window.
#pragma once
#include "gather/shape.cuh"

// 64 channels x 64 columns at one tap, or 16 at all pixels of a window.
__device__ __forceinline__ void load_columns(u32 to, const TensorMap* map, int x0, int x1, int x2,
                                             int x3, int channel, u32 bar) {
#if GATHER_SWIZZLED && !GATHER_WINDOW
  load_box(to, map, x0, x1, x2, x3, channel, bar);
#else
  load_box(to, map, x0, channel, x1, x2, x3, bar);
#endif
}

// With 255 registers a thread a box is looked up a turn before it is copied.
constexpr bool kLookAhead = kThreads * GATHER_BLOCKS <= 9 * 32;

struct Feeder {
  int tile, turn;  // turns go through the parts, then through their stages
  Ring ring;
  int4 next;  // this lane's box of the turn

  __device__ __forceinline__ Feeder(const int4* boxes, const Shape& s, const Me& me) {
    tile = blockIdx.x / s.blocks_along_k(), turn = 0;
    if (threadIdx.x / 32 != GATHER_SPLIT * kWarps) return;
    locate(s, me);
    if (kLookAhead) look_up(boxes, s, me);
  }

  // Where the tile's blocks of columns begin: in shared memory, since all warps have its registers.
  __device__ __forceinline__ u32 corner(const Shape& s, const Me& me) const {
    return me.full(s, 2 * s.slots) + 16 * me.lane;
  }
  __device__ __forceinline__ void locate(const Shape& s, const Me& me) const {
    const int along = me.lane / kPlanes % kCopied;
    int x[4];
    first_column(s.blocks, s.step, s.block(tile, along), x);
    store_ints(corner(s, me), make_int4(x[0], x[1], x[2], x[3]));
  }

  // The stage of a turn; `present`: whether its part has one left.
  __device__ __forceinline__ int stage(const Shape& s, const Me& me, bool& present) const {
    const int part = turn % kParts, found = first_stage(s, me.rank, part) + turn / kParts;
    present = found < first_stage(s, me.rank, part + 1);
    return found;
  }
  __device__ __forceinline__ void look_up(const int4* boxes, const Shape& s, const Me& me) {
    bool present;
    const int box = stage(s, me, present) * s.boxes + me.lane / (kPlanes * kCopied);
    next = __ldg(boxes + min(box, s.total_boxes - 1));
  }

  // Copies the next stage once its slot is free; false when there is none.
  __device__ __forceinline__ bool feed(const TensorMap* high, const TensorMap* low,
                                       const int4* boxes, const Shape& s, const Me& me) {
    if (tile >= s.tiles) return false;
    if (!kLookAhead) look_up(boxes, s, me);
    bool present;
    const int now = stage(s, me, present);
    if (present) copy(high, low, s, me, now);
    ring.advance(1, s.slots);
    const int turns = GATHER_SPLIT ? (s.stages / (s.ranks * kParts) + 1) * kParts : s.stages;
    if (++turn == turns) {
      turn = 0, tile += gridDim.x / s.blocks_along_k();
      if (tile < s.tiles)
        locate(s, me);
      else
        let_successor_start();
    }
    if (kLookAhead) look_up(boxes, s, me);
    return true;
  }

  __device__ __forceinline__ void copy(const TensorMap* high, const TensorMap* low, const Shape& s,
                                       const Me& me, int stage) const {
    const int plane = me.lane % kPlanes, along = me.lane / kPlanes % kCopied;
    const int box = me.lane / (kPlanes * kCopied);
    const int present = min(s.boxes, s.total_boxes - stage * s.boxes);
    const u32 to = me.ring + ring.slot * kCopied * kPlanes * s.boxes * kBoxBytes +
                   ((along * kPlanes + plane) * s.boxes + box) * kBoxBytes;
    const int4 x = load_ints(corner(s, me));
    barrier_wait(me.empty(s, ring.slot), ring.phase ^ 1);
    const u32 bar = me.full(s, ring.slot);
    if (me.lane == 0) barrier_expect(bar, present * kCopied * kPlanes * kBoxBytes);
    __syncwarp();
    if (box < (kWindow ? 1 : present))  // a window is one copy: 16 took three times as long
      load_columns(to, plane ? low : high, x.x + (short)next.x, x.y + (next.x >> 16),
                   x.z + (short)next.y, x.w + (next.y >> 16), next.z, bar);
  }
};
