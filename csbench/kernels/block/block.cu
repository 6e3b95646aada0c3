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

using u16 = unsigned short;
using u32 = unsigned int;

static_assert(ROWS >= 4 && ROWS <= 128 && (ROWS & (ROWS - 1)) == 0, "a row is 4 to 128 channels");
static_assert(DEPTH % 4 == 0, "a step is whole 16-byte pieces");
static_assert(TEAMS <= 8, "every team needs a named barrier");

#if PRECISION < 2
using Element = float;
#else
using Element = u16;  // the bits of a half or a bfloat16
#endif

constexpr int kBytes = sizeof(Element);
constexpr int kPiece = 16 / kBytes;             // elements of one 16-byte copy
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
constexpr int kSumStride = ROWS + 4;            // partial sums, [PIXELS][ROWS + padding] floats

constexpr int kSums = TEAMS * PIXELS * kSumStride * 4, kStages = TEAMS * STAGES * kStage * kBytes;
constexpr int kPositionsAt = kSums > kStages ? kSums : kStages;  // in bytes; PIXELS of them follow

struct Position {
  int offset;  // of the window's first element in x
  u32 taps;    // bit t: tap t lies inside the image
};

__device__ __forceinline__ u32 shared_address(const void* p) {
  return static_cast<u32>(__cvta_generic_to_shared(p));
}

// 16 bytes from global to shared memory, zeros where they do not exist.
// `to` is a shared address in bytes; `from` is not read, and may be anything, where none exist.
__device__ __forceinline__ void copy_piece(u32 to, const Element* from, bool exists) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(exists ? 16 : 0)
               : "memory");
}

__device__ __forceinline__ void close_stage() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int Pending>
__device__ __forceinline__ void await_stage() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

__device__ __forceinline__ void team_sync(int team) {
  if (WARPS == 1)
    __syncwarp();
  else
    asm volatile("bar.sync %0, %1;" ::"r"(team + 1), "n"(kTeamThreads) : "memory");
}

// ---- programmatic dependent launch: weights may be fetched before the predecessor has ended
__device__ __forceinline__ void let_successor_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
__device__ __forceinline__ void await_predecessor() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// ---- clusters (a cluster of one before Hopper)
__device__ __forceinline__ int cluster_rank() {
  int rank = 0;
#if __CUDA_ARCH__ >= 900
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
  return rank;
}
__device__ __forceinline__ int cluster_size() {
  int size = 1;
#if __CUDA_ARCH__ >= 900
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
#endif
  return size;
}
__device__ __forceinline__ void cluster_sync() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
#endif
}
__device__ __forceinline__ float4 load_from(const float* p, int rank) {
#if __CUDA_ARCH__ >= 900
  float4 v;
  u32 there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(p)), "r"(rank));
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(there)
               : "memory");
  return v;
#else
  return *reinterpret_cast<const float4*>(p);
#endif
}

// ---- from and to the type of the activations
__device__ __forceinline__ float widen(Element v) {
#if PRECISION < 2
  return v;
#elif PRECISION == 2
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v));
  return f;
#else
  return __uint_as_float(static_cast<u32>(v) << 16);
#endif
}
__device__ __forceinline__ Element narrow(float f) {
#if PRECISION < 2
  return f;
#elif PRECISION == 2
  u16 v;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(v) : "f"(f));
  return v;
#else
  u16 v;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(v) : "f"(f));
  return v;
#endif
}

// Written so that NaN stays NaN.
__device__ __forceinline__ float activate(float v, int activation) {
  if (activation >= 1 && v < 0.0f) v = 0.0f;
  if (activation == 2 && v > 6.0f) v = 6.0f;
  return v;
}

struct alignas(4 * sizeof(Element)) Four {
  Element v[4];
};

// The way out of four channels' sums of one pixel: bias, residual, activation, y.
struct Output {
  const float* __restrict__ bias;
  const Element* __restrict__ residual;
  Element* __restrict__ y;
  int positions, channels, activation;

  __device__ __forceinline__ bool inside(int flat, int channel) const {
    return flat < positions && channel < channels;
  }

  __device__ __forceinline__ Four extra(int flat, int channel) const {
    Four four{};
    if (residual && inside(flat, channel)) {
      const Element* from = residual + static_cast<long long>(flat) * channels + channel;
      if (channels % 4 == 0)
        four = *reinterpret_cast<const Four*>(from);
      else
        for (int e = 0; e < 4; ++e)
          if (channel + e < channels) four.v[e] = from[e];
    }
    return four;
  }

