// ResNet's beginning in one kernel: a first convolution with stride 2 and 2 to 4 input channels
// (dense, on wgmma), its activation, and max pooling 3x3 with stride 2 and padding 1; from torch's
// layout into the activation format of cs_wgmma.cu.
//
// No im2col is made, not even in shared memory. A staged line holds 4 channels a column, so that
// two columns are the 16 bytes of one row of a core matrix and the next output pixel, two columns
// on, is the next row: the lines themselves are wgmma's unswizzled K-major operand, read with
// overlap. Even and odd lines lie apart, which makes the lines of consecutive output rows
// neighbours too. A line of 32 such slots gives 29 columns; the rest is computed and dropped.
//
// A block walks down a strip of 14 pooled columns, 8 rows of the convolution (4 pooled rows) at a
// time: one warpgroup stages the image, two multiply and pool. The last row's maxima stay in
// registers for the next step.
//
// Set by -D: CS_BF16 CS_PLANES CS_PLAIN, STEM_CHANNELS STEM_H STEM_W STEM_PAD
#include "cs_wgmma.cuh"

constexpr int kPlanes = CS_PLANES;
constexpr int kSlots = 32;                         // of 16 bytes in a line
constexpr int kTapSlots = (STEM_W + 3) / 4 * 2;    // slots under the kernel, a multiple of 2
constexpr int kColumns = (kSlots - kTapSlots) / 2; // pooled columns of a strip
constexpr int kRows = 8;                           // of the convolution in one step
constexpr int kLines = 2 * (kRows - 1) + STEM_H;
constexpr int kEvenLines = (kLines + 1) / 2;
constexpr int kLineBytes = kSlots * 16;
constexpr int kImageBytes = kLines * kLineBytes + 128;  // of one plane; the overlap reads beyond
constexpr int kSteps = STEM_H * kTapSlots / 2;          // of 16 in K
constexpr int kWeightBytes = kSteps * 2048;             // of one plane
constexpr int kPixels = kRows * kSlots;
constexpr int kResultBytes = kPixels * 128;             // of one plane, 64 channels
constexpr int kItems = (kLines * kSlots * 2 + 127) / 128;      // columns a thread stages

struct StemShape {
  long long n, c, h, w;                               // strides of the image in elements
  int images, height, width, out_height, out_width;   // of the convolution
  int final_height, final_width;                      // after pooling
  int strips, chunks, blocks, relu;                   // strips a row; chunks (of 8 rows) of an item
  int items;                                          // images * strips * segments
};

__device__ __forceinline__ float read_plain(const void* x, long long i) {
#if CS_PLAIN == 0
  return static_cast<const float*>(x)[i];
#elif CS_PLAIN == 1
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(static_cast<const u16*>(x)[i]));
  return f;
#else
  return __uint_as_float(u32(static_cast<const u16*>(x)[i]) << 16);
#endif
}

struct Item {  // a strip of an image and a run of chunks; `from` may only warm the carried row up
  int image, strip, from, first, last;
};

__device__ __forceinline__ Item item_of(int index, const StemShape& s) {
  const int total = (s.out_height + kRows - 1) / kRows;
  const int segments = (total + s.chunks - 1) / s.chunks;
  Item item;
  item.first = index % segments * s.chunks;
  item.last = min(item.first + s.chunks, total);
  item.from = max(item.first - 1, 0);
  item.strip = index / segments % s.strips;
  item.image = index / segments / s.strips;
  return item;
}

// One chunk's lines as 16-bit numbers, 4 channels a column, zero outside the image.
__device__ __forceinline__ void stage(const void* x, float gain, u32 to, const Item& item,
                                      int chunk, const StemShape& s) {
  const int y0 = chunk * kRows * 2 - STEM_PAD;
  const int x0 = (item.strip * kColumns * 2 - 1) * 2 - STEM_PAD;
  const int thread = threadIdx.x % 128, column = thread % 64, xx = x0 + column;
  float v[kItems][STEM_CHANNELS];
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const int line = 2 * i + thread / 64, y = y0 + line;
    const bool inside = line < kLines && y >= 0 && y < s.height && xx >= 0 && xx < s.width;
#pragma unroll
    for (int c = 0; c < STEM_CHANNELS; ++c)
      v[i][c] = inside ? read_plain(x, item.image * s.n + c * s.c + y * s.h + xx * s.w) : 0.f;
  }
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const int line = 2 * i + thread / 64;
    if (line >= kLines) continue;
    float full[4] = {0.f, 0.f, 0.f, 0.f};
