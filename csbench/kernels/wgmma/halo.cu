// The convolution of wgmma/conv.cu for 3x3 kernels (stride 1, padding 1) on at most 64 input
// channels. There the nine taps of wgmma/conv.cu read every pixel nine times through L2; here a block
// stages a tile's pixels once, with a border, and a tap is the same operand at a shifted address.
//
// Staged lines are width + 1 pixels long: column -1 (zero) first, and what the last column's right
// neighbour reads is the next line's column -1. (Swizzling goes by absolute addresses, so a shift
// by whole pixels needs no base offset in the descriptor.) Output pixel (y, x) is number
// y * (width + 1) + x; the last of each line is computed and dropped. All weights, and their
// metadata in registers, stay for the whole launch.
//
// Set by -D: CS_SPARSE CS_BF16 CS_PLANES, HALO_W (the width of the image) HALO_BUFFERS
#include "wgmma/common.cuh"
#include "wgmma/finish.cuh"

constexpr int kPlanes = CS_PLANES;
constexpr int kN = 64;
constexpr int kLine = HALO_W + 1;
constexpr int kGroupRows = kN / kLine;           // output rows of a warpgroup
constexpr int kRows = 2 * kGroupRows;            // of a tile
constexpr int kStaged = (kRows + 2) * kLine;     // pixels
constexpr int kPlaneBytes = ((kStaged + 1) * 128 + 1023) / 1024 * 1024;
constexpr int kBufferBytes = kPlanes * kPlaneBytes;
constexpr int kRowBytes = CS_SPARSE ? 64 : 128;
constexpr int kValueBytes = 64 * kRowBytes;
constexpr int kWeightBytes = kPlanes * kValueBytes + (CS_SPARSE ? 512 : 0);  // of one tap
constexpr int kHeldBytes = (9 * kWeightBytes + 1023) / 1024 * 1024;
constexpr int kSlotPlane = kN * 128;
constexpr int kSlotBytes = kPlanes * kSlotPlane;

static_assert(kGroupRows >= 1, "a line must fit the 64 pixels of a warpgroup");

struct HaloShape {
  int images, height, row_tiles, relu, residual;
  float residual_scale;
};

// One tap: 64 channels into a warpgroup's 64 x 64 sums.
__device__ __forceinline__ void multiply(float (&acc)[32], u32 pixels, u32 rows, u32 meta,
                                         int accumulate) {
  constexpr int kSteps = CS_SPARSE ? 2 : 4;
#pragma unroll
  for (int k = 0; k < kSteps; ++k)
#pragma unroll
    for (int product = 0; product < 2 * kPlanes - 1; ++product) {
      const int w_plane = product == 1, x_plane = product == 2;
      const u32 at = pixels + x_plane * kPlaneBytes;
      const u64 b = operand(at + k * 128 / kSteps, 128);
      const u64 a = operand(rows + w_plane * kValueBytes + k * 32, kRowBytes);
      const int add = k || product ? 1 : accumulate;
#if CS_SPARSE
      if (k == 0)
        wgmma_sparse<0>(acc, a, b, meta, add);
      else
        wgmma_sparse<1>(acc, a, b, meta, add);
#else
      wgmma_dense(acc, a, b, add);
#endif
    }
}

