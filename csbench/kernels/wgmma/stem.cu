// A network's first convolution (2 to 4 input channels, dense) on tensor cores, read from torch's
// layout into the activation format of wgmma/conv.cu. (wgmma/stem_pool.cu is faster where it
// fits.)
//
// A block of 8 warps computes kRegion x kRegion output pixels of 64 channels: it stages the image
// patch in shared memory as 16-bit numbers (two planes: high and low), channels innermost, so that
// one kernel row is one contiguous run that serves as the K dimension of mma.sync m16n8k16
// (weights: rows, held in registers; pixels: columns, read from the patch without a copy).
//
// Set by -D: CS_BF16 CS_PLANES CS_PLAIN, STEM_CHANNELS STEM_H STEM_W (kernel) STEM_STRIDE STEM_PAD
#include "wgmma/common.cuh"
#include "wgmma/plain.cuh"

constexpr int kPlanes = CS_PLANES;
constexpr int kChannels = STEM_CHANNELS * STEM_STRIDE % 2 ? 4 : STEM_CHANNELS;  // aligned pairs
constexpr int kRegion = 16;
constexpr int kPatch = (kRegion - 1) * STEM_STRIDE + STEM_H;  // rows that are read
constexpr int kPatchW = (kRegion - 1) * STEM_STRIDE + STEM_W;
constexpr int kRun = (STEM_W * kChannels + 7) / 8;            // groups of 8 in one kernel row
constexpr int kGroups = STEM_H * kRun;
constexpr int kSteps = (kGroups + 1) / 2;                      // of 16
constexpr int kPitch = ((kRegion - 1) * STEM_STRIDE * kChannels + kRun * 8 + 7) / 8 * 8;
constexpr int kColumns = (kPitch + kChannels - 1) / kChannels;
constexpr int kTiles = (kRegion * kRegion + 7) / 8;
constexpr int kRow = 68;                                       // floats of one pixel in `result`
constexpr int kPatchWords = kPatch * kPitch / 2;

struct StemShape {
  long long n, c, h, w;                // strides of the image in elements
  int images, height, width, out_height, out_width;  // of the convolution
  int tiles_x, tiles_y, blocks, relu; // blocks of 64 output channels
};

__device__ __forceinline__ void mma(float (&d)[4], const uint4& a, u32 b0, u32 b1) {
#if CS_BF16
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9},"
      " {%0,%1,%2,%3};"
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9},"
      " {%0,%1,%2,%3};"
#endif
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
}

// The image patch whose corner is (y0, x0), zero outside the image. A warp takes every eighth row
// of a channel and has all its loads in flight before it stores the first number.
__device__ __forceinline__ void stage_patch(const void* x, float gain, u32* patch, int image,
                                            int y0, int x0, const StemShape& s) {
  constexpr int kRows = (kPatch + 7) / 8, kParts = (kColumns + 31) / 32;
  u16* const high = reinterpret_cast<u16*>(patch);
  u16* const low = reinterpret_cast<u16*>(patch + kPatchWords);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int c = 0; c < kChannels; ++c) {
    float v[kRows][kParts];
    const long long from = image * s.n + c * s.c;
#pragma unroll
    for (int i = 0; i < kRows; ++i)
#pragma unroll
      for (int j = 0; j < kParts; ++j) {
        const int row = i * 8 + warp, y = y0 + row, col = j * 32 + lane, xx = x0 + col;
        const bool inside = c < STEM_CHANNELS && row < kPatch && col < kPatchW && y >= 0 &&
                            y < s.height && xx >= 0 && xx < s.width;
        v[i][j] = inside ? gain * read_plain(x, from + y * s.h + xx * s.w) : 0.f;
      }
#pragma unroll
    for (int i = 0; i < kRows; ++i)
#pragma unroll
      for (int j = 0; j < kParts; ++j) {
        const int row = i * 8 + warp, within = (j * 32 + lane) * kChannels + c;
        if (row >= kPatch || within >= kPitch) continue;
        const u32 h = pack2(v[i][j], 0.f);
        high[row * kPitch + within] = u16(h);
        if (kPlanes == 2) {
          float back, zero;
          unpack2(h, back, zero);
          low[row * kPitch + within] = u16(pack2(v[i][j] - back, 0.f));
        }
      }
  }
}

