// Block-sparse convolution: y = activation(sum over the kept blocks + bias [+ residual]).
//
//   row     ROWS output channels; it keeps some blocks of ROWS x DEPTH*SLICES weights, each at one
//           kernel tap
//   tile    PIXELS output positions, flat over (image, height, width); activations are channels
//           last, so that one position's channels are neighbours and any tap can be copied in
//           16-byte pieces: no im2col in memory
//   step    DEPTH channels of one kept block: the weights [ROWS x DEPTH] and the activations
//           [PIXELS x DEPTH] that one trip through the pipeline brings to shared memory
//   team    WARPS warps that share a pipeline and split the tile's pixels; the TEAMS of a thread
//           block, and the thread blocks of a cluster, split the row's steps and add up at the end
//
// PRECISION 0: fp32 on CUDA cores. 1, 2, 3: tf32, fp16, bf16 on tensor cores, fp32 sums.
// Offsets into x count elements in 32 bits; the host refuses larger tensors.

#include "block/output.cuh"

static_assert(ROWS >= 4 && ROWS <= 128 && (ROWS & (ROWS - 1)) == 0, "a row is 4 to 128 channels");
static_assert(DEPTH % 4 == 0, "a step is whole 16-byte pieces");
static_assert(TEAMS <= 8, "every team needs a named barrier");

constexpr int kBytes = sizeof(Element);
constexpr int kPieces = DEPTH / kPiece;         // copies of one pixel's step
constexpr int kStride = DEPTH + kPiece;         // padded: eight neighbours touch all 32 banks
constexpr int kThreads = 32 * WARPS * TEAMS;
constexpr int kTeamThreads = 32 * WARPS;

#if PRECISION == 0
// 2 lanes along the channels (for 32 rows), 16 along the pixels: the broadcast of the weights
// costs least this way.
constexpr int kRowLanes = ROWS < 32 ? 1 : ROWS / 16;
constexpr int kPixelLanes = 32 / kRowLanes;
constexpr int kLaneRows = ROWS / kRowLanes;
constexpr int kWarpPixels = kPixelLanes * LANE_PIXELS;
constexpr int kWeights = DEPTH * ROWS;          // [DEPTH][ROWS]
#else
static_assert(ROWS % 16 == 0 && DEPTH * sizeof(Element) % 32 == 0, "whole matrix instructions");
constexpr int kWarpPixels = 16 * LANE_PIXELS;
constexpr int kWeights = ROWS * kStride;        // [ROWS][DEPTH + padding]
#endif
constexpr int PIXELS = kWarpPixels * WARPS;
constexpr int kStage = kWeights + PIXELS * kStride;
constexpr int kWeightCopies = (ROWS * kPieces + kTeamThreads - 1) / kTeamThreads;
constexpr int kPixelCopies = PIXELS * kPieces / kTeamThreads;  // per thread, in one step
static_assert(PIXELS * kPieces % kTeamThreads == 0, "a team copies its pixels evenly");

// Few sums leave registers for a residual that is read early.
using Partial = PartialSums<PIXELS, ROWS, TEAMS, kThreads, 4, LANE_PIXELS <= 2>;
constexpr int kStages = TEAMS * STAGES * kStage * kBytes;
constexpr int kPositionsAt = Partial::kBytes > kStages ? Partial::kBytes : kStages;  // PIXELS follow

struct Position {
  int offset;  // of the window's first element in x
  u32 taps;    // bit t: tap t lies inside the image
};

__device__ __forceinline__ void team_sync(int team) {
  if (WARPS == 1)
    __syncwarp();
  else
    sync_warps(team + 1, kTeamThreads);
}

// ---- the arithmetic of one warp: sums for ROWS channels x kWarpPixels pixels
#if PRECISION == 0
constexpr int kQuads = DEPTH / 4;

__device__ __forceinline__ void copy_four(float* to, const float* from) {
  *reinterpret_cast<float4*>(to) = *reinterpret_cast<const float4*>(from);
}

struct Sums {
  float sum[LANE_PIXELS][kLaneRows];
  int row_lane, pixel_lane;