  __device__ __forceinline__ void write(int flat, int channel, float4 sums, Four more) const {
    if (!inside(flat, channel)) return;
    const float4 b = *reinterpret_cast<const float4*>(bias + channel);  // padded to whole rows
    const float total[4] = {sums.x + b.x, sums.y + b.y, sums.z + b.z, sums.w + b.w};
    Four four;
#pragma unroll
    for (int e = 0; e < 4; ++e)
      four.v[e] = narrow(activate(total[e] + (residual ? widen(more.v[e]) : 0.0f), activation));
    Element* to = y + static_cast<long long>(flat) * channels + channel;
    if (channels % 4 == 0)
      *reinterpret_cast<Four*>(to) = four;
    else
      for (int e = 0; e < 4; ++e)
        if (channel + e < channels) to[e] = four.v[e];
  }
};

// ---- the arithmetic of one warp: sums for ROWS channels x kWarpPixels pixels
#if PRECISION == 0
constexpr int kQuads = DEPTH / 4;

__device__ __forceinline__ void copy_four(float* to, const float* from) {
  *reinterpret_cast<float4*>(to) = *reinterpret_cast<const float4*>(from);
}

struct Sums {
  float sum[LANE_PIXELS][kLaneRows];
  int row_lane, pixel_lane;

  __device__ __forceinline__ explicit Sums(int lane)
      : row_lane(lane / kPixelLanes), pixel_lane(lane % kPixelLanes) {
#pragma unroll
    for (int j = 0; j < LANE_PIXELS; ++j)
#pragma unroll
      for (int i = 0; i < kLaneRows; ++i) sum[j][i] = 0.0f;
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
        *reinterpret_cast<float4*>(partial + (j * kPixelLanes + pixel_lane) * kSumStride +
                                   4 * row_lane + i * kRowLanes) =
            *reinterpret_cast<const float4*>(sum[j] + i);
  }

  // Straight from registers: two lanes write 32 neighbouring bytes, so no sector is half written.
  __device__ __forceinline__ void write(const Output& output, int flat, int channel) const {
#pragma unroll
    for (int j = 0; j < LANE_PIXELS; ++j) {
      Four more[kLaneRows / 4];
#pragma unroll
      for (int i = 0; i < kLaneRows; i += 4)
        more[i / 4] = output.extra(flat + j * kPixelLanes + pixel_lane,
                                   channel + 4 * row_lane + i * kRowLanes);
#pragma unroll
      for (int i = 0; i < kLaneRows; i += 4)
        output.write(flat + j * kPixelLanes + pixel_lane, channel + 4 * row_lane + i * kRowLanes,
                     *reinterpret_cast<const float4*>(sum[j] + i), more[i / 4]);
    }
  }
};
#else
constexpr int kQuads = DEPTH / (2 * kPiece);

__device__ __forceinline__ void load_matrices(u32 (&r)[4], const Element* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(p)));
}

