// The result once more, as the next layer reads it: every line once for each horizontal tap of that
// layer, moved to the output column that reads it there, zero outside the image. The copy engine
// reads from multiples of 16 bytes only, so it cannot step aside itself.
//
// The next layer reads at most a column aside, and every or every other column: what a lane stores
// for a tap is what it has, and one number of its neighbour's.
#pragma once
#include "gather/shape.cuh"

// Eight columns of a line that a lane has in its scratch at `from`, the number before and that after.
struct Line {
  u32 v[4], before, after;  // zero outside the image
  int first, width;
  bool knows_before, knows_after;  // else the neighbours are another warp's, or far

  __device__ __forceinline__ Line(const Unfolding& u, const Me& me, u32 from, int first)
      : before(0), after(0), first(first), width(u.width) {
    const int4 numbers = load_ints(from);
    v[0] = numbers.x, v[1] = numbers.y, v[2] = numbers.z, v[3] = numbers.w;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (first + 2 * i >= width) v[i] = 0;
      if (first + 2 * i + 1 >= width) v[i] &= 0xffff;
    }
    const int chunk = me.lane % 8, quarter = u.joined ? chunk % 4 : -1;
    knows_before = first == 0 || quarter > 0;
    knows_after = first + 8 >= width || (quarter >= 0 && quarter < 3);
    if (first && knows_before) before = u16(load_short(neighbour(from, chunk, chunk - 1) + 14));
    if (first + 8 < width && knows_after) after = u16(load_short(neighbour(from, chunk, chunk + 1)));
  }
  // Another eight columns of the row, whose places are exchanged by the row's number.
  __device__ __forceinline__ u32 neighbour(u32 from, int chunk, int other) const {
    return (from & ~0x70u) | (from & 0x70u) ^ (chunk ^ other) << 4;
  }

  // Every column, read `offset` aside.
  __device__ __forceinline__ void store_all(u16* line, int offset) const {
    u16* to = line + first;
    if (offset == 0) {
      *reinterpret_cast<uint4*>(to) = make_uint4(v[0], v[1], v[2], v[3]);
    } else if (offset < 0) {
      const u32 w[4] = {before | v[0] << 16, v[0] >> 16 | v[1] << 16, v[1] >> 16 | v[2] << 16,
                        v[2] >> 16 | v[3] << 16};
      if (knows_before) {
        *reinterpret_cast<uint4*>(to) = make_uint4(w[0], w[1], w[2], w[3]);
      } else {
        to[1] = u16(v[0]);
        for (int i = 1; i < 4; ++i) reinterpret_cast<u32*>(to)[i] = w[i];
      }
      if (!knows_after) to[8] = u16(v[3] >> 16);
    } else {
      const u32 w[4] = {v[0] >> 16 | v[1] << 16, v[1] >> 16 | v[2] << 16, v[2] >> 16 | v[3] << 16,
                        v[3] >> 16 | after << 16};
      if (knows_after) {
        *reinterpret_cast<uint4*>(to) = make_uint4(w[0], w[1], w[2], w[3]);
      } else {
        for (int i = 0; i < 3; ++i) reinterpret_cast<u32*>(to)[i] = w[i];
        to[6] = u16(v[3] >> 16);
      }
      if (!knows_before) to[-1] = u16(v[0]);
    }
  }

  // Every other column, read `offset` aside.
  __device__ __forceinline__ void store_half(u16* line, int offset) const {
    u16* to = line + first / 2;
    u32* words = reinterpret_cast<u32*>(to);
    const u32 odd[2] = {v[0] >> 16 | (v[1] & 0xffff0000), v[2] >> 16 | (v[3] & 0xffff0000)};
    if (offset == 0) {
      words[0] = (v[0] & 0xffff) | v[1] << 16, words[1] = (v[2] & 0xffff) | v[3] << 16;
    } else if (offset > 0) {
      words[0] = odd[0], words[1] = odd[1];
    } else {
      if (knows_before)
        words[0] = before | odd[0] << 16;
      else
        to[1] = u16(odd[0]);
      words[1] = odd[0] >> 16 | odd[1] << 16;
      if (!knows_after) to[4] = u16(odd[1] >> 16);
    }
  }
};

// Sixteen bytes of a plane of the result, which lie in the scratch at `from`.
__device__ __forceinline__ void unfold(const Pointers& p, const Shape& s, const Me& me, int at,
                                       int plane, u32 from) {
  const Unfolding& u = s.unfolding;
  const int line = u.pitch.of(at);
  const Line mine(u, me, from, at - line * u.pitch.by);
  u16* to = p.unfolded + plane * u.plane + line * u.taps * u.out_pitch;
  for (int tap = 0; tap < u.taps; ++tap, to += u.out_pitch) {
    const int offset = tap * u.dilation - u.padding;
    if (u.stride == 1)
      mine.store_all(to, offset);
    else
      mine.store_half(to, offset);
  }
}
