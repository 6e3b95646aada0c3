// A fused convolution whose output channels come in units of 8, 16 or 32 that keep the same
// columns (input channel and tap), as dense products of gathered channels on tensor cores:
//
//   out[channel, column] = activation(scale * (W[channel, k] x[channel k, column at tap k]) + bias
//                                     [+ residual_scale * residual])
//
// A column is a place of an image of the batch. In memory a channel's neighbouring columns are
// neighbours, so a box of the copy engine is 64 channels x 64 columns at one tap, with zeros outside
// the image, and in shared memory a channel is one row of 128 bytes. ldmatrix takes the addresses
// of eight rows: they may be any rows, so a kept channel costs what a channel of a dense product
// costs. Columns are M and output channels N of mma.m16n8k16; weights are read in fragment order.
//
// A stage is a few boxes. For each unit and stage the host packs its kept columns as records of 16
// (one k-step): weights, and where their rows lie in the stage. With two planes a number is the
// sum of two fp16 (high, low), and a product is low*high + high*low + high*high.
//
// Small images fill few blocks: then K is split, stages are dealt to the blocks of a cluster and
// to the warps of a block, and sums are added up through shared memory in a fixed order.
//
// Set by -D: CS_BF16, GATHER_ PLANES, N (n8 tiles of a unit), M (m16 tiles of a warp), GROUPS
// (units of a block), COLUMNS (warps along columns), PARTS (warps along K), SPLIT (is K split),
// SWIZZLED (rows of 64 columns; else 8 columns of all channels together), PROMOTE (k-steps between
// additions outside the tensor core, which rounds toward zero; 0: never), BLOCKS (a processor).
#include "gather/common.cuh"

constexpr int kPlanes = GATHER_PLANES, kN = GATHER_N, kM = GATHER_M;
constexpr int kGroups = GATHER_GROUPS, kWarpsAlong = GATHER_COLUMNS, kParts = GATHER_PARTS;
constexpr int kUnit = 8 * kN;
constexpr int kHalves = kM / 4;                      // blocks of 64 columns of a warp
constexpr int kBlocks = kWarpsAlong * kHalves;       // of a thread block
constexpr int kWarps = kGroups * kWarpsAlong * kParts;
constexpr int kThreads = 32 * (kWarps + GATHER_SPLIT);
constexpr int kBoxBytes = 64 * 128;
constexpr int kWeightBytes = kPlanes * kUnit * 16 * 2;
constexpr int kRecord = kWeightBytes + 32;
constexpr int kScratchPlane = kUnit * 128, kScratchHalf = kPlanes * kScratchPlane;

static_assert(kM % 4 == 0, "a warp takes whole blocks of 64 columns");
static_assert(GATHER_SPLIT || kParts == 1, "parts of K are added up only if K is split");

struct Shape {
  int blocks[3], box[4], step[4], size[4];  // by dimension of columns: see geometry.py
  int out_stride[4];                        // elements between neighbouring output columns
  int channel;                              // elements between channels of output and residual
  long long plane;                          // elements between their planes
  int stages, boxes, total_boxes;           // boxes of a stage, and of the layer
  int slots, ranks, row_blocks, tiles;      // ring; blocks along K; tiles = row blocks * columns
  int scratch, barriers;                    // byte offsets in shared memory
  int relu;
  float residual_scale;
};

struct Pointers {
  const unsigned char* records;
  const int* starts;  // [units, stages + 1]: first record of each stage
  const int4* boxes;  // offsets by dimension (16 bits each), first channel
  const int* rows;    // output channel of each row of each unit, -1 where it is padding
  const float *scale, *bias, *limit;  // by row of the units; where ReLU6 ends, or null
  const u16* residual;
  u16* out;
};

// Who a warp is, and what it works on in every tile.
struct Me {
  int group, along, part, lane, rank, unit;
  u32 ring, full, empty, scratch;
};

// ---- copying: one warp fills the ring of stages, each lane one box (box, block of columns, plane)
struct Feeder {
  int tile, stage, x[4];
  Ring ring;

  __device__ __forceinline__ Feeder(const Shape& s, const Me& me) {
    tile = blockIdx.x / s.ranks, stage = me.rank;
    locate(s, me);
  }

