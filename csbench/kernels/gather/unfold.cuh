// The result once more, as the next layer reads it: every line once for each horizontal tap of that
// layer, moved to the output column that reads it there, zero outside the image. The copy engine
// reads from multiples of 16 bytes only, so it cannot step aside itself.
#pragma once
#include "gather/shape.cuh"

// Sixteen bytes of a plane of the result: eight columns of a line.
__device__ __forceinline__ void unfold(const Pointers& p, const Shape& s, int at, int plane,
                                       int4 numbers) {
  const Unfolding& u = s.unfolding;
  const u32 words[4] = {u32(numbers.x), u32(numbers.y), u32(numbers.z), u32(numbers.w)};
  const int line = u.pitch.of(at), first = at - line * u.pitch.by;
  for (int tap = 0; tap < u.taps; ++tap) {
    u16* to = p.unfolded + plane * u.plane + (line * u.taps + tap) * u.out_pitch;
    const int offset = tap * u.dilation - u.padding;  // output column o reads o * stride + offset
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const int column = first + k - offset, out = u.stride.of(max(column, 0));
      if (column >= 0 && first + k < u.width && out < u.out_width && out * u.stride.by == column)
        to[out] = u16(words[k / 2] >> 16 * (k & 1));
    }
    if (first == 0)
      for (int o = 0; o < u.out_width && o * u.stride.by + offset < 0; ++o) to[o] = 0;
    if (first + 8 >= u.width)
      for (int o = u.out_width - 1; o >= 0 && o * u.stride.by + offset >= u.width; --o) to[o] = 0;
  }
}
