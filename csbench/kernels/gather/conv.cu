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
// additions outside the tensor core, which rounds toward zero; 0: never), BLOCKS (a processor),
// AHEAD (records on their way while one is multiplied, 1 or 2).
#include "gather/blocks.cuh"

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
  int channel, plane;                       // elements between channels, planes of the output
  int stages, boxes, total_boxes;           // boxes of a stage, and of the layer
  int slots, ranks;                         // of the ring; blocks along K
  int units, row_blocks, tiles;             // tiles = row blocks * blocks of columns
  int scratch, scratch_step, barriers;      // byte offsets in shared memory
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
  u32 ring, scratch;  // in shared memory: stages, this warp's results
  int channel;        // where the output channel of row `lane` begins, -1: none

  __device__ __forceinline__ u32 full(const Shape& s, int slot) const {
    return ring + s.barriers + 8 * slot;
  }
  __device__ __forceinline__ u32 empty(const Shape& s, int slot) const {
    return full(s, s.slots + slot);
  }
};

// K is dealt to parts of a block and blocks of a cluster as runs of stages.
__device__ __forceinline__ int first_stage(const Shape& s, int rank, int part) {
#if GATHER_SPLIT
  return (rank * kParts + part) * s.stages / (s.ranks * kParts);
#else
  return part * s.stages;
#endif
}

// ---- copying: one warp fills the ring of stages, each lane one box (box, block of columns, plane)
struct Feeder {
  int tile, turn;  // turns go through the parts, then through their stages
  Ring ring;

  __device__ __forceinline__ Feeder(const Shape& s, const Me& me) {
    tile = blockIdx.x / s.ranks, turn = 0;
    if (threadIdx.x / 32 == GATHER_SPLIT * kWarps) locate(s, me);
  }

  // Where the tile's blocks of columns begin: in shared memory, since all warps have its registers.
  __device__ __forceinline__ u32 corner(const Shape& s, const Me& me) const {
    return me.full(s, 2 * s.slots) + 16 * me.lane;
  }
  __device__ __forceinline__ void locate(const Shape& s, const Me& me) const {
    const int along = me.lane / kPlanes % kBlocks;
    int x[4];
    first_column(s.blocks, s.step, tile / s.row_blocks * kBlocks + along, x);
    store_ints(corner(s, me), make_int4(x[0], x[1], x[2], x[3]));
  }

  // Copies the next stage once its slot is free; false when there is none.
  __device__ __forceinline__ bool feed(const TensorMap* high, const TensorMap* low,
                                       const int4* boxes, const Shape& s, const Me& me) {
    if (tile >= s.tiles) return false;
    const int part = turn % kParts, stage = first_stage(s, me.rank, part) + turn / kParts;
    if (stage < first_stage(s, me.rank, part + 1)) copy(high, low, boxes, s, me, stage);
    ring.advance(1, s.slots);
    const int turns = GATHER_SPLIT ? (s.stages / (s.ranks * kParts) + 1) * kParts : s.stages;
    if (++turn == turns) {
      turn = 0, tile += gridDim.x / s.ranks;
      if (tile < s.tiles)
        locate(s, me);
      else
        start_next_kernel();
    }
    return true;
  }

  __device__ __forceinline__ void copy(const TensorMap* high, const TensorMap* low,
                                       const int4* boxes, const Shape& s, const Me& me,
                                       int stage) const {
    const int plane = me.lane % kPlanes, along = me.lane / kPlanes % kBlocks;
    const int box = me.lane / (kPlanes * kBlocks);
    const int present = min(s.boxes, s.total_boxes - stage * s.boxes);
    const u32 to = me.ring + ring.slot * kBlocks * kPlanes * s.boxes * kBoxBytes +
                   ((along * kPlanes + plane) * s.boxes + box) * kBoxBytes;
    int4 at = make_int4(0, 0, 0, 0);
    if (box < present) at = __ldg(boxes + stage * s.boxes + box);
    const int4 x = load_ints(corner(s, me));
    barrier_wait(me.empty(s, ring.slot), ring.phase ^ 1);
    const u32 bar = me.full(s, ring.slot);
    if (me.lane == 0) barrier_expect(bar, present * kBlocks * kPlanes * kBoxBytes);
    __syncwarp();
    if (box < present)
      load_columns(to, plane ? low : high, x.x + (short)at.x, x.y + (at.x >> 16),
                   x.z + (short)at.y, x.w + (at.y >> 16), at.z, bar);
  }
};