#pragma unroll
    for (int c = 0; c < STEM_CHANNELS; ++c) full[c] = gain * v[i][c];
    const u32 a = pack2(full[0], full[1]), b = pack2(full[2], full[3]);
    const u32 at = to + ((line % 2 ? kEvenLines : 0) + line / 2) * kLineBytes + column * 8;
    store_pair(at, a, b);
    if (kPlanes == 2) {
      float h0, h1, h2, h3;
      unpack2(a, h0, h1);
      unpack2(b, h2, h3);
      store_pair(at + kImageBytes, pack2(full[0] - h0, full[1] - h1),
                 pack2(full[2] - h2, full[3] - h3));
    }
  }
}

// 64 channels x 4 rows of 32 pixels for one warpgroup.
__device__ __forceinline__ void multiply(float (&acc)[64], u32 image, u32 weights, int group) {
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
    const int r = 2 * k / kTapSlots, slot = 2 * k % kTapSlots;
    const int line = (r % 2 ? kEvenLines : 0) + r / 2;
#pragma unroll
    for (int product = 0; product < 2 * kPlanes - 1; ++product) {
      const int w_plane = product == 1, x_plane = product == 2;
      const u64 a = plain_operand(weights + w_plane * kWeightBytes + k * 2048, 1024, 128);
      const u64 b = plain_operand(image + x_plane * kImageBytes +
                                      (line + 4 * group) * kLineBytes + slot * 16, 16, 128);
      wgmma_dense(acc, a, b, k || product);
    }
  }
  wgmma_commit();
  wgmma_wait<0>();
}

// Scale, bias and activation of the warpgroup's pixels into `result` (as in cs_wgmma.cu).
__device__ __forceinline__ void keep(const float (&acc)[64], u32 result, float scale0, float bias0,
                                     float scale1, float bias1, int act, int group) {
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const int matrix = lane / 8, pixel = group * 128 + 8 * (matrix / 2) + lane % 8;
  const u32 at = result + pixel * 128 + (((warp * 2 + matrix % 2) ^ (lane & 7)) << 4);
#pragma unroll
  for (int q = 0; q < 8; ++q) {
    u32 high[4], low[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float scale = i % 2 ? scale1 : scale0, bias = i % 2 ? bias1 : bias0;
      float a = acc[q * 8 + 2 * i] * scale + bias, b = acc[q * 8 + 2 * i + 1] * scale + bias;
      if (act) a = relu(a), b = relu(b);
      high[i] = pack2(a, b);
      float c, d;
      unpack2(high[i], c, d);
      low[i] = pack2(a - c, b - d);
    }
    store_transposed(at + q * 2048, high);
    if (kPlanes == 2) store_transposed(at + kResultBytes + q * 2048, low);
  }
}

__device__ __forceinline__ float max_or_nan(float a, float b) {
  float r;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}

constexpr float kLowest = -3.402823466e38f;

// The largest of three neighbours in one row of the convolution, two channels at once.
__device__ __forceinline__ float2 row_max(u32 result, int row, int column, int pair, int x0,
                                          int width) {
  float2 best = make_float2(kLowest, kLowest);
#pragma unroll
  for (int d = 0; d < 3; ++d) {
    const int pixel = row * kSlots + 2 * column + d, x = x0 + 2 * column + d;
    if (x < 0 || x >= width) continue;
    const u32 at = result + pixel * 128 + (((pair / 4) ^ (pixel & 7)) << 4) + pair % 4 * 4;
    float a, b;
    unpack2(load_word(at), a, b);
    if (kPlanes == 2) {
      float c, e;
      unpack2(load_word(at + kResultBytes), c, e);
      a += c, b += e;
    }
    best.x = max_or_nan(best.x, a), best.y = max_or_nan(best.y, b);
  }
  return best;
}

