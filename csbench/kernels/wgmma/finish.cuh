// The end of a convolution: from sums in registers to 16-bit numbers in shared memory, NHWC.
#pragma once
#include "wgmma/common.cuh"

struct Rows {  // scale and bias of a thread's two output channels, 8 apart
  float scale[2], bias[2];
};

// Scale, bias, residual, activation and rounding of 16 pixels x 16 output channels of one warp.
// `at` is this lane's row (a pixel) of the four 8x8 matrices; with two planes the low halves lie
// kPlaneBytes further. A residual is read from where the result is written.
template <int kPlanes, int kPlaneBytes>
__device__ __forceinline__ void finish(const float* acc, const Rows& rows, u32 at, int act,
                                       int residual, float residual_scale) {
  float v[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) v[i] = acc[i] * rows.scale[i / 2 % 2] + rows.bias[i / 2 % 2];
  if (residual) {
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      u32 r[4];
      load_transposed(r, at + plane * kPlaneBytes);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float low, high;
        unpack2(r[i], low, high);
        v[2 * i] += low * residual_scale;
        v[2 * i + 1] += high * residual_scale;
      }
    }
  }
  u32 r[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (act) v[2 * i] = relu(v[2 * i]), v[2 * i + 1] = relu(v[2 * i + 1]);
    r[i] = pack2(v[2 * i], v[2 * i + 1]);
  }
  store_transposed(at, r);
  if (kPlanes == 2) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float low, high;
      unpack2(r[i], low, high);
      r[i] = pack2(v[2 * i] - low, v[2 * i + 1] - high);
    }
    store_transposed(at + kPlaneBytes, r);
  }
}