// ---- multiplying
struct Record {
  u32 weights[kPlanes][2 * kN];
  u32 row;  // where this lane's row lies in the stage; the highest of 16 bits: the stage ends here
};

__device__ __forceinline__ void load_record(Record& r, const unsigned char* from, int lane) {
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

// One k-step of 16 kept channels: `pixels` is the stage's first block of this warp's columns.
__device__ __forceinline__ void multiply(float (&sum)[kM][kN][4], const Record& r, u32 pixels,
                                         u32 plane_bytes, int lane) {
  const u32 second = lane >> 3 & 1;  // this lane's row is of columns 8 to 15 of an m16 tile
  const u32 row = r.row & 0x7fff;
#if GATHER_SWIZZLED
  const u32 at = pixels + (row ^ second << 4);
#else
  const u32 at = pixels + row + second * 1024;
#endif
  constexpr int kAhead = kPlanes == 2 ? 2 : 4;  // m16 tiles whose columns are read together
#pragma unroll
  for (int first = 0; first < kM; first += kAhead) {
    u32 x[kAhead][kPlanes][4];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int m = first + i;
#if GATHER_SWIZZLED
      const u32 from = at ^ (m % 4) << 5;
#else
      const u32 from = at + m % 4 * 2048;
#endif
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane)
        load_transposed(x[i][plane], from + (m / 4 * kPlanes + plane) * plane_bytes);
    }
#pragma unroll
    for (int product = kPlanes == 2 ? 0 : 2; product < 3; ++product) {  // small products first
      const int xp = product == 0 ? kPlanes - 1 : 0, wp = product == 1 ? kPlanes - 1 : 0;
#pragma unroll
      for (int i = 0; i < kAhead; ++i)
#pragma unroll
        for (int n = 0; n < kN; ++n)
          multiply_tile(sum[first + i][n], x[i][xp], r.weights[wp][2 * n],
                        r.weights[wp][2 * n + 1]);
    }
  }
}

// The records of a warp, one after another and from the last back to the first: GATHER_AHEAD of
// them are on their way. They take turns in `held`, which the unrolled loop in accumulate() follows,
// so that no register is copied (a copy would wait for the load).
struct Reader {
  static constexpr int kHeld = GATHER_AHEAD + 1;
  u32 records, last, next;  // bytes from the first record: of a tile, and what is fetched next
  Record held[kHeld];
  int turn = 0;  // the one that comes next
  int stages;    // of this warp in every tile

  __device__ __forceinline__ Reader(const Pointers& p, const Shape& s, const Me& me) {
    const int from = first_stage(s, me.rank, me.part), to = first_stage(s, me.rank, me.part + 1);
    const int* starts = p.starts + me.unit * (s.stages + 1);
    stages = to - from;
    records = __ldg(starts + from) * kRecord, last = __ldg(starts + to) * kRecord - kRecord;
    next = records;
    if (stages)
#pragma unroll
      for (int i = 0; i < GATHER_AHEAD; ++i) fetch(held[i], p, me.lane);
  }

  __device__ __forceinline__ void fetch(Record& into, const Pointers& p, int lane) {
    load_record(into, p.records + next, lane);
    next = next == last ? records : next + kRecord;
  }
};

