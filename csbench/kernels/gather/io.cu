// Conversions of activations: between torch's layouts, the packed layout of wgmma/conv.cu (NHWC,
// blocks of 64 channels, high halves then low ones) and channels as runs of columns (gather/conv.cu).
//
// Set by -D: CS_BF16, GATHER_PLANES, GATHER_PLAIN (the plain tensors: 0 float, 1 fp16, 2 bf16)
#include "gather/columns.cuh"

// A tensor [images, channels, height, width] by its strides in elements.
struct Plain {
  long long stride[4];
};

#if GATHER_PLAIN == 0
using plain_t = float;
#else
using plain_t = u16;
#endif
__device__ __forceinline__ float to_float(plain_t v) {
#if GATHER_PLAIN == 0
  return v;
#elif GATHER_PLAIN == 1
  return widened<Numbers::fp16>(v);
#else
  return widened<Numbers::bf16>(v);
#endif
}
__device__ __forceinline__ plain_t to_plain(float v) {
#if GATHER_PLAIN == 0
  return v;
#elif GATHER_PLAIN == 1
  return narrowed<Numbers::fp16>(v);
#else
  return narrowed<Numbers::bf16>(v);
#endif
}

// Both sides are walked in tiles of 32 x 32: along the dimension that is contiguous in columns, and
// along `other`, which is the plain tensor's contiguous one where that differs.
struct Tiling {
  int size[4];      // images, channels, height, width
  int inner, other; // dimensions of a tile, by number
  int plain_inner;  // is `inner` contiguous in the plain tensor too
  long long tiles;
};

struct Element {
  int at[4];
  bool inside;
};

__device__ __forceinline__ Element element_of(const Tiling& t, long long tile, int i, int j) {
  Element e;
  const int tiles_inner = (t.size[t.inner] + 31) / 32, tiles_other = (t.size[t.other] + 31) / 32;
  int within[2] = {int(tile % tiles_inner) * 32 + i, 0};
  tile /= tiles_inner;
  within[1] = int(tile % tiles_other) * 32 + j;
  tile /= tiles_other;
  e.inside = within[0] < t.size[t.inner] && within[1] < t.size[t.other];
#pragma unroll
  for (int d = 3; d >= 0; --d) {
    if (d == t.inner) {
      e.at[d] = within[0];
    } else if (d == t.other) {
      e.at[d] = within[1];
    } else {
      e.at[d] = int(tile % t.size[d]);
      tile /= t.size[d];
    }
  }
  return e;
}

__device__ __forceinline__ long long offset(const Plain& p, const Element& e) {
  return e.at[0] * p.stride[0] + e.at[1] * p.stride[1] + e.at[2] * p.stride[2] +
         e.at[3] * p.stride[3];
}
__device__ __forceinline__ long long offset(const Columns& c, const Element& e) {
  return c.at(e.at[0], e.at[1], e.at[2], e.at[3]);
}

// Plain to columns, times *gain. 256 threads.
extern "C" __global__ void pack(const plain_t* x, u16* out, const float* gain, const Plain plain,
                                const Columns columns, const Tiling t) {
  __shared__ float tile[32][33];  // [other][inner]
  let_successor_start();
  await_predecessor();
  const int fast = threadIdx.x % 32;
  const float g = *gain;
  for (int slow = threadIdx.x / 32; slow < 32; slow += 8) {
    const int i = t.plain_inner ? fast : slow, j = t.plain_inner ? slow : fast;
    const Element e = element_of(t, blockIdx.x, i, j);
    if (e.inside) tile[j][i] = g * to_float(x[offset(plain, e)]);
  }
  __syncthreads();
  for (int j = threadIdx.x / 32; j < 32; j += 8) {
    const Element e = element_of(t, blockIdx.x, fast, j);
    if (e.inside) write_number(out + offset(columns, e), columns.plane, tile[j][fast]);
  }
}

