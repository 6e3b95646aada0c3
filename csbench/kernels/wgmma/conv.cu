// A fused convolution with 2:4 weights on Hopper's sparse tensor cores, as an implicit product
//
//     out[Cout, pixels] = activation(scale * (W[Cout, taps*Cin] x[taps*Cin, pixels]) + bias
//                                    [+ residual_scale * residual])
//
// Activations are NHWC, 16-bit, channels padded to 64. With CS_PLANES = 2 a number is the sum of
// two fp16 (high, low), stored per pixel as blocks of 64 high then 64 low channels, and a product
// is the sum of three: high*high + low*high + high*low, which keeps fp32 accuracy.
//
// A persistent block computes tiles of kBlockM output channels x kBlockN pixels. One warp copies
// (weights as prepacked bytes, pixels by the copy engine's im2col mode, which pads with zeros);
// two warpgroups multiply, then add, activate, transpose through shared memory and store.
//
// Set by -D: CS_SPARSE CS_BF16 CS_PLANES CS_WM CS_WN CS_MI CS_N CS_STAGES CS_CHUNK CS_SLOTS
//            CS_PROMOTE (k-steps between fp32 additions outside the tensor core, 0: never) CS_CTAS
#include "wgmma/common.cuh"
#include "wgmma/finish.cuh"

constexpr int kPlanes = CS_PLANES;
constexpr int kBlockM = 64 * CS_MI * CS_WM;
constexpr int kBlockN = CS_N * CS_WN;
constexpr int kGroups = CS_WM * CS_WN;
constexpr int kThreads = 128 * kGroups + (CS_CTAS == 1 ? 128 : 32);
constexpr int kPixelBytes = kBlockN * 128;                     // 64 channels of one plane
constexpr int kRowBytes = CS_SPARSE ? 64 : 128;                // 64 channels of one output row
constexpr int kValueBytes = 64 * kRowBytes;                    // 64 rows of one plane
constexpr int kWeightBytes = kPlanes * kValueBytes + (CS_SPARSE ? 512 : 0);  // and metadata
constexpr int kLoadBytes = kPlanes * kPixelBytes + kBlockM / 64 * kWeightBytes;
constexpr int kStageBytes = (kLoadBytes + 1023) / 1024 * 1024;
constexpr int kChunkBytes = CS_CHUNK * 128;
constexpr int kSlotBytes = kPlanes * kChunkBytes;
constexpr int kChunks = CS_MI * CS_N / CS_CHUNK;               // of one warpgroup's tile
constexpr int kAccumulators = CS_N / 2;
constexpr int kSegment = CS_PROMOTE ? CS_PROMOTE : 1 << 30;  // k-steps summed in the tensor core

static_assert(kPlanes == 1 || !CS_BF16, "two planes of bf16 do not keep fp32 accuracy");
static_assert(CS_N % CS_CHUNK == 0 && CS_CHUNK % 16 == 0, "chunks are pairs of 8 pixels");
static_assert(kBlockN <= 256, "the copy engine takes at most 256 pixels at once");

struct ConvShape {
  int pixels, width, height;  // of the output; pixels = images * height * width
  int stride_w, stride_h, pad_w, pad_h, dilation_w, dilation_h, kernel_w;
  int channel_blocks, k_steps;  // of 64 input channels; k_steps = taps * channel_blocks
  int m_tiles, tiles;
  int pointwise, relu, residual;
  float residual_scale;
};

struct Ring {
  int stage = 0;
  u32 phase = 0;
  __device__ void advance() {
    if (++stage == CS_STAGES) {
      stage = 0;
      phase ^= 1;
    }
  }
};