  // They start at the bias of the row, or at zero where another share of the row has it.
  __device__ __forceinline__ Sums(int lane, const float* bias)
      : row_lane(lane / kPixelLanes), pixel_lane(lane % kPixelLanes) {
#pragma unroll
    for (int i = 0; i < kLaneRows; i += 4) {
      float4 start{};
      if (bias) start = *reinterpret_cast<const float4*>(bias + 4 * row_lane + i * kRowLanes);
#pragma unroll
      for (int j = 0; j < LANE_PIXELS; ++j) *reinterpret_cast<float4*>(sum[j] + i) = start;
    }
  }

  // Loads stand as far before their use as registers allow: the weights of the next channel before
  // the products of this one, a pixel's next four channels right after its last product. `between`
  // is called kQuads times, so that other work spreads over the products.
  template <class Between>
  __device__ __forceinline__ void multiply(const float* weights, const float* activations,
                                           const Between& between) {
    const float* w = weights + 4 * row_lane;
    const float* x = activations + pixel_lane * kStride;
    float a[LANE_PIXELS][4], b[2][kLaneRows];
#pragma unroll
    for (int i = 0; i < kLaneRows; i += 4) copy_four(b[0] + i, w + i * kRowLanes);
#pragma unroll
    for (int j = 0; j < LANE_PIXELS; ++j) copy_four(a[j], x + j * kPixelLanes * kStride);
#pragma unroll
    for (int k = 0; k < DEPTH; ++k) {
      if (k % 4 == 0) between(k / 4);
      if (k + 1 < DEPTH)
#pragma unroll
        for (int i = 0; i < kLaneRows; i += 4)
          copy_four(b[(k + 1) % 2] + i, w + (k + 1) * ROWS + i * kRowLanes);
#pragma unroll
      for (int j = 0; j < LANE_PIXELS; ++j) {
#pragma unroll
        for (int i = 0; i < kLaneRows; ++i) sum[j][i] += b[k % 2][i] * a[j][k % 4];
        if (k % 4 == 3 && k + 1 < DEPTH) copy_four(a[j], x + j * kPixelLanes * kStride + k + 1);
      }
    }
  }

  __device__ __forceinline__ void store(float* partial) const {
#pragma unroll
    for (int j = 0; j < LANE_PIXELS; ++j)
#pragma unroll
      for (int i = 0; i < kLaneRows; i += 4)
        *reinterpret_cast<float4*>(partial + (j * kPixelLanes + pixel_lane) * Partial::kStride +
                                   4 * row_lane + i * kRowLanes) =
            *reinterpret_cast<const float4*>(sum[j] + i);
  }

  // Straight from registers: two lanes write 32 neighbouring bytes, so no sector is half written.
  // The next pixel's residual is on its way while this one's is added.
  __device__ __forceinline__ void write(const Output& output, int flat, int channel) const {
    Piece more[2][kLaneRows / 4];
    const auto fetch = [&](int j) {
#pragma unroll
      for (int i = 0; i < kLaneRows; i += 4)
        more[j % 2][i / 4] = output.extra(flat + j * kPixelLanes + pixel_lane,
                                          channel + 4 * row_lane + i * kRowLanes);
    };
    fetch(0);
#pragma unroll
    for (int j = 0; j < LANE_PIXELS; ++j) {
      if (j + 1 < LANE_PIXELS) fetch(j + 1);
#pragma unroll
      for (int i = 0; i < kLaneRows; i += 4)
        output.write(flat + j * kPixelLanes + pixel_lane, channel + 4 * row_lane + i * kRowLanes,
                     *reinterpret_cast<const PieceSums*>(sum[j] + i), more[j % 2][i / 4]);
    }
  }
};
#else
constexpr int kQuads = DEPTH / (2 * kPiece);

struct Sums {
  float sum[LANE_PIXELS][ROWS / 8][4];
  int lane;

  __device__ __forceinline__ Sums(int lane_, const float* bias) : lane(lane_) {
#pragma unroll
    for (int i = 0; i < ROWS / 8; ++i) {
      float2 start{};
      if (bias) start = *reinterpret_cast<const float2*>(bias + 8 * i + 2 * (lane % 4));
#pragma unroll
      for (int j = 0; j < LANE_PIXELS; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) sum[j][i][e] = e % 2 ? start.y : start.x;
    }
  }

