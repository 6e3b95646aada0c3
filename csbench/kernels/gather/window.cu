// Windows over the pixels of each channel, on channels that are runs of columns (gather/conv.cu):
// max pooling, the mean over all pixels, depthwise convolution.
//
// Set by -D: CS_BF16, GATHER_PLANES, GATHER_VECTOR (neighbouring images of a thread: 8 or 1)
#include "gather/columns.cuh"

constexpr int kVector = GATHER_VECTOR;

struct Window {
  int images, channels, height, width, out_height, out_width;
  int kernel[2], stride[2], padding[2], dilation[2];
  long long threads;
};

struct Pixels {  // of kVector neighbouring images
  float v[kVector];
};

__device__ __forceinline__ Pixels read_pixels(const u16* x, const Columns& c, long long at) {
  Pixels p;
  if constexpr (kVector == 1) {
    p.v[0] = read_number(x + at, c.plane);
  } else {
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      const uint4 q = *reinterpret_cast<const uint4*>(x + plane * c.plane + at);
      const u32 words[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float a, b;
        unpack2(words[i], a, b);
        p.v[2 * i] = plane ? p.v[2 * i] + a : a, p.v[2 * i + 1] = plane ? p.v[2 * i + 1] + b : b;
      }
    }
  }
  return p;
}

__device__ __forceinline__ void write_pixels(u16* y, const Columns& c, long long at, Pixels p) {
  if constexpr (kVector == 1) {
    write_number(y + at, c.plane, p.v[0]);
  } else {
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      u32 words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        words[i] = pack2(p.v[2 * i], p.v[2 * i + 1]);
        float a, b;
        unpack2(words[i], a, b);
        p.v[2 * i] -= a, p.v[2 * i + 1] -= b;
      }
      *reinterpret_cast<uint4*>(y + plane * c.plane + at) =
          make_uint4(words[0], words[1], words[2], words[3]);
    }
  }
}

// What a thread computes: images from n on, one channel, one output pixel.
struct Task {
  int n, c, h, w;
  bool inside;
};

__device__ __forceinline__ Task task_of(const Window& s) {
  // In the order of memory: images, or columns of a line, are neighbours of a channel.
  long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
  Task t;
  t.inside = i < s.threads;
  const int vectors = (s.images + kVector - 1) / kVector;
  if constexpr (kVector > 1) {
    t.n = int(i % vectors) * kVector, i /= vectors;
    t.c = int(i % s.channels), i /= s.channels;
    t.w = int(i % s.out_width), t.h = int(i / s.out_width);
  } else {
    t.w = int(i % s.out_width), i /= s.out_width;
    t.h = int(i % s.out_height), i /= s.out_height;
    t.n = int(i % vectors), t.c = int(i / vectors);
  }
  return t;
}

// Calls visit(tap, pixels) for every tap of the window that lies inside the image.
template <class Visit>
__device__ __forceinline__ void walk(const u16* x, const Columns& from, const Window& s,
                                     const Task& t, const Visit& visit) {
  for (int r = 0; r < s.kernel[0]; ++r) {
    const int h = t.h * s.stride[0] - s.padding[0] + r * s.dilation[0];
    if (h < 0 || h >= s.height) continue;
    for (int q = 0; q < s.kernel[1]; ++q) {
      const int w = t.w * s.stride[1] - s.padding[1] + q * s.dilation[1];
      if (w < 0 || w >= s.width) continue;
      visit(r * s.kernel[1] + q, read_pixels(x, from, from.at(t.n, t.c, h, w)));
    }
  }
}

extern "C" __global__ void max_pool(const u16* x, u16* y, const Columns from, const Columns to,
                                    const Window s) {
  let_successor_start();
  await_predecessor();
  const Task t = task_of(s);
  if (!t.inside) return;
  Pixels best;
#pragma unroll
  for (int i = 0; i < kVector; ++i) best.v[i] = -__int_as_float(0x7f800000);
  walk(x, from, s, t, [&](int, const Pixels& p) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) best.v[i] = max_or_nan(best.v[i], p.v[i]);
  });
  write_pixels(y, to, to.at(t.n, t.c, t.h, t.w), best);
}

// activation: 0 none, 1 ReLU, 2 ReLU6 (at most `limit`). weights [channels, taps] in float.
extern "C" __global__ void depthwise(const u16* x, u16* y, const float* weights, const float* bias,
                                     float scale, int activation, float limit, const Columns from,
                                     const Columns to, const Window s) {
  let_successor_start();
  await_predecessor();
  const Task t = task_of(s);
  if (!t.inside) return;
  const float* mine = weights + t.c * s.kernel[0] * s.kernel[1];
  Pixels sum = {};
  walk(x, from, s, t, [&](int tap, const Pixels& p) {
    const float weight = __ldg(mine + tap);
#pragma unroll
    for (int i = 0; i < kVector; ++i) sum.v[i] += weight * p.v[i];
  });
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    float v = sum.v[i] * scale + __ldg(bias + t.c);
    if (activation) v = min_or_nan(relu(v), limit);
    sum.v[i] = v;
  }
  write_pixels(y, to, to.at(t.n, t.c, t.h, t.w), sum);
}

// Elements between a channel's first pixel and pixel q. Where images are neighbours, pixels are
// evenly spaced.
__device__ __forceinline__ long long pixel_at(const Columns& c, const Window& s, int q) {
  if constexpr (kVector > 1) return q * c.width;
  const int h = q / s.width;
  return h * c.height + (q - h * s.width) * c.width;
}

// The mean over all pixels. An item is kVector images of a channel, whose pixels are shared by
// lanes of a warp; neighbouring lanes read what is neighbours in memory: items or else pixels.
// The bounds leave registers for a batch of reads; without them three are on their way.
extern "C" __global__ void __launch_bounds__(128, 8)
    mean_pool(const u16* x, u16* y, const Columns from, const Columns to, const Window s) {
  constexpr int kLanes = kVector > 1 ? 8 : 32, kItems = 32 / kLanes;
  constexpr int kBatch = kVector == 1 ? 2 : kPlanes == 1 ? 7 : 4;  // pixels on their way
  let_successor_start();
  const int thread = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x % 32;
  const int vectors = (s.images + kVector - 1) / kVector, items = vectors * s.channels;
  const int mine = thread / 32 * kItems + lane % kItems;
  const int item = min(mine, items - 1);  // all lanes stay: their sums meet
  const int c = item / vectors, n = (item - c * vectors) * kVector;
  const u16* first = x + from.at(n, c, 0, 0);
  const int pixels = s.height * s.width, last = pixels - 1;
  const float share = 1.f / pixels;
  await_predecessor();
  Pixels sum = {};
  for (int p = lane / kItems; p < pixels; p += kBatch * kLanes) {
    Pixels v[kBatch];
#pragma unroll
    for (int k = 0; k < kBatch; ++k)  // the last pixel again beyond it: reads without branches
      v[k] = read_pixels(first, from, pixel_at(from, s, min(p + k * kLanes, last)));
#pragma unroll
    for (int k = 0; k < kBatch; ++k)
#pragma unroll
      for (int i = 0; i < kVector; ++i) sum.v[i] += p + k * kLanes <= last ? v[k].v[i] : 0.f;
  }
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
#pragma unroll
    for (int by = 16; by >= kItems; by /= 2)
      sum.v[i] += __shfl_xor_sync(0xffffffffu, sum.v[i], by);
    sum.v[i] *= share;
  }
  if (lane < kItems && mine < items) write_pixels(y, to, to.at(n, c, 0, 0), sum);
}