  __device__ __forceinline__ void locate(const Shape& s, const Me& me) {
    const int along = me.lane / kPlanes % kBlocks;
    first_column(s.blocks, s.step, tile / s.row_blocks * kBlocks + along, x);
  }

  // Copies the next stage once its slot is free; false when there is none.
  __device__ __forceinline__ bool feed(const TensorMap* high, const TensorMap* low,
                                       const int4* boxes, const Shape& s, const Me& me) {
    if (tile >= s.tiles || stage >= s.stages) return false;
    const int plane = me.lane % kPlanes, along = me.lane / kPlanes % kBlocks;
    const int box = me.lane / (kPlanes * kBlocks);
    const int present = min(s.boxes, s.total_boxes - stage * s.boxes);
    const u32 to = me.ring + ring.slot * kBlocks * kPlanes * s.boxes * kBoxBytes +
                   ((along * kPlanes + plane) * s.boxes + box) * kBoxBytes;
    int4 at = make_int4(0, 0, 0, 0);
    if (box < present) at = __ldg(boxes + stage * s.boxes + box);
    barrier_wait(me.empty + 8 * ring.slot, ring.phase ^ 1);
    const u32 bar = me.full + 8 * ring.slot;
    if (me.lane == 0) barrier_expect(bar, present * kBlocks * kPlanes * kBoxBytes);
    __syncwarp();
    if (box < present)
      load_columns(to, plane ? low : high, x[0] + (short)at.x, x[1] + (at.x >> 16),
                   x[2] + (short)at.y, x[3] + (at.y >> 16), at.z, bar);
    ring.advance(1, s.slots);
    stage += s.ranks;
    if (stage >= s.stages) {
      stage = me.rank, tile += gridDim.x / s.ranks;
      locate(s, me);
      if (tile >= s.tiles) start_next_kernel();
    }
    return true;
  }
};

// ---- multiplying
struct Record {
  u32 weights[kPlanes][2 * kN];
  u32 row;  // where this lane's row lies in the stage
};

__device__ __forceinline__ void load_record(Record& r, const unsigned char* records, int number,
                                            int lane) {
  const unsigned char* from = records + size_t(number) * kRecord;
#pragma unroll
  for (int plane = 0; plane < kPlanes; ++plane) {
    if constexpr (kN == 1) {
      const uint2 v = __ldg(reinterpret_cast<const uint2*>(from + plane * 256) + lane);
      r.weights[plane][0] = v.x, r.weights[plane][1] = v.y;
    } else {
#pragma unroll
      for (int q = 0; q < kN / 2; ++q) {
        const uint4 v =
            __ldg(reinterpret_cast<const uint4*>(from + (plane * (kN / 2) + q) * 512) + lane);
        u32* w = r.weights[plane] + 4 * q;
        w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w;
      }
    }
  }
  r.row = __ldg(reinterpret_cast<const u16*>(from + kWeightBytes) + (lane & 7) + 8 * (lane >> 4));
}

__device__ __forceinline__ Record first_record(const Pointers& p, const Shape& s, const Me& me) {
  Record r;
  const int first = min(me.rank + me.part * s.ranks, s.stages - 1);
  load_record(r, p.records, __ldg(p.starts + me.unit * (s.stages + 1) + first), me.lane);
  return r;
}

// One k-step of 16 kept channels: `pixels` is the stage's first block of this warp's columns.
__device__ __forceinline__ void multiply(float (&sum)[kM][kN][4], const Record& r, u32 pixels,
                                         u32 plane_bytes, int lane) {
  const u32 second = lane >> 3 & 1;  // this lane's row is of columns 8 to 15 of an m16 tile
#if GATHER_SWIZZLED
  const u32 at = pixels + (r.row ^ second << 4);
#else
  const u32 at = pixels + r.row + second * 1024;
#endif
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    u32 x[kPlanes][4];
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
#if GATHER_SWIZZLED
      const u32 from = at ^ (m % 4) << 5;
#else
      const u32 from = at + m % 4 * 2048;
#endif
      load_transposed(x[plane], from + (m / 4 * kPlanes + plane) * plane_bytes);
    }