// 16 pixels x 8 channels, 32 bytes deep: k8 in tf32, k16 in half precision.
__device__ __forceinline__ void matrix_product(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if PRECISION == 1
#define SHAPE "m16n8k8.row.col.f32.tf32.tf32.f32"
#elif PRECISION == 2
#define SHAPE "m16n8k16.row.col.f32.f16.f16.f32"
#else
#define SHAPE "m16n8k16.row.col.f32.bf16.bf16.f32"
#endif
  asm volatile("mma.sync.aligned." SHAPE
               " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

struct Sums {
  float sum[LANE_PIXELS][ROWS / 8][4];
  int lane;

  __device__ __forceinline__ explicit Sums(int lane_) : lane(lane_) {
#pragma unroll
    for (int j = 0; j < LANE_PIXELS; ++j)
#pragma unroll
      for (int i = 0; i < ROWS / 8; ++i)
#pragma unroll
        for (int e = 0; e < 4; ++e) sum[j][i][e] = 0.0f;
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
        load_matrices(a[j], activations + (16 * j + line) * kStride + k + half);
#pragma unroll
      for (int i = 0; i < ROWS / 16; ++i) {
        u32 b[4];  // channels 0-7, 32 bytes deep, then channels 8-15: each pair in a row
        load_matrices(b, weights + (16 * i + channel) * kStride + k + deep);
#pragma unroll
        for (int j = 0; j < LANE_PIXELS; ++j) {
          matrix_product(sum[j][2 * i], a[j], b[0], b[1]);
          matrix_product(sum[j][2 * i + 1], a[j], b[2], b[3]);
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
          *reinterpret_cast<float2*>(partial + (16 * j + 4 * e + lane / 4) * kSumStride + 8 * i +
                                     2 * (lane % 4)) =
              make_float2(sum[j][i][e], sum[j][i][e + 1]);
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
    const float* __restrict__ bias, const Element* __restrict__ residual, Element* __restrict__ y,
    int positions, int rows, int in_channels, int in_height, int in_width, int out_channels,
    int out_height, int out_width, int kernel_height, int kernel_width, int stride_h, int stride_w,
    int padding_h, int padding_w, int dilation_h, int dilation_w, int activation) {
  extern __shared__ __align__(16) char shared[];
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
  const u32 stages_address = shared_address(stages);

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
      copy_piece(stage + to * kBytes, from + i * kPiece, step < end);
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
      copy_piece(to + skip * kStride * kBytes, from + here.offset,
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
    close_stage();
  }

  Sums sums(lane);
  int2 block = early[STAGES - 1];  // read a step ahead of its use, so that its latency is hidden
  int slot = 0, next_slot = STAGES - 1;
  for (int step = begin; step < end; ++step) {
    await_stage<STAGES - 2>();
    team_sync(team);
    const int ahead = step + STAGES - 1;
    const u32 next_stage = stages_address + next_slot * kStage * kBytes;
    const Element* stage = stages + slot * kStage;
    sums.multiply(stage, stage + kWeights + warp * kWarpPixels * kStride, [&](int part) {
      if (part == 0) copy_weights(ahead, next_stage);
      copy_activations(ahead, next_stage, block, part, kQuads);
    });
    close_stage();
    block = block_of(ahead + 1);
    slot = slot + 1 == STAGES ? 0 : slot + 1;
    next_slot = next_slot + 1 == STAGES ? 0 : next_slot + 1;
  }
  await_stage<0>();

  const Output output{bias, residual, y, positions, out_channels, activation};
#if PRECISION == 0
  if (TEAMS == 1 && peers == 1) {
    sums.write(output, tile * PIXELS + warp * kWarpPixels, row * ROWS);
    return;
  }
#endif
  __syncthreads();

  // Add up: the teams of this block, then the blocks of the cluster, each for a part of the tile.
  float* partial = reinterpret_cast<float*>(shared);
  sums.store(partial + (team * PIXELS + warp * kWarpPixels) * kSumStride);
  __syncthreads();
  constexpr int kFours = ROWS / 4, kAll = PIXELS * kFours;
  auto sum_of_teams = [&](int i) {
    const float* at = partial + i / kFours * kSumStride + i % kFours * 4;
    float4 total = *reinterpret_cast<const float4*>(at);
#pragma unroll
    for (int t = 1; t < TEAMS; ++t) {
      const float4 v = *reinterpret_cast<const float4*>(at + t * PIXELS * kSumStride);
      total.x += v.x, total.y += v.y, total.z += v.z, total.w += v.w;
    }
    return total;
  };
  if (peers > 1) {
    if (TEAMS > 1)
      for (int i = thread; i < kAll; i += kThreads)
        *reinterpret_cast<float4*>(partial + i / kFours * kSumStride + i % kFours * 4) =
            sum_of_teams(i);
    cluster_sync();
  }

  constexpr int kBatch = kAll / kThreads < 1 ? 1 : kAll / kThreads > 4 ? 4 : kAll / kThreads;
  for (int base = rank * kThreads + thread; base < kAll; base += kBatch * peers * kThreads) {
    Four more[kBatch];  // all on their way before the first is used
#pragma unroll
    for (int n = 0; n < kBatch; ++n) {
      const int i = base + n * peers * kThreads;
      more[n] = i < kAll ? output.extra(tile * PIXELS + i / kFours, row * ROWS + i % kFours * 4)
                         : Four{};
    }
#pragma unroll
    for (int n = 0; n < kBatch; ++n) {
      const int i = base + n * peers * kThreads;
      if (i >= kAll) break;
      float4 total;
      if (peers == 1) {
        total = sum_of_teams(i);
      } else {
        const float* at = partial + i / kFours * kSumStride + i % kFours * 4;
        total = load_from(at, 0);
        for (int c = 1; c < peers; ++c) {
          const float4 v = load_from(at, c);
          total.x += v.x, total.y += v.y, total.z += v.z, total.w += v.w;
        }
      }
      output.write(tile * PIXELS + i / kFours, row * ROWS + i % kFours * 4, total, more[n]);
    }
  }
  if (peers > 1) cluster_sync();  // a peer may still be reading this block's sums
}