__device__ __forceinline__ void produce(const TensorMap& input, const unsigned char* weights,
                                        const ConvShape& shape, u32 stages, u32 full, u32 empty) {
  Ring ring;
  for (int tile = blockIdx.x; tile < shape.tiles; tile += gridDim.x) {
    const int m = tile % shape.m_tiles, p = tile / shape.m_tiles * kBlockN;
    const int row = p / shape.width, image = row / shape.height;
    const int w = (p - row * shape.width) * shape.stride_w - shape.pad_w;
    const int h = (row - image * shape.height) * shape.stride_h - shape.pad_h;
    const unsigned char* block =
        weights + size_t(m) * (kBlockM / 64) * shape.k_steps * kWeightBytes;
    int channel = 0, s = 0, r = 0;
    for (int k = 0; k < shape.k_steps; ++k, ring.advance()) {
      const u32 to = stages + ring.stage * kStageBytes, bar = full + 8 * ring.stage;
      barrier_wait(empty + 8 * ring.stage, ring.phase ^ 1);
      barrier_expect(bar, kLoadBytes);
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane) {
        const int c = channel * 64 * kPlanes + plane * 64;
        if (shape.pointwise)
          load_tile(to + plane * kPixelBytes, &input, c, p, bar);
        else
          load_im2col(to + plane * kPixelBytes, &input, c, w, h, image, s * shape.dilation_w,
                      r * shape.dilation_h, bar);
      }
#pragma unroll
      for (int i = 0; i < kBlockM / 64; ++i)
        load_bytes(to + kPlanes * kPixelBytes + i * kWeightBytes,
                   block + (size_t(i) * shape.k_steps + k) * kWeightBytes, kWeightBytes, bar);
      if (++channel == shape.channel_blocks) {
        channel = 0;
        if (++s == shape.kernel_w) s = 0, ++r;
      }
    }
  }
}

// The products of one k-step (64 channels of one tap) into the accumulators of one warpgroup.
__device__ __forceinline__ void multiply(float (&acc)[CS_MI][kAccumulators], u32 stage, int group_m,
                                         int group_n, const u32 (&meta)[CS_MI], int accumulate) {
  constexpr int kSteps = CS_SPARSE ? 2 : 4;  // of 32 (sparse) or 16 channels
  const u32 pixels = stage + group_n * CS_N * 128;
  const u32 rows = stage + kPlanes * kPixelBytes + group_m * CS_MI * kWeightBytes;
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
#pragma unroll
    for (int product = 0; product < 2 * kPlanes - 1; ++product) {
      const int w_plane = product == 1, x_plane = product == 2;
      const u64 b = operand(pixels + x_plane * kPixelBytes + k * 128 / kSteps, 128);
#pragma unroll
      for (int i = 0; i < CS_MI; ++i) {
        const u64 a = operand(rows + i * kWeightBytes + w_plane * kValueBytes + k * 32, kRowBytes);
        const int add = k || product ? 1 : accumulate;
#if CS_SPARSE
        if (k == 0)
          wgmma_sparse<0>(acc[i], a, b, meta[i], add);
        else
          wgmma_sparse<1>(acc[i], a, b, meta[i], add);
#else
        wgmma_dense(acc[i], a, b, add);
#endif
      }
    }
  }
}

// What one warpgroup knows of its share of a tile.
struct Share {
  int group_m, group_n, warp, lane, barrier;
  u32 slots, arrived;     // residual and result chunks, and the barriers of arriving residuals
  u32 lane_at;            // this lane's row of four 8x8 matrices in a chunk
  bool leader;
};

__device__ __forceinline__ void fetch_residual(const TensorMap& residual, const Share& me,
                                               int first_block, int first_pixel, int chunk,
                                               int slot) {
  const int block = first_block + chunk / (CS_N / CS_CHUNK);
  const int p = first_pixel + chunk % (CS_N / CS_CHUNK) * CS_CHUNK;
  barrier_expect(me.arrived + 8 * slot, kSlotBytes);
#pragma unroll
  for (int plane = 0; plane < kPlanes; ++plane)
    load_tile(me.slots + slot * kSlotBytes + plane * kChunkBytes, &residual,
              (block * kPlanes + plane) * 64, p, me.arrived + 8 * slot);
}