#pragma unroll
    for (int product = kPlanes == 2 ? 0 : 2; product < 3; ++product) {  // small products first
      const int xp = product == 0 ? kPlanes - 1 : 0, wp = product == 1 ? kPlanes - 1 : 0;
#pragma unroll
      for (int n = 0; n < kN; ++n)
        multiply_tile(sum[m][n], x[xp], r.weights[wp][2 * n], r.weights[wp][2 * n + 1]);
    }
  }
}

// This warp's stages of a tile into `sum`. `now` is the first record on entry, and again on return.
// `refill` is called before every stage.
template <class Refill>
__device__ __forceinline__ void accumulate(float (&sum)[kM][kN][4], Record& now, Ring& ring,
                                           const Pointers& p, const Shape& s, const Me& me,
                                           const Refill& refill) {
  const u32 plane_bytes = s.boxes * kBoxBytes, slot_bytes = kBlocks * kPlanes * plane_bytes;
  const int first = me.rank + me.part * s.ranks, stride = kParts * s.ranks;
  const int* starts = p.starts + me.unit * (s.stages + 1);
#pragma unroll
  for (int i = 0; i < kM * kN * 4; ++i) (&sum[0][0][0])[i] = 0.f;
  if (first >= s.stages) return;
#if GATHER_PROMOTE
  float part[kM][kN][4] = {};
  int steps = 0;
#else
  auto& part = sum;
#endif
  int step = starts[first], stop = starts[first + 1];
  for (int stage = first; stage < s.stages; stage += stride) {
    const int next = stage + stride < s.stages ? stage + stride : first;
    const int next_step = starts[next], next_stop = starts[next + 1];
    const u32 pixels =
        me.ring + ring.slot * slot_bytes + me.along * kHalves * kPlanes * plane_bytes;
    refill();
    barrier_wait(me.full + 8 * ring.slot, ring.phase);
#pragma unroll 1
    while (step < stop) {
      Record ahead;
      load_record(ahead, p.records, ++step < stop ? step : next_step, me.lane);
      multiply(part, now, pixels, plane_bytes, me.lane);
      now = ahead;
#if GATHER_PROMOTE
      if (++steps == GATHER_PROMOTE) {
        steps = 0;
#pragma unroll
        for (int i = 0; i < kM * kN * 4; ++i)
          (&sum[0][0][0])[i] += (&part[0][0][0])[i], (&part[0][0][0])[i] = 0.f;
      }
#endif
    }
    step = next_step, stop = next_stop;
    __syncwarp();
    if (me.lane == 0) barrier_arrive(me.empty + 8 * ring.slot);
    ring.advance(kParts, s.slots);
  }
#if GATHER_PROMOTE
#pragma unroll
  for (int i = 0; i < kM * kN * 4; ++i) (&sum[0][0][0])[i] += (&part[0][0][0])[i];
#endif
}

// ---- finishing: sums become 16-bit numbers in this warp's scratch, channels in rows of 64 columns
// The piece (m, n) of a tile, 16 columns x 8 channels, belongs to this warp.
__device__ __forceinline__ bool mine(const Shape& s, const Me& me, int m, int n) {
#if GATHER_SPLIT
  const int piece = m * kN + n;
  return piece % s.ranks == me.rank && piece / s.ranks % kParts == me.part;
#else
  return true;
#endif
}

struct Piece {  // 16 bytes of the output: eight columns of a channel
  bool here;
  long long at;
  u32 scratch;
};

__device__ __forceinline__ Piece piece_of(const Pointers& p, const Shape& s, const Me& me,
                                          int half, int turn, const Place& place) {
  const int row = turn * 4 + me.lane / 8, chunk = me.lane % 8;
  const int channel = __ldg(p.rows + me.unit * kUnit + row);
  Piece piece;
  piece.here = place.inside && channel >= 0 && mine(s, me, half * 4 + chunk / 2, row / 8);
  piece.at = (long long)channel * s.channel + place.at;
  piece.scratch = me.scratch + half * kScratchHalf + row * 128 + ((chunk ^ (row & 7)) << 4);
  return piece;
}

