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
// Four warps of a unit may multiply together by wgmma, with their gathered columns in registers.
//
// A stage is a few boxes. For each unit and stage the host packs its kept columns as records of 16
// (one k-step): weights, and where their rows lie in the stage; the last record may hold columns of
// the next stage too. A warp reads them from memory, or, at small batch, they come with a stage's
// boxes. With two planes a number is the sum of two fp16 (high, low), and a product is
// low*high + high*low + high*high.
//
// Where images are neighbours and a layer has windows of several pixels, a tile of four blocks of
// columns may be 2 x 2 output pixels, whose windows overlap: 3x3 ones are 16 input pixels instead of
// 36. A stage is then those pixels, for 16 channels, and a warp's columns lie a fixed way on.
//
// Small images fill few blocks: then K is split, stages are dealt to the blocks of a cluster and
// to the warps of a block, and sums are added up through shared memory in a fixed order.
//
// Set by -D: CS_BF16, GATHER_ PLANES, N (n8 tiles of a unit), M (m16 tiles of a warp), GROUPS
// (units of a block), COLUMNS (warps along columns), PARTS (warps along K), SPLIT (is K split),
// SWIZZLED (rows of 64 columns; else 8 columns of all channels together), WINDOW (do the blocks of a
// tile share one), WGMMA (do four warps multiply together), COPIERS (warps that only copy), PROMOTE
// (k-steps between additions outside the tensor core, which rounds toward zero; 0: never), BLOCKS (a
// processor), UNFOLD (is the result stored as the next layer reads it, too), AHEAD (records on their
// way while one is multiplied, 1 to 3; 0: they come with the stages).
#include "gather/feed.cuh"
#include "gather/finish.cuh"
#include "wgmma/prefetch.cuh"
#if GATHER_WGMMA
#include "gather/together.cuh"
#elif GATHER_AHEAD
#include "gather/fetch.cuh"
#else
#include "gather/walk.cuh"
#endif

// Plans that only small batch has, but for those that read records from memory without splitting K:
// the kernel before is short and weights may have left L2, so while it runs, the blocks of the first
// columns ask for all records.
constexpr bool kShort = GATHER_SPLIT || (!GATHER_AHEAD && !kWgmma);
__device__ __forceinline__ void prefetch_records(const Pointers& p, const Shape& s, const Me& me) {
  if (!kShort || me.lane || me.along || threadIdx.x / 32 >= kWarps) return;
  const int* starts = p.starts + me.unit * (s.stages + 1);
  const u32 from = __ldg(starts + first_stage(s, me.rank, me.part));
  const u32 count = __ldg(starts + first_stage(s, me.rank, me.part + 1)) - from;
  if (count) prefetch_bytes(p.records + from * kRecord, count * kRecord);
}

// Every tile of this warp. A tile's residual is on its way while the tile before is multiplied.
template <class Refill>
__device__ __forceinline__ void consume(const Pointers& p, const Shape& s, const Me& me,
                                        Reader& reader, const Refill& refill) {
  Ring ring;
  ring.advance(me.part, s.slots);
  const int stride = gridDim.x / s.blocks_along_k();
  int tile = blockIdx.x / s.blocks_along_k();
  u32 scratch = me.scratch, other = me.scratch + s.scratch_step;
  if (p.residual) fetch_residual(p, s, me, scratch, tile);
  for (; tile < s.tiles; tile += stride) {
    if (p.residual) fetch_residual(p, s, me, other, tile + stride);
    float sum[kM][kN][4];
    accumulate(sum, reader, ring, p, s, me, refill);
    if (p.residual)
      await_copies<1>();
    else
      await_copies<0>();
    __syncwarp();
#if GATHER_SPLIT
    add_up(sum, p, s, me);
    store(p, s, me, scratch, tile);
#else
    finish_all(sum, p, s, me, scratch, tile);
#endif
    const u32 done = scratch;
    scratch = other, other = done;
  }
}

extern "C" __global__ void __launch_bounds__(kThreads, GATHER_BLOCKS)
    gather_conv(const __grid_constant__ TensorMap high, const __grid_constant__ TensorMap low,
                const __grid_constant__ Pointers p, const __grid_constant__ Shape s) {
  const int warp = threadIdx.x / 32;
  Me me;
  me.lane = threadIdx.x % 32, me.rank = GATHER_SPLIT ? blockIdx.x % s.ranks : 0;
  if (kWgmma)  // the four warps of a unit are neighbours
    me.group = warp / kWarpsAlong % kGroups, me.along = warp % kWarpsAlong;
  else
    me.group = warp % kGroups, me.along = warp / kGroups % kWarpsAlong;
  me.part = GATHER_SPLIT ? warp / (kGroups * kWarpsAlong) : 0;
  me.ring = (address_in_shared(dynamic_shared_memory()) + 1023) & ~1023u;
  me.scratch = me.ring + s.scratch +
               (me.along * kGroups + me.group) * kHalves * kScratchHalf / (p.residual ? 1 : kPasses);
  // Groups past the last unit do its work once more, and store nothing.
  const int block = blockIdx.x / s.blocks_along_k();
  const int unit = (block - s.row_blocks.of(block) * s.row_blocks.by) * kGroups + me.group;
  me.unit = min(unit, s.units - 1);
  me.channel = me.lane < kUnit && unit < s.units ? __ldg(p.rows + unit * kUnit + me.lane) : -1;
  if (me.channel > 0) me.channel *= s.channel;

  if (s.row_blocks.of(block) == 0) prefetch_records(p, s, me);
  if (threadIdx.x == 0) {
    prefetch_map(&high);
    if (kPlanes == 2) prefetch_map(&low);
    for (int i = 0; i < s.slots; ++i) {
      barrier_init(me.full(s, i), 1 + kRecordCopies);
      barrier_init(me.empty(s, i), kGroups * kWarpsAlong);
    }
    fence_barrier_init();
  }
  __syncthreads();
#if GATHER_SPLIT
  let_successor_start();  // it reads its weights meanwhile; small layers leave it room
  if (warp == kWarps) {
    Feeder feeder(p, s, me);
    await_predecessor();
    while (feeder.feed(&high, &low, p, s, me)) continue;
    if (s.ranks > 1) cluster_sync();
  } else {
    Reader reader(p, s, me);
    await_predecessor();
    keep_factors(p, s, me);
    consume(p, s, me, reader, [] {});
  }
  // Nobody leaves while another block may read its sums.
  if (s.ranks > 1) cluster_sync();
#elif GATHER_COPIERS
  if (warp >= kWarps) {
    lower_registers<kOfCopiers>();
    if (warp == kWarps) {
      Feeder feeder(p, s, me);
      await_predecessor();
      while (feeder.feed(&high, &low, p, s, me)) continue;
    }
  } else {
    raise_registers<kOfOthers>();
    Reader reader(p, s, me);
    await_predecessor();
    keep_factors(p, s, me);
    consume(p, s, me, reader, [] {});
  }
#else
  // The first warp copies: a ninth warp would take registers from all others.
  Reader reader(p, s, me);
  Feeder feeder(p, s, me);
  await_predecessor();
  if (warp == 0)
    for (int slot = 1; slot < s.slots; ++slot) feeder.feed(&high, &low, p, s, me);
  keep_factors(p, s, me);
  consume(p, s, me, reader, [&] {
    if (warp == 0) feeder.feed(&high, &low, p, s, me);
  });
#endif
}
