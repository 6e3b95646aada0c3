// Two planes of halves, the form in which the kernels of wgmma/ keep fp32 numbers, to channels-last
// floats.
//
// planes  per pixel and 64 channels: 64 high halves, then 64 low ones; a number is their sum times
//         `unscale`
// pieces  groups of eight channels in all

#include "instructions.cuh"

struct alignas(16) Halves {
  u32 pairs[4];
};

extern "C" __global__ void __launch_bounds__(256)
    from_planes(const Halves* __restrict__ planes, float4* __restrict__ y, float unscale,
                int pieces) {
  let_successor_start();
  await_predecessor();
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i >= pieces) return;
  const Halves* at = planes + i / 8 * 16 + i % 8;
  const Halves high = at[0], low = at[8];
#pragma unroll
  for (int q = 0; q < 2; ++q) {
    float v[4];
#pragma unroll
    for (int p = 0; p < 2; ++p) {
      const float2 h = widened_pair<Numbers::fp16>(high.pairs[2 * q + p]);
      const float2 l = widened_pair<Numbers::fp16>(low.pairs[2 * q + p]);
      v[2 * p] = (h.x + l.x) * unscale, v[2 * p + 1] = (h.y + l.y) * unscale;
    }
    y[2 * i + q] = float4{v[0], v[1], v[2], v[3]};
  }
}