// 4 pooled rows of one column and two channels; `carry` is the row above, then the last row.
__device__ __forceinline__ void pool(u32 result, u32* y, const Item& item, int chunk, int column,
                                     int pair, int block, float2& carry, const StemShape& s) {
  const int x0 = item.strip * kColumns * 2 - 1, px = item.strip * kColumns + column;
  const bool write = chunk >= item.first && px < s.final_width;
#pragma unroll
  for (int k = 0; k < kRows / 2; ++k) {
    const int row = chunk * kRows + 2 * k, py = chunk * kRows / 2 + k;
    float2 best = carry, low = make_float2(kLowest, kLowest);
    if (row < s.out_height) {
      const float2 v = row_max(result, 2 * k, column, pair, x0, s.out_width);
      best.x = max_or_nan(best.x, v.x), best.y = max_or_nan(best.y, v.y);
    }
    if (row + 1 < s.out_height) low = row_max(result, 2 * k + 1, column, pair, x0, s.out_width);
    best.x = max_or_nan(best.x, low.x), best.y = max_or_nan(best.y, low.y);
    carry = low;
    if (!write || py >= s.final_height) continue;
    const size_t pixel = (size_t(item.image) * s.final_height + py) * s.final_width + px;
    u32* const to = y + (pixel * s.blocks + block) * kPlanes * 32;
    const u32 high = pack2(best.x, best.y);
    to[pair] = high;
    if (kPlanes == 2) {
      float c, d;
      unpack2(high, c, d);
      to[32 + pair] = pack2(best.x - c, best.y - d);
    }
  }
}

extern "C" __global__ void __launch_bounds__(384, 1)
    stem_pool(const void* x, u32* y, const unsigned char* weights, const float* scale,
              const float* bias, const float* gain, const StemShape s) {
  extern __shared__ unsigned char memory[];
  const u32 held = (shared_address(memory) + 1023) & ~1023u;  // weights
  const u32 result = held + kPlanes * kWeightBytes;
  const u32 images = result + kPlanes * kResultBytes;          // two buffers
  const u32 full = images + 2 * kPlanes * kImageBytes, empty = full + 16, ready = empty + 16;
  const int block = blockIdx.y;
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; ++i) barrier_init(full + 8 * i, 128), barrier_init(empty + 8 * i, 8);
    barrier_init(ready, 1);
    fence_barrier_init();
  }
  __syncthreads();
  start_next_kernel();
  wait_previous_kernel();

  const int group = threadIdx.x / 128;
  int buffer = 0;
  u32 phase = 0;
  if (group == 2) {
    if (threadIdx.x == 256) {
      barrier_expect(ready, kPlanes * kWeightBytes);
      load_bytes(held, weights + size_t(block) * kPlanes * kWeightBytes, kPlanes * kWeightBytes,
                 ready);
    }
    const float g = *gain;
    for (int index = blockIdx.x; index < s.items; index += gridDim.x) {
      const Item item = item_of(index, s);
      for (int chunk = item.from; chunk < item.last; ++chunk) {
        barrier_wait(empty + 8 * buffer, phase ^ 1);
        stage(x, g, images + buffer * kPlanes * kImageBytes, item, chunk, s);
        fence_async();
        barrier_arrive(full + 8 * buffer);
        buffer ^= 1, phase ^= !buffer;
      }
    }
    return;
  }
  const int lane = threadIdx.x % 32;
  const int row = block * 64 + threadIdx.x / 32 % 4 * 16 + lane / 4;
  const float scale0 = scale[row], scale1 = scale[row + 8];
  const float bias0 = bias[row], bias1 = bias[row + 8];
  barrier_wait(ready, 0);
  for (int index = blockIdx.x; index < s.items; index += gridDim.x) {
    const Item item = item_of(index, s);
    constexpr int kTurns = (kColumns * 32 + 255) / 256;
    float2 carry[kTurns];
#pragma unroll
    for (int i = 0; i < kTurns; ++i) carry[i] = make_float2(kLowest, kLowest);
    for (int chunk = item.from; chunk < item.last; ++chunk) {
      float acc[64];
      barrier_wait(full + 8 * buffer, phase);
      multiply(acc, images + buffer * kPlanes * kImageBytes, held, group);
      if (lane == 0) barrier_arrive(empty + 8 * buffer);
      buffer ^= 1, phase ^= !buffer;
      keep(acc, result, scale0, bias0, scale1, bias1, s.relu, group);
      sync_threads(1, 256);
#pragma unroll
      for (int i = 0; i < kTurns; ++i) {
        const int column = (threadIdx.x + 256 * i) / 32;
        if (column < kColumns) pool(result, y, item, chunk, column, lane, block, carry[i], s);
      }
      sync_threads(1, 256);
    }
  }
}