// All k-steps of a tile; returns with the sums in `total`.
__device__ __forceinline__ void accumulate(float (&total)[CS_MI][kAccumulators], Ring& ring,
                                           const Share& me, const ConvShape& shape, u32 stages,
                                           u32 full, u32 empty) {
#if CS_PROMOTE
  float acc[CS_MI][kAccumulators];
#pragma unroll
  for (int i = 0; i < CS_MI; ++i)
#pragma unroll
    for (int j = 0; j < kAccumulators; ++j) total[i][j] = 0.f;
#else
  auto& acc = total;
#endif
  // The tensor core reads metadata from its register while it multiplies, so two sets alternate
  // and each is kept alive until the products that read it are done.
  u32 meta[2][CS_MI] = {};
  for (int start = 0; start < shape.k_steps; start += kSegment) {
    const int stop = min(start + kSegment, shape.k_steps);
    int previous = -1;  // the stage that the products in flight still read
    const auto step = [&](u32 (&mine)[CS_MI], u32 (&others)[CS_MI], int add) {
      const u32 stage = stages + ring.stage * kStageBytes;
      barrier_wait(full + 8 * ring.stage, ring.phase);
#if CS_SPARSE
#pragma unroll
      for (int i = 0; i < CS_MI; ++i)
        mine[i] = load_word(stage + kPlanes * kPixelBytes +
                            (me.group_m * CS_MI + i + 1) * kWeightBytes - 512 +
                            (me.warp * 32 + me.lane) * 4);
#endif
      wgmma_fence();
      multiply(acc, stage, me.group_m, me.group_n, mine, add);
      wgmma_commit();
      wgmma_wait<1>();
#pragma unroll
      for (int i = 0; i < CS_MI; ++i) asm volatile("" : "+r"(others[i]));
      if (previous >= 0 && me.lane == 0) barrier_arrive(empty + 8 * previous);
      previous = ring.stage;
      ring.advance();
    };
    for (int k = start; k < stop; k += 2) {
      step(meta[0], meta[1], k > start);
      if (k + 1 < stop) step(meta[1], meta[0], 1);
    }
    wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < CS_MI; ++i) asm volatile("" : "+r"(meta[0][i]), "+r"(meta[1][i]));
    if (me.lane == 0) barrier_arrive(empty + 8 * previous);
#if CS_PROMOTE
#pragma unroll
    for (int i = 0; i < CS_MI; ++i)
#pragma unroll
      for (int j = 0; j < kAccumulators; ++j) total[i][j] += acc[i][j];
#endif
  }
}

