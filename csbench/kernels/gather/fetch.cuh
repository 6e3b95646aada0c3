// A warp's way through its records, each of which it reads from memory.
#pragma once
#include "gather/multiply.cuh"

__device__ __forceinline__ void load_record(Record& r, const unsigned char* from, int lane) {
#pragma unroll
  for (int plane = 0; plane < kPlanes; ++plane) {
    if constexpr (kN == 1) {
      const uint2 v = __ldg(reinterpret_cast<const uint2*>(from + plane * 256) + lane);
      r.weights[plane][0] = v.x, r.weights[plane][1] = v.y;
    } else {
#pragma unroll
      for (int q = 0; q < kN / 2; ++q) {
        const uint4 v =
            __ldg(reinterpret_cast<const uint4*>(from + (plane * (kN / 2) + q) * 512) + lane);
        u32* w = r.weights[plane] + 4 * q;
        w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w;
      }
    }
  }
  r.row = __ldg(reinterpret_cast<const u16*>(from + row_in_record(lane)));
}

// The records of a warp, one after another and from the last back to the first: GATHER_AHEAD of
// them are on their way. They take turns in `held`, which the unrolled loop in accumulate() follows,
// so that no register is copied (a copy would wait for the load).
struct Reader {
  static constexpr int kHeld = GATHER_AHEAD + 1;
  u32 records, last, next;  // bytes from the first record: of a tile, and what is fetched next
  Record held[kHeld];
  int turn = 0;  // the one that comes next
  int stages;    // of this warp in every tile

  __device__ __forceinline__ Reader(const Pointers& p, const Shape& s, const Me& me) {
    const int from = first_stage(s, me.rank, me.part), to = first_stage(s, me.rank, me.part + 1);
    const int* starts = p.starts + me.unit * (s.stages + 1);
    stages = to - from;
    records = __ldg(starts + from) * kRecord, last = __ldg(starts + to) * kRecord - kRecord;
    next = records;
    if (stages)
#pragma unroll
      for (int i = 0; i < GATHER_AHEAD; ++i) fetch(held[i], p, me.lane);
  }

  __device__ __forceinline__ void fetch(Record& into, const Pointers& p, int lane) {
    load_record(into, p.records + next, lane);
    next = next == last ? records : next + kRecord;
  }
};

// This warp's stages of a tile into `sum`; `refill` is called once in every stage, before the next
// one is waited for.
template <class Refill>
__device__ __forceinline__ void accumulate(float (&sum)[kM][kN][4], Reader& reader, Ring& ring,
                                           const Pointers& p, const Shape& s, const Me& me,
                                           const Refill& refill) {
  const u32 plane_bytes = s.boxes * kBoxBytes, mine = columns_of(s, me, plane_bytes);
  clear(sum);
  if (!reader.stages) return;
#if GATHER_PROMOTE
  float part[kM][kN][4] = {};
  int steps = 0;
#else
  auto& part = sum;
#endif
  const auto pixels_of = [&](int slot) { return me.ring + slot * s.slot_bytes + mine; };
  int left = reader.stages, age = 0;  // age: records since the stage began
  u32 pixels = pixels_of(ring.slot);
  barrier_wait(me.full(s, ring.slot), ring.phase);
  // The slot of the stage before is filled again one record late, when other warps have left it too.
  const int late = s.slots > 2;
  // One k-step, while a later record is fetched; true at the end of the tile.
  const auto step = [&](const Record& now, Record& later) {
    const bool ends = now.ends();
    reader.fetch(later, p, me.lane);
    if (age == late || (ends && age < late)) refill();
    u32 from = pixels;
#if !GATHER_SPLIT
    if (ends && left > 1) {  // the record may hold channels of the next stage
      Ring next = ring;
      next.advance(1, s.slots);
      barrier_wait(me.full(s, next.slot), next.phase);
      if (now.ahead()) from = pixels_of(next.slot);
    }
#endif
    if (!now.empty()) multiply(part, now, from, plane_bytes, me.lane);
#if GATHER_PROMOTE
    if (++steps == GATHER_PROMOTE) {
      steps = 0;
#pragma unroll
      for (int i = 0; i < kM * kN * 4; ++i)
        (&sum[0][0][0])[i] += (&part[0][0][0])[i], (&part[0][0][0])[i] = 0.f;
    }
#endif
    ++age;
    if (!ends) return false;
    __syncwarp();
    if (me.lane == 0) barrier_arrive(me.empty(s, ring.slot));
    ring.advance(kParts, s.slots);
    pixels = pixels_of(ring.slot), age = 0;
    if (--left == 0) return true;
    if (GATHER_SPLIT) barrier_wait(me.full(s, ring.slot), ring.phase);
    return false;
  };
  constexpr int kHeld = Reader::kHeld;
  Record(&held)[kHeld] = reader.held;
  switch (reader.turn) {
    while (true) {
      case 0:
        reader.turn = 1;
        if (step(held[0], held[kHeld - 1])) break;
#if GATHER_AHEAD >= 2
        [[fallthrough]];
      case 1:
        reader.turn = 2;
        if (step(held[1], held[0])) break;
#endif
#if GATHER_AHEAD >= 3
        [[fallthrough]];
      case 2:
        reader.turn = 3;
        if (step(held[2], held[1])) break;
#endif
        [[fallthrough]];
      default:
        reader.turn = 0;
        if (step(held[kHeld - 1], held[kHeld - 2])) break;
    }
  }
#if GATHER_PROMOTE
#pragma unroll
  for (int i = 0; i < kM * kN * 4; ++i) (&sum[0][0][0])[i] += (&part[0][0][0])[i];
#endif
}
