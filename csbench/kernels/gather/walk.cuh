// A warp's way through its records, which the ring of stages brings with the activations.
#pragma once
#include "gather/multiply.cuh"

__device__ __forceinline__ void load_weights(Record& r, u32 from, int lane) {
#pragma unroll
  for (int plane = 0; plane < kPlanes; ++plane) {
    if constexpr (kN == 1) {
#pragma unroll
      for (int i = 0; i < 2; ++i)
        r.weights[plane][i] = load_word(from + plane * 256 + lane * 8 + 4 * i);
    } else {
#pragma unroll
      for (int q = 0; q < kN / 2; ++q) {
        const int4 v = load_ints(from + (plane * (kN / 2) + q) * 512 + lane * 16);
        u32* w = r.weights[plane] + 4 * q;
        w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w;
      }
    }
  }
}

// This warp's stages of a tile into `sum`; `refill` is called once in every stage, before the next
// one is waited for.
template <class Refill>
__device__ __forceinline__ void accumulate(float (&sum)[kM][kN][4], Reader&, Ring& ring,
                                           const Pointers&, const Shape& s, const Me& me,
                                           const Refill& refill) {
  clear(sum);
  const u32 plane_bytes = s.boxes * kBoxBytes, mine = columns_of(s, me, plane_bytes);
  const u32 records = s.boxes * kCopied * kPlanes * kBoxBytes + me.group * s.unit_bytes;
  const u32 row_at = row_in_record(me.lane);
  u32 stage = me.ring + ring.slot * s.slot_bytes, record = stage + records;
  barrier_wait(me.full(s, ring.slot), ring.phase);
  Record now;
  now.row = load_short(record + row_at);
  // The slot of the stage before is filled again one record late, when other warps have left it too.
  int slot = ring.slot, left = s.stages, late = s.slots > 2;
  while (true) {
    const bool ends = now.ends();
    if (late == 0 || (ends && late > 0)) refill(), late = 0;
    --late;
    u32 from = stage, next = record + kRecord;
    if (ends) {
      next = record;
      if (left > 1) {  // the record may hold channels of the next stage
        ring.advance(1, s.slots);
        barrier_wait(me.full(s, ring.slot), ring.phase);
        const u32 following = me.ring + ring.slot * s.slot_bytes;
        if (now.ahead()) from = following;
        next = following + records;
      }
    }
    load_weights(now, record, me.lane);
    const u32 row = load_short(next + row_at);
    if (!now.empty()) multiply(sum, now, from + mine, plane_bytes, me.lane);
    now.row = row, record = next;
    if (!ends) continue;
    __syncwarp();
    if (me.lane == 0) barrier_arrive(me.empty(s, slot));
    stage = next - records, slot = ring.slot, late = s.slots > 2;
    if (--left == 0) break;
  }
  ring.advance(1, s.slots);
}
