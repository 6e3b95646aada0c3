// What stands around the convolutions of wgmma/conv.cu, on its activation format (NHWC, 16-bit,
// channels padded to 64; two planes: per pixel 64 high then 64 low channels):
// conversion from and to torch's layouts, max pooling, global average pooling.
//
// Set by -D: CS_BF16 CS_PLANES CS_PLAIN (the plain tensors' type: 0 float, 1 fp16, 2 bf16)
#include "wgmma/common.cuh"
#include "wgmma/plain.cuh"

using u8 = unsigned char;
constexpr int kPlanes = CS_PLANES;

struct Image {  // a tensor [images, channels, height, width] by its strides in elements
  long long n, c, h, w;
  int images, channels, height, width;
};

// Two neighbouring channels (an even one and the next) of a pixel's block of 64.
__device__ __forceinline__ void read_pair(const u32* block, int pair, float& a, float& b) {
  unpack2(block[pair], a, b);
  if (kPlanes == 2) {
    float c, d;
    unpack2(block[32 + pair], c, d);
    a += c, b += d;
  }
}
__device__ __forceinline__ void write_pair(u32* block, int pair, float a, float b) {
  const u32 high = pack2(a, b);
  block[pair] = high;
  if (kPlanes == 2) {
    float c, d;
    unpack2(high, c, d);
    block[32 + pair] = pack2(a - c, b - d);
  }
}

constexpr int kPixels = 32;

// plain -> packed, times *gain. Grid: (pixels / 32, channel blocks); 256 threads.
// order[position] is the channel there, -1 where it is padding.
extern "C" __global__ void pack(const void* x, u32* packed, const int* order, const float* gain,
                                const Image image) {
  __shared__ float tile[kPixels][65];
  start_next_kernel();
  wait_previous_kernel();
  const int area = image.height * image.width, pixels = image.images * area;
  const bool channels_first = image.w == 1;
  const float g = *gain;
  for (int i = threadIdx.x; i < kPixels * 64; i += 256) {
    const int p = channels_first ? i % kPixels : i / 64;
    const int position = channels_first ? i / kPixels : i % 64;
    const int channel = order[blockIdx.y * 64 + position], pixel = blockIdx.x * kPixels + p;
    const int n = pixel / area, h = pixel % area / image.width, w = pixel % image.width;
    tile[p][position] =
        channel < 0 || pixel >= pixels
            ? 0.f
            : g * read_plain(x, n * image.n + channel * image.c + h * image.h + w * image.w);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kPixels * 32; i += 256) {
    const int p = i / 32, pair = i % 32, pixel = blockIdx.x * kPixels + p;
    if (pixel < pixels)
      write_pair(packed + (size_t(pixel) * gridDim.y + blockIdx.y) * kPlanes * 32, pair,
                 tile[p][2 * pair], tile[p][2 * pair + 1]);
  }
}

// packed -> plain, divided by *gain. The same grid.
extern "C" __global__ void unpack(const u32* packed, void* x, const int* order, const float* gain,
                                  const Image image) {
  __shared__ float tile[kPixels][65];
  start_next_kernel();
  wait_previous_kernel();
  const int area = image.height * image.width, pixels = image.images * area;
  const bool channels_first = image.w == 1;
  const float g = 1.f / *gain;
  for (int i = threadIdx.x; i < kPixels * 32; i += 256) {
    const int p = i / 32, pair = i % 32, pixel = blockIdx.x * kPixels + p;
    float a = 0.f, b = 0.f;
    if (pixel < pixels)
      read_pair(packed + (size_t(pixel) * gridDim.y + blockIdx.y) * kPlanes * 32, pair, a, b);
    tile[p][2 * pair] = a, tile[p][2 * pair + 1] = b;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kPixels * 64; i += 256) {
    const int p = channels_first ? i % kPixels : i / 64;
    const int position = channels_first ? i / kPixels : i % 64;
    const int channel = order[blockIdx.y * 64 + position], pixel = blockIdx.x * kPixels + p;
    const int n = pixel / area, h = pixel % area / image.width, w = pixel % image.width;
    if (channel >= 0 && pixel < pixels)
      write_plain(x, n * image.n + channel * image.c + h * image.h + w * image.w,
                  g * tile[p][position]);
  }
}

__device__ __forceinline__ float max_or_nan(float a, float b) {
  float r;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}

struct Pool {
  int width, height, out_width, out_height, kernel, stride, pad, blocks, words;
};

// Max pooling; one thread two channels of one output pixel. `words` = outputs * channels / 2.
extern "C" __global__ void max_pool(const u32* x, u32* y, const Pool pool) {
  start_next_kernel();
  wait_previous_kernel();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= pool.words) return;
  const int pair = i % 32, block = i / 32 % pool.blocks, pixel = i / 32 / pool.blocks;
  const int w = pixel % pool.out_width, h = pixel / pool.out_width % pool.out_height;
  const int n = pixel / pool.out_width / pool.out_height;
  float a = -__int_as_float(0x7f800000), b = a;
  for (int r = 0; r < pool.kernel; ++r) {
    const int y_in = h * pool.stride - pool.pad + r;
    if (y_in < 0 || y_in >= pool.height) continue;
    for (int s = 0; s < pool.kernel; ++s) {
      const int x_in = w * pool.stride - pool.pad + s;
      if (x_in < 0 || x_in >= pool.width) continue;
      const size_t at = (size_t(n) * pool.height + y_in) * pool.width + x_in;
      float c, d;
      read_pair(x + (at * pool.blocks + block) * kPlanes * 32, pair, c, d);
      a = max_or_nan(a, c), b = max_or_nan(b, d);
    }
  }
  write_pair(y + (size_t(pixel) * pool.blocks + block) * kPlanes * 32, pair, a, b);
}

// Global average: a block of 256 threads gives 64 channels of one image (8 warps share the pixels).
extern "C" __global__ void average_pool(const u32* x, u32* y, int area, int blocks) {
  __shared__ float sums[8][64];
  start_next_kernel();
  wait_previous_kernel();
  const int block = blockIdx.x, image = blockIdx.y, pair = threadIdx.x % 32;
  float a = 0.f, b = 0.f;
  for (int p = threadIdx.x / 32; p < area; p += 8) {
    float c, d;
    read_pair(x + ((size_t(image) * area + p) * blocks + block) * kPlanes * 32, pair, c, d);
    a += c, b += d;
  }
  sums[threadIdx.x / 32][2 * pair] = a, sums[threadIdx.x / 32][2 * pair + 1] = b;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  a = b = 0.f;
  for (int i = 0; i < 8; ++i) a += sums[i][2 * pair], b += sums[i][2 * pair + 1];
  write_pair(y + (size_t(image) * blocks + block) * kPlanes * 32, pair, a / area, b / area);
}