  template <class Between>
  __device__ __forceinline__ void multiply(const Element* weights, const Element* activations,
                                           const Between& between) {
    const int line = lane % 16, half = lane / 16 * kPiece;
    const int channel = lane / 16 * 8 + lane % 8, deep = lane / 8 % 2 * kPiece;
#pragma unroll
    for (int k = 0; k < DEPTH; k += 2 * kPiece) {
      between(k / (2 * kPiece));
      u32 a[LANE_PIXELS][4];
#pragma unroll
      for (int j = 0; j < LANE_PIXELS; ++j)
        load_matrices(a[j], address_in_shared(activations + (16 * j + line) * kStride + k + half));
#pragma unroll
      for (int i = 0; i < ROWS / 16; ++i) {
        u32 b[4];  // channels 0-7, 32 bytes deep, then channels 8-15: each pair in a row
        load_matrices(b, address_in_shared(weights + (16 * i + channel) * kStride + k + deep));
#pragma unroll
        for (int j = 0; j < LANE_PIXELS; ++j) {
          multiply_matrices<kNumbers>(sum[j][2 * i], a[j], b[0], b[1]);
          multiply_matrices<kNumbers>(sum[j][2 * i + 1], a[j], b[2], b[3]);
        }
      }
    }
  }

  __device__ __forceinline__ void store(float* partial) const {
#pragma unroll
    for (int j = 0; j < LANE_PIXELS; ++j)
#pragma unroll
      for (int i = 0; i < ROWS / 8; ++i)
#pragma unroll
        for (int e = 0; e < 4; e += 2)
          *reinterpret_cast<float2*>(partial + (16 * j + 4 * e + lane / 4) * Partial::kStride + 8 * i +
                                     2 * (lane % 4)) =
              float2{sum[j][i][e], sum[j][i][e + 1]};
  }
};
#endif