__device__ __forceinline__ void fetch_residual(const Pointers& p, const Shape& s, const Me& me,
                                               const Place (&places)[kHalves]) {
  __syncwarp();  // the scratch may still be read
#pragma unroll
  for (int half = 0; half < kHalves; ++half)
#pragma unroll
    for (int turn = 0; turn < kUnit / 4; ++turn) {
      const Piece piece = piece_of(p, s, me, half, turn, places[half]);
      if (piece.here)
#pragma unroll
        for (int plane = 0; plane < kPlanes; ++plane)
          copy_async(piece.scratch + plane * kScratchPlane, p.residual + plane * s.plane + piece.at);
    }
}

__device__ __forceinline__ void finish(const Pointers& p, const Shape& s, const Me& me, int m,
                                       int n, const float (&sum)[4]) {
  const int row = me.unit * kUnit + n * 8 + 2 * (me.lane & 3);
  const float2 scale = __ldg(reinterpret_cast<const float2*>(p.scale + row));
  const float2 bias = __ldg(reinterpret_cast<const float2*>(p.bias + row));
  float v[4];
#pragma unroll
  for (int i = 0; i < 4; ++i)
    v[i] = sum[i] * (i & 1 ? scale.y : scale.x) + (i & 1 ? bias.y : bias.x);
  const int scratch_row = n * 8 + (me.lane & 7), chunk = m % 4 * 2 + (me.lane >> 3 & 1);
  const u32 at = me.scratch + m / 4 * kScratchHalf + scratch_row * 128 +
                 ((chunk ^ (scratch_row & 7)) << 4);
  if (p.residual) {
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      u32 r[2];
      load_two_transposed(r, at + plane * kScratchPlane);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float first, second;
        unpack2(r[i], first, second);
        v[2 * i] += first * s.residual_scale, v[2 * i + 1] += second * s.residual_scale;
      }
    }
  }
  u32 r[2];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (s.relu) v[i] = relu(v[i]);
    if (p.limit) v[i] = at_most(v[i], __ldg(p.limit));
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) r[i] = pack2(v[2 * i], v[2 * i + 1]);
  store_two_transposed(at, r);
  if (kPlanes == 2) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float first, second;
      unpack2(r[i], first, second);
      r[i] = pack2(v[2 * i] - first, v[2 * i + 1] - second);
    }
    store_two_transposed(at + kScratchPlane, r);
  }
}

__device__ __forceinline__ void store(const Pointers& p, const Shape& s, const Me& me,
                                      const Place (&places)[kHalves]) {
  __syncwarp();
#pragma unroll
  for (int half = 0; half < kHalves; ++half)
#pragma unroll
    for (int turn = 0; turn < kUnit / 4; ++turn) {
      const Piece piece = piece_of(p, s, me, half, turn, places[half]);
      if (piece.here)
#pragma unroll
        for (int plane = 0; plane < kPlanes; ++plane)
          *reinterpret_cast<uint4*>(p.out + plane * s.plane + piece.at) =
              load_four(piece.scratch + plane * kScratchPlane);
    }
}

#if GATHER_SPLIT
// The sums of all warps and blocks that share a tile, piece by piece, in the order of stages dealt.
// `sums` is [group, column, part][piece][lane] of four numbers, over the ring.
__device__ __forceinline__ void add_up(float (&sum)[kM][kN][4], const Pointers& p, const Shape& s,
                                       const Me& me) {
  constexpr int kPieces = kM * kN;
  const u32 team = (me.along * kGroups + me.group) * kParts;
  const u32 first = me.ring + (team * kPieces * 32 + me.lane) * 16;
  const u32 own = first + me.part * kPieces * 512;
  sync_threads(1, 32 * kWarps);  // nobody reads stages any more
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    const float* v = sum[i / kN][i % kN];
    store_four(own + i * 512, make_float4(v[0], v[1], v[2], v[3]));
  }
  sync_threads(1, 32 * kWarps);
  if (kParts > 1 && s.ranks > 1) {
    for (int i = me.part; i < kPieces; i += kParts) {
      float4 v = load_floats(first + i * 512);
      for (int part = 1; part < kParts; ++part)
        v = add(v, load_floats(first + (part * kPieces + i) * 512));
      store_four(first + i * 512, v);
    }
  }
  if (s.ranks > 1) cluster_arrive(), cluster_wait();
  const int sources = s.ranks > 1 ? s.ranks : kParts;
