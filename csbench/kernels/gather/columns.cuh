// Activations as channels that are runs of columns: where an element lies, and its numbers.
#pragma once
#include "instructions.cuh"
#include "wgmma/common.cuh"

constexpr int kPlanes = GATHER_PLANES;

// Element (image, channel, height, width); images lie in blocks of `inner` neighbours.
struct Columns {
  int inner;
  long long image_block, image, channel, height, width, plane;

  __device__ __forceinline__ long long at(int n, int c, int h, int w) const {
    return n / inner * image_block + n % inner * image + c * channel + h * height + w * width;
  }
};

__device__ __forceinline__ float read_number(const u16* from, long long plane) {
  float v, unused;
  unpack2(*from, v, unused);
  if (kPlanes == 2) {
    float low;
    unpack2(from[plane], low, unused);
    v += low;
  }
  return v;
}

__device__ __forceinline__ void write_number(u16* to, long long plane, float v) {
  const u32 high = pack2(v, 0.f);
  *to = u16(high);
  if (kPlanes == 2) {
    float rounded, unused;
    unpack2(high, rounded, unused);
    to[plane] = u16(pack2(v - rounded, 0.f));
  }
}
