// Copying: one warp fills the ring of stages, each lane one box (box, block of columns, plane), or
// one lane of each plane a whole window; and each lane one unit's records, if stages hold them.
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

// Where registers allow, what is copied is looked up a turn before.
constexpr bool kLookAhead = !GATHER_AHEAD || kThreads * GATHER_BLOCKS <= 9 * 32;

struct Feeder {
  int tile, turn;  // turns go through the parts, then through their stages
  Ring ring;
  int4 next;          // this lane's box of the turn
  const int* starts;  // of this lane's unit: the first record of each stage
  int record, after;  // of the turn: the first one and what comes after the last

  __device__ __forceinline__ Feeder(const Pointers& p, const Shape& s, const Me& me) {
    tile = blockIdx.x / s.blocks_along_k(), turn = 0;
    if (threadIdx.x / 32 != (kCopiers ? kWarps : 0)) return;
    locate(s, me);
    // The copying warp counts to the first unit; groups past the last one read its records once more.
    starts = p.starts + min(me.unit + me.lane, s.units - 1) * (s.stages + 1);
    if (kLookAhead) look_up(p, s, me);
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
  __device__ __forceinline__ void look_up(const Pointers& p, const Shape& s, const Me& me) {
    bool present;
    const int box = stage(s, me, present) * s.boxes + me.lane / (kPlanes * kCopied);
    next = __ldg(p.boxes + min(box, s.total_boxes - 1));
    if (me.lane < kRecordCopies) record = __ldg(starts + turn), after = __ldg(starts + turn + 1);
  }

  // Copies the next stage once its slot is free; false when there is none.
  __device__ __forceinline__ bool feed(const TensorMap* high, const TensorMap* low,
                                       const Pointers& p, const Shape& s, const Me& me) {
    if (tile >= s.tiles) return false;
    if (!kLookAhead) look_up(p, s, me);
    bool present;
    const int now = stage(s, me, present);
    if (present) copy(high, low, p, s, me, now);
    ring.advance(1, s.slots);
    const int turns = GATHER_SPLIT ? (s.stages / (s.ranks * kParts) + 1) * kParts : s.stages;
    if (++turn == turns) {
      turn = 0, tile += gridDim.x / s.blocks_along_k();
      if (tile < s.tiles)
        locate(s, me);
      else
        let_successor_start();
    }
    if (kLookAhead) look_up(p, s, me);
    return true;
  }

  __device__ __forceinline__ void copy(const TensorMap* high, const TensorMap* low,
                                       const Pointers& p, const Shape& s, const Me& me,
                                       int stage) const {
    const int plane = me.lane % kPlanes, along = me.lane / kPlanes % kCopied;
    const int box = me.lane / (kPlanes * kCopied);
    const int present = min(s.boxes, s.total_boxes - stage * s.boxes);
    const u32 slot = me.ring + ring.slot * s.slot_bytes;
    const u32 to = slot + ((along * kPlanes + plane) * s.boxes + box) * kBoxBytes;
    const int4 x = load_ints(corner(s, me));
    barrier_wait(me.empty(s, ring.slot), ring.phase ^ 1);
    const u32 bar = me.full(s, ring.slot);
    if (me.lane == 0) barrier_expect(bar, present * kCopied * kPlanes * kBoxBytes);
    __syncwarp();
    if (box < (kWindow ? 1 : present))  // a window is one copy: 16 took three times as long
      load_columns(to, plane ? low : high, x.x + (short)next.x, x.y + (next.x >> 16),
                   x.z + (short)next.y, x.w + (next.y >> 16), next.z, bar);
    if (me.lane < kRecordCopies) {
      const u32 bytes = (after - record) * kRecord;
      barrier_expect(bar, bytes);
      load_bytes(slot + s.boxes * kCopied * kPlanes * kBoxBytes + me.lane * s.unit_bytes,
                 p.records + record * kRecord, bytes, bar);
    }
  }
};
