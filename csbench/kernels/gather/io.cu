// Conversions of activations: between torch's layouts, the packed layout of wgmma/conv.cu (NHWC,
// blocks of 64 channels, high halves then low ones) and channels as runs of columns (gather/conv.cu).
//
// Set by -D: CS_BF16, GATHER_PLANES, GATHER_PLAIN (the plain tensors: 0 float, 1 fp16, 2 bf16)
#include "gather/columns.cuh"

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

// Both sides are walked in tiles of 32 x 32 elements. Dimensions are counted from a tile's: the
// columns' contiguous one (inner), then the plain tensor's contiguous one where that differs.
struct Tiling {
  int size[3];            // along all dimensions but the last
  int plain_inner;        // is the inner one contiguous in the plain tensor too
  int piece;              // columns from `piece` on along the inner one lie in the next piece,
  long long piece_step;   // so many elements on
  long long plain_step[4], columns_step[4];  // elements between neighbours
  long long plane;                           // elements of a plane of columns
};

struct Tile {
  long long plain, columns;  // where its first element lies
  int inner, other;          // elements from there to the tensor's end
};

// The tile of this block. Takes divisions, but nothing that the kernel before writes.
__device__ __forceinline__ Tile tile_of(const Tiling& t) {
  u32 rest = blockIdx.x;
  const auto next = [&](u32 count) {
    u32 quotient = 0;
    if (rest >= count) quotient = rest / count;  // a matrix takes no more than one division
    const int index = rest - quotient * count;
    rest = quotient;
    return index;
  };
  const int other = next((t.size[1] + 31) / 32) * 32, inner = next((t.size[0] + 31) / 32) * 32;
  const int third = next(t.size[2]), fourth = rest;
  const auto offset = [&](const long long (&step)[4]) {
    return other * step[1] + third * step[2] + fourth * step[3];
  };
  const int piece = inner < t.piece ? 0 : inner / t.piece;
  return {offset(t.plain_step) + inner * t.plain_step[0],
          offset(t.columns_step) + piece * t.piece_step + (inner - piece * t.piece),
          t.size[0] - inner, t.size[1] - other};
}

constexpr int kRows = 4;  // of a tile's 32, for each of 8 warps

// Plain to columns, times *gain. 256 threads.
extern "C" __global__ void pack(const plain_t* x, u16* out, const float* gain, const Tiling t) {
  __shared__ float numbers[32][33];  // [other][inner]
  let_successor_start();
  const Tile tile = tile_of(t);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  await_predecessor();
  float v[kRows];
#pragma unroll
  for (int k = 0; k < kRows; ++k) {  // the edge's elements again beyond it: no branches
    const int row = warp + 8 * k;
    const int i = min(t.plain_inner ? lane : row, tile.inner - 1);
    const int j = min(t.plain_inner ? row : lane, tile.other - 1);
    v[k] = to_float(x[tile.plain + i * t.plain_step[0] + j * t.plain_step[1]]);
  }
  const float g = *gain;
#pragma unroll
  for (int k = 0; k < kRows; ++k) {
    const int row = warp + 8 * k;
    (t.plain_inner ? numbers[row][lane] : numbers[lane][row]) = g * v[k];
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kRows; ++k) {
    const int j = warp + 8 * k;
    if (lane < tile.inner && j < tile.other)
      write_number(out + tile.columns + lane + j * t.columns_step[1], t.plane, numbers[j][lane]);
  }
}

// Columns to plain, divided by *gain. 256 threads.
extern "C" __global__ void unpack(const u16* x, plain_t* out, const float* gain, const Tiling t) {
  __shared__ float numbers[32][33];  // [other][inner]
  let_successor_start();
  const Tile tile = tile_of(t);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  await_predecessor();
  float v[kRows];
#pragma unroll
  for (int k = 0; k < kRows; ++k) {
    const int i = min(lane, tile.inner - 1), j = min(warp + 8 * k, tile.other - 1);
    v[k] = read_number(x + tile.columns + i + j * t.columns_step[1], t.plane);
  }
  const float g = 1.f / *gain;
#pragma unroll
  for (int k = 0; k < kRows; ++k) numbers[warp + 8 * k][lane] = g * v[k];
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kRows; ++k) {
    const int row = warp + 8 * k;
    const int i = t.plain_inner ? lane : row, j = t.plain_inner ? row : lane;
    if (i < tile.inner && j < tile.other)
      out[tile.plain + i * t.plain_step[0] + j * t.plain_step[1]] = to_plain(numbers[j][i]);
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
  await_predecessor();
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
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const int per_line = f.out_pitch / 8, first = i % per_line * 8;
  const int tap = i / per_line % f.taps, line = i / per_line / f.taps;
  const int offset = tap * f.dilation - f.padding;
  await_predecessor();
  if (i >= f.eights) return;
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