__device__ __forceinline__ void consume(const TensorMap& output, const TensorMap& residual,
                                        const float* scale, const float* bias,
                                        const ConvShape& shape, const Share& me, u32 stages,
                                        u32 full, u32 empty) {
  Ring ring;
  u32 residual_phase = 0;  // one bit a slot
  int turn = 0;            // the slot of a tile's first chunk: slots rotate across tiles
  for (int tile = blockIdx.x; tile < shape.tiles; tile += gridDim.x) {
    const int first_block =  // of 64 output channels
        tile % shape.m_tiles * (kBlockM / 64) + me.group_m * CS_MI;
    const int first_pixel = tile / shape.m_tiles * kBlockN + me.group_n * CS_N;
    if (shape.residual && me.leader) {
      wait_stores_read<0>();
      for (int chunk = 0; chunk < (kChunks < CS_SLOTS ? kChunks : CS_SLOTS); ++chunk)
        fetch_residual(residual, me, first_block, first_pixel, chunk,
                       (turn + chunk) % CS_SLOTS);
    }

    float total[CS_MI][kAccumulators];
    accumulate(total, ring, me, shape, stages, full, empty);

#pragma unroll
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      const int i = chunk / (CS_N / CS_CHUNK), first = chunk % (CS_N / CS_CHUNK) * CS_CHUNK;
      const int slot = (turn + chunk) % CS_SLOTS;
      const u32 at = me.slots + slot * kSlotBytes;
      const int row = (first_block + i) * 64 + me.warp * 16 + me.lane / 4;
      const Rows rows = {{scale[row], scale[row + 8]}, {bias[row], bias[row + 8]}};
      if (shape.residual) {
        barrier_wait(me.arrived + 8 * slot, residual_phase >> slot & 1);
        residual_phase ^= 1u << slot;
      } else {
        if (me.leader) wait_stores_read<CS_SLOTS - 1>();
        sync_threads(me.barrier, 128);
      }
#pragma unroll
      for (int q = 0; q < CS_CHUNK / 16; ++q)
        finish<kPlanes, kChunkBytes>(&total[i][(first / 8 + 2 * q) * 4], rows,
                                     at + q * 16 * 128 + me.lane_at, shape.relu, shape.residual,
                                     shape.residual_scale);
      fence_async();
      sync_threads(me.barrier, 128);
      if (me.leader) {
#pragma unroll
        for (int plane = 0; plane < kPlanes; ++plane)
          store_tile(&output, at + plane * kChunkBytes,
                     ((first_block + i) * kPlanes + plane) * 64, first_pixel + first);
        commit_stores();
        if (shape.residual && chunk + CS_SLOTS < kChunks) {
          wait_stores_read<0>();
          fetch_residual(residual, me, first_block, first_pixel, chunk + CS_SLOTS, slot);
        }
      }
    }
    turn = (turn + kChunks) % CS_SLOTS;
  }
  if (me.leader) wait_stores();
}

extern "C" __global__ void __launch_bounds__(kThreads, CS_CTAS)
    cs_conv(const __grid_constant__ TensorMap input, const __grid_constant__ TensorMap output,
            const __grid_constant__ TensorMap residual, const unsigned char* weights,
            const float* scale, const float* bias, const ConvShape shape) {
  extern __shared__ unsigned char memory[];
  const u32 stages = (shared_address(memory) + 1023) & ~1023u;
  const u32 slots = stages + CS_STAGES * kStageBytes;
  const u32 full = slots + kGroups * CS_SLOTS * kSlotBytes, empty = full + 8 * CS_STAGES;
  const u32 arrived = empty + 8 * CS_STAGES;  // residual chunks, per warpgroup and slot

  if (threadIdx.x == 0) {
    for (int i = 0; i < CS_STAGES; ++i) {
      barrier_init(full + 8 * i, 1);
      barrier_init(empty + 8 * i, 4 * kGroups);
    }
    for (int i = 0; i < kGroups * CS_SLOTS; ++i) barrier_init(arrived + 8 * i, 1);
    fence_barrier_init();
  }
  __syncthreads();
  start_next_kernel();
  wait_previous_kernel();

  const int group = threadIdx.x / 128;
  if (group == kGroups) {
    if (CS_CTAS == 1) lower_registers<24>();
    if (threadIdx.x == 128 * kGroups) produce(input, weights, shape, stages, full, empty);
  } else {
    if (CS_CTAS == 1) raise_registers<240>();
    Share me;
    me.group_m = group % CS_WM, me.group_n = group / CS_WM;
    me.warp = threadIdx.x / 32 % 4, me.lane = threadIdx.x % 32;
    me.barrier = 1 + group, me.leader = threadIdx.x % 128 == 0;
    me.slots = slots + group * CS_SLOTS * kSlotBytes;
    me.arrived = arrived + 8 * group * CS_SLOTS;
    const int matrix = me.lane / 8, pixel = 8 * (matrix / 2) + me.lane % 8;
    me.lane_at = pixel * 128 + (((me.warp * 2 + matrix % 2) ^ (me.lane & 7)) << 4);
    consume(output, residual, scale, bias, shape, me, stages, full, empty);
  }
}
