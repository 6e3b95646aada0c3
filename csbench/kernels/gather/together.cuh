// The way of the four warps of a unit through its records, which the ring of stages brings with the
// activations: wgmma takes weights from there, and the columns that each warp has gathered from
// its registers.
#pragma once
#include "gather/multiply.cuh"
#include "wgmma/registers.cuh"

// Whether registers allow to gather a record's columns while the one before is multiplied.
constexpr bool kGatherAhead = kOfOthers >= 128;

// Columns of the four m16 tiles at a record's rows.
struct Gathered {
  u32 x[kM][4];
};

// This warp's stages of a tile into `sum`; `refill` is called once in every stage, before the next
// one is waited for.
template <class Refill>
__device__ __forceinline__ void accumulate(float (&sum)[kM][kN][4], Reader&, Ring& ring,
                                           const Pointers&, const Shape& s, const Me& me,
                                           const Refill& refill) {
  clear(sum);
  const u32 plane_bytes = s.boxes * kBoxBytes, mine = columns_of(s, me, plane_bytes);
  // Stages are seen from this warp's columns on.
  const u32 first = held(me.ring + mine);
  const u32 records = held(s.boxes * kCopied * kBoxBytes + me.group * s.unit_bytes - mine);
  const u32 row_at = held(row_in_record(me.lane));
  u32 stage = first + ring.slot * s.slot_bytes, record = stage + records, next = record;
  barrier_wait(me.full(s, ring.slot), ring.phase);
  Record now, following;
  following.row = load_short(record + row_at);
  // The slot of the stage before is filled again one record late, when other warps have left it too.
  int slot = ring.slot, left = s.stages, late = s.slots > 2;
  // Goes on to the next record, once its columns are there.
  u32 at;
  const auto proceed = [&] {
    now = following, record = next;
    if (!kCopiers) {
      if (late == 0 || (now.ends() && late > 0)) refill(), late = 0;
      --late;
    }
    u32 from = stage;
    next = record + kRecord;
    if (now.ends()) {
      next = record;
      if (left > 1) {  // the record may hold channels of the next stage
        ring.advance(1, s.slots);
        barrier_wait(me.full(s, ring.slot), ring.phase);
        const u32 other = first + ring.slot * s.slot_bytes;
        if (now.ahead()) from = other;
        next = other + records;
      }
    }
    following.row = load_short(next + row_at);
    at = start_of(now, from, me.lane);
  };
  const auto gather = [&](Gathered& into) {
    if (!now.empty())
#pragma unroll
      for (int m = 0; m < kM; ++m) load_transposed(into.x[m], tile_of(at, m));
  };
  // Multiplies a record's columns while those of the next one are gathered, or at least looked for;
  // true at the end of the tile.
  const auto step = [&](const Gathered& columns, Gathered& other) {
    if (!now.empty()) {
      const u64 weights = plain_operand(record, 128, 256);
      wgmma_fence();
#pragma unroll
      for (int m = 0; m < kM; ++m) wgmma_rows(sum[m], columns.x[m], weights);
      wgmma_commit();
    }
    if (now.ends()) {
      wgmma_wait<0>();
      __syncwarp();
      if (me.lane == 0) barrier_arrive(me.empty(s, slot));
      stage = next - records, slot = ring.slot, late = s.slots > 2;
      if (--left == 0) return true;
    }
    proceed();
    if (kGatherAhead) gather(other);
    wgmma_wait<0>();
    if (!kGatherAhead) gather(other);
    return false;
  };
  Gathered x[1 + kGatherAhead];
  proceed();
  gather(x[0]);
  while (!step(x[0], x[kGatherAhead]) && !step(x[kGatherAhead], x[0])) continue;
  ring.advance(1, s.slots);
}