// This warp's stages of a tile into `sum`; `refill` is called before every stage.
template <class Refill>
__device__ __forceinline__ void accumulate(float (&sum)[kM][kN][4], Reader& reader, Ring& ring,
                                           const Pointers& p, const Shape& s, const Me& me,
                                           const Refill& refill) {
  const u32 plane_bytes = s.boxes * kBoxBytes, slot_bytes = kBlocks * kPlanes * plane_bytes;
#pragma unroll
  for (int i = 0; i < kM * kN * 4; ++i) (&sum[0][0][0])[i] = 0.f;
  if (!reader.stages) return;
#if GATHER_PROMOTE
  float part[kM][kN][4] = {};
  int steps = 0;
#else
  auto& part = sum;
#endif
  int left = reader.stages;
  bool starts = true;  // a stage
  u32 pixels = 0;
  // One k-step, while a later record is fetched; true at the end of the tile.
  const auto step = [&](const Record& now, Record& later) {
    if (starts) {
      refill();
      pixels = me.ring + ring.slot * slot_bytes + me.along * kHalves * kPlanes * plane_bytes;
      barrier_wait(me.full(s, ring.slot), ring.phase);
    }
    starts = now.row >> 15;  // the next step does
    reader.fetch(later, p, me.lane);
    multiply(part, now, pixels, plane_bytes, me.lane);
#if GATHER_PROMOTE
    if (++steps == GATHER_PROMOTE) {
      steps = 0;
#pragma unroll
      for (int i = 0; i < kM * kN * 4; ++i)
        (&sum[0][0][0])[i] += (&part[0][0][0])[i], (&part[0][0][0])[i] = 0.f;
    }
#endif
    if (!starts) return false;
    __syncwarp();
    if (me.lane == 0) barrier_arrive(me.empty(s, ring.slot));
    ring.advance(kParts, s.slots);
    return --left == 0;
  };
  constexpr int kHeld = Reader::kHeld;
  Record(&held)[kHeld] = reader.held;
  switch (reader.turn) {
    while (true) {
      case 0:
        reader.turn = 1;
        if (step(held[0], held[kHeld - 1])) break;
#if GATHER_AHEAD == 2
        [[fallthrough]];
      case 1:
        reader.turn = 2;
        if (step(held[1], held[0])) break;
#endif
        [[fallthrough]];
      default:
        reader.turn = 0;
        if (step(held[kHeld - 1], held[kHeld - 2])) break;
    }
  }
#if GATHER_PROMOTE
#pragma unroll
  for (int i = 0; i < kM * kN * 4; ++i) (&sum[0][0][0])[i] += (&part[0][0][0])[i];
#endif
}

// ---- finishing: sums become 16-bit numbers in this warp's scratch, channels in rows of 64 columns.
// A piece is 32 columns x 8 channels.

// Whether this warp finishes a piece.
__device__ __forceinline__ bool mine(const Shape& s, const Me& me, int piece) {
#if GATHER_SPLIT
  return piece % s.ranks == me.rank && piece / s.ranks % kParts == me.part;
#else
  return true;
#endif
}

struct Sixteen {  // bytes of the output: eight columns of a channel
  bool here;
  int at;
  u32 scratch;
};

__device__ __forceinline__ Sixteen sixteen_of(const Shape& s, const Me& me, u32 scratch, int half,
                                              int turn, int place) {
  const int row = turn * 4 + me.lane / 8, chunk = me.lane % 8;
  const int channel = __shfl_sync(0xffffffffu, me.channel, row);
  const int piece = (half * 2 + chunk / 4) * kN + row / 8;
  return {place >= 0 && channel >= 0 && mine(s, me, piece), channel + place,
          scratch + half * kScratchHalf + row * 128 + ((chunk ^ (row & 7)) << 4)};
}

__device__ __forceinline__ void fetch_residual(const Pointers& p, const Shape& s, const Me& me,
                                               u32 scratch, const int (&places)[kHalves]) {
#pragma unroll
  for (int half = 0; half < kHalves; ++half)
#pragma unroll
    for (int turn = 0; turn < kUnit / 4; ++turn) {
      const Sixteen it = sixteen_of(s, me, scratch, half, turn, places[half]);
      if (it.here)
#pragma unroll
        for (int plane = 0; plane < kPlanes; ++plane)
          copy_async(it.scratch + plane * kScratchPlane, p.residual + plane * s.plane + it.at);
    }
}