// ---- the kernel
// values       [blocks][SLICES] steps of weights, [DEPTH][ROWS] in fp32, else [ROWS][DEPTH]
// blocks       per kept block the offset of its tap and channels from a window's first element,
//              and tap | channels that exist << 5
// row_offsets  [rows + 1] into blocks
extern "C" __global__ void __launch_bounds__(kThreads) block_convolution(
    const Element* __restrict__ x, const Element* __restrict__ values,
    const int2* __restrict__ blocks, const int* __restrict__ row_offsets,
    const float* __restrict__ bias, const Element* residual, Element* y,
    int positions, int rows, int in_channels, int in_height, int in_width, int out_channels,
    int out_height, int out_width, int kernel_height, int kernel_width, int stride_h, int stride_w,
    int padding_h, int padding_w, int dilation_h, int dilation_w, int activation) {
  unsigned char* shared = dynamic_shared_memory();
  Position* position = reinterpret_cast<Position*>(shared + kPositionsAt);

  let_successor_start();
  const int thread = threadIdx.x, team = thread / kTeamThreads, member = thread % kTeamThreads;
  const int warp = member / 32, lane = thread % 32;
  const int rank = cluster_rank(), peers = cluster_size();
  const int place = blockIdx.x / peers;
  const int row = place % rows, tile = place / rows;

  // This team's share of the row's steps.
  const int first = row_offsets[row];
  const u32 steps = (row_offsets[row + 1] - first) * SLICES;
  const u32 shares = TEAMS * peers, share = rank * TEAMS + team;
  const int begin = shares == 1 ? 0 : steps * share / shares;
  const int end = shares == 1 ? steps : steps * (share + 1) / shares;
  const Element* row_values = values + static_cast<long long>(first) * SLICES * ROWS * DEPTH;
  const Element* stages = reinterpret_cast<Element*>(shared) + team * STAGES * kStage;
  const u32 stages_address = address_in_shared(stages);

  auto copy_weights = [&](int step, u32 stage) {
    const Element* from = row_values + static_cast<long long>(step) * ROWS * DEPTH;
#pragma unroll
    for (int n = 0; n < kWeightCopies; ++n) {
      const int i = member + n * kTeamThreads;
      if (ROWS * kPieces % kTeamThreads && i >= ROWS * kPieces) break;
#if PRECISION == 0
      const int to = i * kPiece;
#else
      const int to = i / kPieces * kStride + i % kPieces * kPiece;
#endif
      copy_async<16, true>(stage + to * kBytes, from + i * kPiece, step < end);
    }
  };
  const int piece = member % kPieces * kPiece;
  // Part `part` of `parts`: the copies of a step spread over the products of an earlier one. Past
  // the last step both fill with zeros: a branch around them would part the products too.
  auto copy_activations = [&](int step, u32 stage, int2 block, int part, int parts) {
    const int channel = step % SLICES * DEPTH + piece, tap = block.y & 31;
    const bool exists = channel < block.y >> 5;  // none past the last step
    const Element* from = x + (block.x + channel);
    const u32 to = stage + (kWeights + member / kPieces * kStride + piece) * kBytes;
#pragma unroll
    for (int n = 0; n < kPixelCopies; ++n) {
      if (n % parts != part) continue;
      const int skip = n * (kTeamThreads / kPieces);
      const Position here = position[member / kPieces + skip];
      copy_async<16, true>(to + skip * kStride * kBytes, from + here.offset,
                           exists && (here.taps >> tap & 1));
    }
  };
  auto block_of = [&](int step) { return step < end ? blocks[first + step / SLICES] : int2{}; };

  // All that does not depend on the predecessor comes before the wait for it.
  int2 early[STAGES];
#pragma unroll
  for (int s = 0; s < STAGES; ++s) early[s] = block_of(begin + s);
#pragma unroll
  for (int s = 0; s < STAGES - 1; ++s)
    copy_weights(begin + s, stages_address + s * kStage * kBytes);

  Sums sums(lane, share == 0 ? bias + row * ROWS : nullptr);
  const Output output{residual, y, positions, out_channels, activation};
  Partial partial(output, shared, thread, tile * PIXELS, row * ROWS);

  // Where each pixel's window begins, and which of its taps lie inside the image.
  const bool pointwise = kernel_height * kernel_width == 1 && stride_h == 1 && stride_w == 1 &&
                         padding_h == 0 && padding_w == 0;
  for (int p = thread; p < PIXELS; p += kThreads) {
    const int flat = tile * PIXELS + p;
    Position here{flat * in_channels, flat < positions};
    if (!pointwise && flat < positions) {
      const int image = flat / (out_height * out_width), inside = flat % (out_height * out_width);
      const int h = inside / out_width * stride_h - padding_h;
      const int w = inside % out_width * stride_w - padding_w;
      here = {((image * in_height + h) * in_width + w) * in_channels, 0};
      for (int r = 0; r < kernel_height; ++r)
        for (int s = 0; s < kernel_width; ++s) {
          const bool exists = static_cast<u32>(h + r * dilation_h) < in_height &&
                              static_cast<u32>(w + s * dilation_w) < in_width;
          here.taps |= static_cast<u32>(exists) << (r * kernel_width + s);
        }
    }
    position[p] = here;
  }
  __syncthreads();
  await_predecessor();
#pragma unroll
  for (int s = 0; s < STAGES - 1; ++s) {
    copy_activations(begin + s, stages_address + s * kStage * kBytes, early[s], 0, 1);
    close_copies();
  }
  partial.fetch_early();

  int2 block = early[STAGES - 1];  // read a step ahead of its use, so that its latency is hidden
  int slot = 0, next_slot = STAGES - 1;
  for (int step = begin; step < end; ++step) {
    await_copies<STAGES - 2>();
    team_sync(team);
    const int ahead = step + STAGES - 1;
    const u32 next_stage = stages_address + next_slot * kStage * kBytes;
    const Element* stage = stages + slot * kStage;
    sums.multiply(stage, stage + kWeights + warp * kWarpPixels * kStride, [&](int part) {
      if (part == 0) copy_weights(ahead, next_stage);
      copy_activations(ahead, next_stage, block, part, kQuads);
    });
    close_copies();
    block = block_of(ahead + 1);
    slot = slot + 1 == STAGES ? 0 : slot + 1;
    next_slot = next_slot + 1 == STAGES ? 0 : next_slot + 1;
  }
  await_copies<0>();

#if PRECISION == 0
  if (TEAMS == 1 && peers == 1) {
    sums.write(output, tile * PIXELS + warp * kWarpPixels, row * ROWS);
    return;
  }
#endif
  __syncthreads();
  sums.store(partial.part(team) + warp * kWarpPixels * Partial::kStride);
  partial.write();
}