// Columns to plain, divided by *gain. 256 threads.
extern "C" __global__ void unpack(const u16* x, plain_t* out, const float* gain,
                                  const Plain plain, const Columns columns, const Tiling t) {
  __shared__ float tile[32][33];
  let_successor_start();
  await_predecessor();
  const int fast = threadIdx.x % 32;
  const float g = 1.f / *gain;
  for (int j = threadIdx.x / 32; j < 32; j += 8) {
    const Element e = element_of(t, blockIdx.x, fast, j);
    if (e.inside) tile[j][fast] = g * read_number(x + offset(columns, e), columns.plane);
  }
  __syncthreads();
  for (int slow = threadIdx.x / 32; slow < 32; slow += 8) {
    const int i = t.plain_inner ? fast : slow, j = t.plain_inner ? slow : fast;
    const Element e = element_of(t, blockIdx.x, i, j);
    if (e.inside) out[offset(plain, e)] = to_plain(tile[j][i]);
  }
}

struct FromPacked {
  int inner_tiles, inner_size;  // of 64 along the columns' contiguous dimension; its size
  int second_size;              // of the dimension next to it: width, or else height
  int along_images;             // is the contiguous dimension that of images (else of width)
  int height, width, channels, blocks;  // of the packed tensor; blocks of 64 channels
};

// Packed NHWC to columns, bit by bit: a block of 256 threads turns 64 columns x 64 channels of one
// plane.
extern "C" __global__ void from_packed(const u16* x, u16* out, const Columns columns,
                                       const FromPacked f) {
  __shared__ __align__(16) u16 tile[64][64];  // [channel][column], eights of columns exchanged
  let_successor_start();
  await_predecessor();
  int i = blockIdx.x;
  const int plane = i % kPlanes;
  i /= kPlanes;
  const int block = i % f.blocks;
  i /= f.blocks;
  const int first = i % f.inner_tiles * 64;
  i /= f.inner_tiles;
  const int second = i % f.second_size, third = i / f.second_size;
  const auto place = [&](int column, int& n, int& h, int& w) {
    n = f.along_images ? column : third;
    h = f.along_images ? third : second;
    w = f.along_images ? second : column;
  };
  const int mine = threadIdx.x / 4, part = threadIdx.x % 4;
  if (first + mine < f.inner_size) {
    int n, h, w;
    place(first + mine, n, h, w);
    const u16* from = x + ((((long long)n * f.height + h) * f.width + w) * f.blocks + block) *
                              kPlanes * 64 + plane * 64;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int channel = part * 8 + half * 32;
      const uint4 v = *reinterpret_cast<const uint4*>(from + channel);
      const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int k = 0; k < 8; ++k)
        tile[channel + k][mine ^ (channel & 56)] = u16(words[k / 2] >> 16 * (k & 1));
    }
  }
  __syncthreads();
  for (int row = threadIdx.x / 8; row < 64; row += 32) {
    const int channel = block * 64 + row, column = threadIdx.x % 8 * 8;
    if (channel >= f.channels || first + column >= f.inner_size) continue;
    int n, h, w;
    place(first + column, n, h, w);
    *reinterpret_cast<uint4*>(out + plane * columns.plane + columns.at(n, channel, h, w)) =
        *reinterpret_cast<const uint4*>(&tile[row][column ^ (row & 56)]);
  }
}

struct Unfold {
  int width, pitch;  // of a line before, and its pitch
  int out_width, out_pitch, taps, stride, padding, dilation;
  int eights;  // of the result: lines (channels * images * height) * taps * pitch / 8
  int plane_from, plane_to;
};

// The columns under every horizontal tap: a line [width] becomes [taps, output width], zero outside
// the image. The copy engine reads from multiples of 16 bytes only, so it cannot step aside itself.
extern "C" __global__ void unfold(const u16* x, u16* out, const Unfold f) {
  let_successor_start();
  await_predecessor();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= f.eights) return;
  const int per_line = f.out_pitch / 8, first = i % per_line * 8;
  const int tap = i / per_line % f.taps, line = i / per_line / f.taps;
  const int offset = tap * f.dilation - f.padding;
#pragma unroll
  for (int plane = 0; plane < kPlanes; ++plane) {
    u32 words[4] = {};
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const int column = (first + k) * f.stride + offset;
      if (first + k < f.out_width && column >= 0 && column < f.width)
        words[k / 2] |= u32(x[plane * f.plane_from + line * f.pitch + column]) << 16 * (k & 1);
    }
    *reinterpret_cast<uint4*>(out + plane * f.plane_to + i * 8) =
        make_uint4(words[0], words[1], words[2], words[3]);
  }
}