// Scale, bias, residual, activation and rounding of one piece.
__device__ __forceinline__ void finish(const Pointers& p, const Shape& s, const Me& me, u32 scratch,
                                       int pair, int n, const float (&sum)[8], float2 scale,
                                       float2 bias) {
  const int row = n * 8 + (me.lane & 7), chunk = pair % 2 * 4 + me.lane / 8;
  const u32 at =
      scratch + pair / 2 * kScratchHalf + row * 128 + ((chunk ^ (row & 7)) << 4);
  float v[8];
#pragma unroll
  for (int i = 0; i < 8; ++i)
    v[i] = sum[i] * (i & 1 ? scale.y : scale.x) + (i & 1 ? bias.y : bias.x);
  u32 r[4];
  if (p.residual) {
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      load_transposed(r, at + plane * kScratchPlane);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float first, second;
        unpack2(r[i], first, second);
        v[2 * i] += first * s.residual_scale, v[2 * i + 1] += second * s.residual_scale;
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (s.relu) v[i] = relu(v[i]);
    if (p.limit) v[i] = min_or_nan(v[i], __ldg(p.limit));
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) r[i] = pack2(v[2 * i], v[2 * i + 1]);
  store_transposed(at, r);
  if (kPlanes == 2) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float first, second;
      unpack2(r[i], first, second);
      r[i] = pack2(v[2 * i] - first, v[2 * i + 1] - second);
    }
    store_transposed(at + kScratchPlane, r);
  }
}

__device__ __forceinline__ float2 two_of(const float* values, const Me& me, int n) {
  return __ldg(reinterpret_cast<const float2*>(values + me.unit * kUnit + n * 8) + (me.lane & 3));
}

__device__ __forceinline__ void store(const Pointers& p, const Shape& s, const Me& me, u32 scratch,
                                      const int (&places)[kHalves]) {
  __syncwarp();
#pragma unroll
  for (int half = 0; half < kHalves; ++half)
#pragma unroll
    for (int turn = 0; turn < kUnit / 4; ++turn) {
      const Sixteen it = sixteen_of(s, me, scratch, half, turn, places[half]);
      if (it.here)
#pragma unroll
        for (int plane = 0; plane < kPlanes; ++plane)
          *reinterpret_cast<uint4*>(p.out + plane * s.plane + it.at) =
              load_four(it.scratch + plane * kScratchPlane);
    }
  __syncwarp();
}

#if GATHER_SPLIT
// The sums of all warps and blocks that share a tile, piece by piece, in the order of their stages.
// They lie over the ring as [group, column, part][piece][half of it][lane] of four numbers.
__device__ __forceinline__ void add_up(float (&sum)[kM][kN][4], const Pointers& p, const Shape& s,
                                       const Me& me) {
  constexpr int kPieces = kM / 2 * kN, kPiece = 1024, kPart = kPieces * kPiece;  // bytes
  const u32 first =
      me.ring + (me.along * kGroups + me.group) * kParts * kPart + me.lane * 16;
  sync_threads(1, 32 * kWarps);  // nobody reads stages any more
#pragma unroll
  for (int i = 0; i < 2 * kPieces; ++i) {
    const float* v = sum[i / 2 / kN * 2 + i % 2][i / 2 % kN];
    store_four(first + me.part * kPart + i * 512, make_float4(v[0], v[1], v[2], v[3]));
  }
  sync_threads(1, 32 * kWarps);
  if (kParts > 1 && s.ranks > 1) {
    for (int i = me.part; i < 2 * kPieces; i += kParts) {
      float4 v = load_floats(first + i * 512);
      for (int part = 1; part < kParts; ++part)
        v = add(v, load_floats(first + part * kPart + i * 512));
      store_four(first + i * 512, v);
    }
  }
  if (s.ranks > 1) cluster_arrive(), cluster_wait();
  const int sources = s.ranks > 1 ? s.ranks : kParts;
#pragma unroll 1
  for (int piece = me.rank + me.part * s.ranks; piece < kPieces; piece += kParts * s.ranks) {
    float4 v[2] = {};
#pragma unroll 4
    for (int from = 0; from < sources; ++from)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const u32 at = first + piece * kPiece + i * 512;
        v[i] = add(v[i], s.ranks > 1 ? load_remote(at, from) : load_floats(at + from * kPart));
      }
    const float flat[8] = {v[0].x, v[0].y, v[0].z, v[0].w, v[1].x, v[1].y, v[1].z, v[1].w};
    const int n = piece % kN;
    finish(p, s, me, me.scratch, piece / kN, n, flat, two_of(p.scale, me, n),
           two_of(p.bias, me, n));
  }
}
#else
__device__ __forceinline__ void finish_all(const float (&sum)[kM][kN][4], const Pointers& p,
                                           const Shape& s, const Me& me, u32 scratch) {
#pragma unroll
  for (int n = 0; n < kN; ++n) {
    const float2 scale = two_of(p.scale, me, n), bias = two_of(p.bias, me, n);
#pragma unroll
    for (int pair = 0; pair < kM / 2; ++pair) {
      float flat[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) flat[i] = sum[pair * 2 + i / 4][n][i % 4];
      finish(p, s, me, scratch, pair, n, flat, scale, bias);
    }
  }
}
#endif