extern "C" __global__ void __launch_bounds__(288, 1)
    cs_halo(const __grid_constant__ TensorMap input, const __grid_constant__ TensorMap output,
            const __grid_constant__ TensorMap residual, const unsigned char* weights,
            const float* scale, const float* bias, const HaloShape shape) {
  extern __shared__ unsigned char memory[];
  const u32 held = (shared_address(memory) + 1023) & ~1023u;
  const u32 buffers = held + kHeldBytes, slots = buffers + HALO_BUFFERS * kBufferBytes;
  const u32 full = slots + 2 * kSlotBytes, empty = full + 8 * HALO_BUFFERS;
  const u32 ready = empty + 8 * HALO_BUFFERS, arrived = ready + 8;
  const int block = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32;

  if (threadIdx.x == 0) {
    for (int i = 0; i < HALO_BUFFERS; ++i) {
      barrier_init(full + 8 * i, 1);
      barrier_init(empty + 8 * i, 8);
    }
    barrier_init(ready, 1);
    for (int i = 0; i < 2; ++i) barrier_init(arrived + 8 * i, 1);
    fence_barrier_init();
  }
  if (threadIdx.x < 8 * HALO_BUFFERS * kPlanes) {  // the pixel after the last line: column -1
    const u32 plane = buffers + threadIdx.x / 8 * kPlaneBytes;
    const u32 at = plane + kStaged * 128 + threadIdx.x % 8 * 16;
    store_pair(at, 0, 0);
    store_pair(at + 8, 0, 0);
    fence_async();
  }
  __syncthreads();
  start_next_kernel();
  wait_previous_kernel();

  const int tiles = shape.images * shape.row_tiles;
  if (warp == 8) {
    if (lane != 0) return;
    barrier_expect(ready, 9 * kWeightBytes);
    for (int tap = 0; tap < 9; ++tap)
      load_bytes(held + tap * kWeightBytes, weights + (size_t(block) * 9 + tap) * kWeightBytes,
                 kWeightBytes, ready);
    int buffer = 0;
    u32 phase = 0;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
      const int image = tile / shape.row_tiles, h = tile % shape.row_tiles * kRows;
      barrier_wait(empty + 8 * buffer, phase ^ 1);
      barrier_expect(full + 8 * buffer, kPlanes * kStaged * 128);
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane)
        load_box(buffers + buffer * kBufferBytes + plane * kPlaneBytes, &input, plane * 64, -1,
                 h - 1, image, full + 8 * buffer);
      if (++buffer == HALO_BUFFERS) buffer = 0, phase ^= 1;
    }
    return;
  }

  const int group = warp / 4;
  const bool leader = threadIdx.x % 128 == 0;
  const u32 slot = slots + group * kSlotBytes;
  const int row = block * 64 + warp % 4 * 16 + lane / 4;
  const Rows rows = {{scale[row], scale[row + 8]}, {bias[row], bias[row + 8]}};
  barrier_wait(ready, 0);
  u32 meta[9] = {};
#if CS_SPARSE
#pragma unroll
  for (int tap = 0; tap < 9; ++tap)
    meta[tap] = load_word(held + (tap + 1) * kWeightBytes - 512 + threadIdx.x % 128 * 4);
#endif
  int buffer = 0;
  u32 phase = 0, residual_phase = 0;
  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const int image = tile / shape.row_tiles;
    const int h = tile % shape.row_tiles * kRows + group * kGroupRows;
    if (shape.residual && leader) {
      wait_stores_read<0>();
      barrier_expect(arrived + 8 * group, kPlanes * kGroupRows * HALO_W * 128);
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane)
        load_box(slot + plane * kSlotPlane, &residual, (block * kPlanes + plane) * 64, 0, h, image,
                 arrived + 8 * group);
    }
    const u32 pixels = buffers + buffer * kBufferBytes + group * kGroupRows * kLine * 128;
    float acc[32];
#if CS_PLANES == 2
    float total[32] = {};
#endif
    barrier_wait(full + 8 * buffer, phase);
#pragma unroll
    for (int r = 0; r < 3; ++r) {
      wgmma_fence();
#pragma unroll
      for (int s = 0; s < 3; ++s)
        multiply(acc, pixels + (r * kLine + s) * 128, held + (3 * r + s) * kWeightBytes,
                 meta[3 * r + s], s || (kPlanes == 1 && r));
      wgmma_commit();
#if CS_PLANES == 2  // sums leave the tensor core, which rounds towards zero
      wgmma_wait<0>();
#pragma unroll
      for (int i = 0; i < 32; ++i) total[i] += acc[i];
#endif
    }
#if CS_PLANES == 1
    wgmma_wait<0>();
    auto& total = acc;
#endif
    if (lane == 0) barrier_arrive(empty + 8 * buffer);
    if (++buffer == HALO_BUFFERS) buffer = 0, phase ^= 1;

    if (shape.residual) {
      barrier_wait(arrived + 8 * group, residual_phase);
      residual_phase ^= 1;
    } else {
      if (leader) wait_stores_read<0>();
      sync_threads(1 + group, 128);
    }
#pragma unroll
    for (int q = 0; q < kN / 16; ++q) {
      const int matrix = lane / 8, n = q * 16 + matrix / 2 * 8 + lane % 8;
      const int y = n / kLine, x = n % kLine;
      const int place = y < kGroupRows && x < HALO_W ? y * HALO_W + x : kN - 1;  // or dropped there
      const u32 at = slot + place * 128 + (((warp % 4 * 2 + matrix % 2) ^ (place & 7)) << 4);
      finish<kPlanes, kSlotPlane>(&total[8 * q], rows, at, shape.relu, shape.residual,
                                  shape.residual_scale);
    }
    fence_async();
    sync_threads(1 + group, 128);
    if (leader) {
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane)
        store_box(&output, slot + plane * kSlotPlane, (block * kPlanes + plane) * 64, 0, h, image);
      commit_stores();
    }
  }
  if (leader) wait_stores();
}