// 16 output channels (the weights in registers) x 8 pixels of the region, kBatch tiles at once.
template <int kBatch>
__device__ __forceinline__ void multiply(const uint4 (&a)[kSteps][kPlanes], const u32* patch,
                                         int first, int stride, float (&acc)[kBatch][4]) {
  const int lane = threadIdx.x % 32;
  const u32* base[kBatch];
#pragma unroll
  for (int i = 0; i < kBatch; ++i) {
    const int p = min((first + i * stride) * 8 + lane / 4, kRegion * kRegion - 1);
    base[i] = patch + (p / kRegion * STEM_STRIDE * kPitch +
                       p % kRegion * STEM_STRIDE * kChannels) / 2 + lane % 4;
#pragma unroll
    for (int j = 0; j < 4; ++j) acc[i][j] = 0.f;
  }
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
    constexpr int kLast = kGroups - 1;
    const int q0 = 2 * k, q1 = 2 * k + 1 < kGroups ? 2 * k + 1 : kLast;
    const int at0 = q0 / kRun * kPitch / 2 + q0 % kRun * 4;
    const int at1 = q1 / kRun * kPitch / 2 + q1 % kRun * 4;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const u32 b0 = base[i][at0], b1 = base[i][at1];
      mma(acc[i], a[k][0], b0, b1);
      if (kPlanes == 2) {
        mma(acc[i], a[k][kPlanes - 1], b0, b1);
        mma(acc[i], a[k][0], base[i][kPatchWords + at0], base[i][kPatchWords + at1]);
      }
    }
  }
}

// weights: [block][m16][step][plane][lane] as the four words of an A fragment.
extern "C" __global__ void __launch_bounds__(256, 2)
    stem(const void* x, u32* y, const uint4* weights, const float* scale, const float* bias,
         const float* gain, const StemShape s) {
  extern __shared__ float4 memory4[];
  float* const result = reinterpret_cast<float*>(memory4);
  u32* const patch = reinterpret_cast<u32*>(result + kTiles * 8 * kRow);
  start_next_kernel();
  wait_previous_kernel();

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, m16 = warp % 4, block = blockIdx.y;
  uint4 a[kSteps][kPlanes];
#pragma unroll
  for (int k = 0; k < kSteps; ++k)
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane)
      a[k][plane] = weights[(((block * 4 + m16) * kSteps + k) * kPlanes + plane) * 32 + lane];
  const int row = block * 64 + m16 * 16 + lane / 4;
  const float scale0 = scale[row], scale1 = scale[row + 8];
  const float bias0 = bias[row], bias1 = bias[row + 8], g = *gain;

  const int tiles = s.images * s.tiles_x * s.tiles_y;
  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const int tx = tile % s.tiles_x, ty = tile / s.tiles_x % s.tiles_y;
    const int image = tile / s.tiles_x / s.tiles_y;
    const int oy = ty * kRegion, ox = tx * kRegion;
    stage_patch(x, g, patch, image, oy * STEM_STRIDE - STEM_PAD, ox * STEM_STRIDE - STEM_PAD, s);
    __syncthreads();
    for (int first = warp / 4; first < kTiles; first += 4) {
      float acc[2][4];
      multiply<2>(a, patch, first, 2, acc);
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int p = (first + 2 * i) * 8 + lane % 4 * 2 + j % 2;
          float v = acc[i][j] * (j < 2 ? scale0 : scale1) + (j < 2 ? bias0 : bias1);
          if (s.relu) v = relu(v);
          if (first + 2 * i < kTiles)
            result[p * kRow + m16 * 16 + lane / 4 + (j < 2 ? 0 : 8)] = v;
        }
    }
    __syncthreads();
    for (int p = warp; p < kRegion * kRegion; p += 8) {
      const int py = oy + p / kRegion, px = ox + p % kRegion;
      if (py >= s.out_height || px >= s.out_width) continue;
      const float2 v = *reinterpret_cast<const float2*>(&result[p * kRow + 2 * lane]);
      const size_t pixel = (size_t(image) * s.out_height + py) * s.out_width + px;
      u32* const to = y + (pixel * s.blocks + block) * kPlanes * 32;
      const u32 high = pack2(v.x, v.y);
      to[lane] = high;
      if (kPlanes == 2) {
        float c, d;
        unpack2(high, c, d);
        to[32 + lane] = pack2(v.x - c, v.y - d);
      }
    }
    __syncthreads();
  }
}