__device__ __forceinline__ void locate(int (&places)[kHalves], const Shape& s, const Me& me,
                                       int tile) {
#pragma unroll
  for (int half = 0; half < kHalves; ++half)
    places[half] = place_of(s.blocks, s.box, s.size, s.out_stride,
                            tile / s.row_blocks * kBlocks + me.along * kHalves + half, me.lane % 8);
}

// Every tile of this warp. A tile's residual is on its way while the tile before is multiplied.
template <class Refill>
__device__ __forceinline__ void consume(const Pointers& p, const Shape& s, const Me& me,
                                        Reader& reader, const Refill& refill) {
  Ring ring;
  ring.advance(me.part, s.slots);
  const int stride = gridDim.x / s.ranks;
  int tile = blockIdx.x / s.ranks;
  u32 scratch = me.scratch, other = me.scratch + s.scratch_step;
  int places[kHalves];
  locate(places, s, me, tile);
  if (p.residual) fetch_residual(p, s, me, scratch, places), commit_async_copies();
  for (; tile < s.tiles; tile += stride) {
    int next[kHalves];
    if (tile + stride < s.tiles) locate(next, s, me, tile + stride);
    if (p.residual) {
      if (tile + stride < s.tiles) fetch_residual(p, s, me, other, next);
      commit_async_copies();
    }
    float sum[kM][kN][4];
    accumulate(sum, reader, ring, p, s, me, refill);
    if (p.residual) wait_async_copies_but_one();
    __syncwarp();
#if GATHER_SPLIT
    add_up(sum, p, s, me);
#else
    finish_all(sum, p, s, me, scratch);
#endif
    store(p, s, me, scratch, places);
    const u32 done = scratch;
    scratch = other, other = done;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) places[half] = next[half];
  }
}

extern "C" __global__ void __launch_bounds__(kThreads, GATHER_BLOCKS)
    gather_conv(const __grid_constant__ TensorMap high, const __grid_constant__ TensorMap low,
                const __grid_constant__ Pointers p, const __grid_constant__ Shape s) {
  extern __shared__ unsigned char memory[];
  const int warp = threadIdx.x / 32;
  Me me;
  me.lane = threadIdx.x % 32, me.rank = GATHER_SPLIT ? blockIdx.x % s.ranks : 0;
  me.group = warp % kGroups, me.along = warp / kGroups % kWarpsAlong;
  me.part = GATHER_SPLIT ? warp / (kGroups * kWarpsAlong) : 0;
  me.ring = (shared_address(memory) + 1023) & ~1023u;
  me.scratch = me.ring + s.scratch + (me.along * kGroups + me.group) * kHalves * kScratchHalf;
  // Groups past the last unit do its work once more, and store nothing.
  const int unit = blockIdx.x / s.ranks % s.row_blocks * kGroups + me.group;
  me.unit = min(unit, s.units - 1);
  me.channel = me.lane < kUnit && unit < s.units ? __ldg(p.rows + unit * kUnit + me.lane) : -1;
  if (me.channel > 0) me.channel *= s.channel;

  if (threadIdx.x == 0) {
    for (int i = 0; i < s.slots; ++i) {
      barrier_init(me.full(s, i), 1);
      barrier_init(me.empty(s, i), kGroups * kWarpsAlong);
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
    Reader reader(p, s, me);
    wait_previous_kernel();
    consume(p, s, me, reader, [] {});
  }
  // Nobody leaves while another block may read its sums.
  if (s.ranks > 1) cluster_arrive(), cluster_wait();
#else
  // The first warp copies: a ninth warp would take registers from all others.
  Reader reader(p, s, me);
  wait_previous_kernel();
  Feeder feeder(s, me);
  if (warp == 0)
    for (int slot = 1; slot < s.slots; ++slot) feeder.feed(&high, &low, p.boxes, s, me);
  consume(p, s, me, reader, [&] {
    if (warp == 0) feeder.feed(&high, &low, p.boxes, s, me);
  });
#endif
}