#pragma unroll 1
  for (int i = s.ranks > 1 ? me.rank + me.part * s.ranks : me.part; i < kPieces;
       i += kParts * s.ranks) {
    float4 v = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll 4
    for (int from = 0; from < sources; ++from)
      v = add(v, s.ranks > 1 ? load_remote(first + i * 512, from)
                             : load_floats(first + (from * kPieces + i) * 512));
    const float piece[4] = {v.x, v.y, v.z, v.w};
    finish(p, s, me, i / kN, i % kN, piece);
  }
}
#endif

template <class Refill>
__device__ __forceinline__ void consume(const Pointers& p, const Shape& s, const Me& me,
                                        Record& now, const Refill& refill) {
  Ring ring;
  ring.advance(me.part, s.slots);
  for (int tile = blockIdx.x / s.ranks; tile < s.tiles; tile += gridDim.x / s.ranks) {
    Place places[kHalves];
#pragma unroll
    for (int half = 0; half < kHalves; ++half)
      places[half] = place_of(s.blocks, s.box, s.size, s.out_stride,
                              tile / s.row_blocks * kBlocks + me.along * kHalves + half,
                              me.lane % 8);
    if (p.residual) fetch_residual(p, s, me, places);
    float sum[kM][kN][4];
    accumulate(sum, now, ring, p, s, me, refill);
    wait_async_copies();
    __syncwarp();
#if GATHER_SPLIT
    add_up(sum, p, s, me);
#else
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int n = 0; n < kN; ++n) finish(p, s, me, m, n, sum[m][n]);
#endif
    store(p, s, me, places);
  }
}

extern "C" __global__ void __launch_bounds__(kThreads, GATHER_BLOCKS)
    gather_conv(const __grid_constant__ TensorMap high, const __grid_constant__ TensorMap low,
                const __grid_constant__ Pointers p, const __grid_constant__ Shape s) {
  extern __shared__ unsigned char memory[];
  const int warp = threadIdx.x / 32;
  Me me;
  me.lane = threadIdx.x % 32, me.rank = blockIdx.x % s.ranks;
  me.group = warp % kGroups, me.along = warp / kGroups % kWarpsAlong;
  me.part = warp / (kGroups * kWarpsAlong);
  me.unit = blockIdx.x / s.ranks % s.row_blocks * kGroups + me.group;
  me.ring = (shared_address(memory) + 1023) & ~1023u;
  me.full = me.ring + s.barriers, me.empty = me.full + 8 * s.slots;
  me.scratch = me.ring + s.scratch + (me.along * kGroups + me.group) * kHalves * kScratchHalf;

  if (threadIdx.x == 0) {
    for (int i = 0; i < s.slots; ++i) {
      barrier_init(me.full + 8 * i, 1);
      barrier_init(me.empty + 8 * i, kGroups * kWarpsAlong);
    }
    fence_barrier_init();
  }
  __syncthreads();
#if GATHER_SPLIT
  if (warp == kWarps) {
    wait_previous_kernel();
    Feeder feeder(s, me);
    while (feeder.feed(&high, &low, p.boxes, s, me)) continue;
    if (s.ranks > 1) cluster_arrive(), cluster_wait();
  } else {
    Record now = first_record(p, s, me);
    wait_previous_kernel();
    consume(p, s, me, now, [] {});
  }
  // Nobody leaves while another block may read its sums.
  if (s.ranks > 1) cluster_arrive(), cluster_wait();
#else
  // The first warp copies: a ninth warp would take registers from all others.
  Record now = first_record(p, s, me);
  wait_previous_kernel();
  Feeder feeder(s, me);
  if (warp == 0)
    for (int slot = 1; slot < s.slots; ++slot) feeder.feed(&high, &low, p.boxes, s, me);
  consume(p, s, me, now, [&] {
    if (warp == 0) feeder.feed(&high, &low, p.boxes, s, me);
  });
#endif
}
