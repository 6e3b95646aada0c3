// What a launch of gather/conv.cu is told, and what its warps are; see there for the -D options.
#pragma once
#include "gather/blocks.cuh"

constexpr int kPlanes = GATHER_PLANES, kN = GATHER_N, kM = GATHER_M;
constexpr int kGroups = GATHER_GROUPS, kWarpsAlong = GATHER_COLUMNS, kParts = GATHER_PARTS;
constexpr int kUnit = 8 * kN;
constexpr Numbers kNumbers = CS_BF16 ? Numbers::bf16 : Numbers::fp16;
constexpr int kHalves = kM / 4;                      // blocks of 64 columns of a warp
constexpr int kBlocks = kWarpsAlong * kHalves;       // of a thread block
constexpr int kWarps = kGroups * kWarpsAlong * kParts;
// Warps that only copy, after the others; without them the first warp does. Registers are dealt anew
// to four warps at a time, so there are four of them where these are scarce, three of which idle.
constexpr int kCopiers = GATHER_COPIERS;
constexpr int kThreads = 32 * (kWarps + kCopiers);
constexpr int kAtLaunch = 65536 / GATHER_BLOCKS / kThreads / 8 * 8, kOfCopiers = 32;
constexpr int kOfOthers =
    kCopiers == 4 ? (kAtLaunch * kThreads - kOfCopiers * 128) / (kWarps * 32) / 8 * 8 : kAtLaunch;
// Where blocks of columns share a window of pixels, a stage holds it once, for 16 channels; else it
// holds boxes of 64 channels for every block.
constexpr bool kWindow = GATHER_WINDOW, kWgmma = GATHER_WGMMA;
constexpr int kCopied = kWindow ? 1 : kBlocks;
constexpr int kBoxBytes = (kWindow ? 16 : 64) * 128;
constexpr int kWeightBytes = kPlanes * kUnit * 16 * 2;
constexpr int kRecord = kWeightBytes + 32;
constexpr int kRecordCopies = GATHER_AHEAD ? 0 : kGroups;  // of a stage
constexpr int kScratchPlane = kUnit * 128, kScratchHalf = kPlanes * kScratchPlane;
// Where no residual waits in the scratch, results may take half of it twice: rings are deeper.
constexpr int kPasses = kWgmma ? 2 : 1;

static_assert(kM % 4 == 0, "a warp takes whole blocks of 64 columns");
static_assert(GATHER_SPLIT || kParts == 1, "parts of K are added up only if K is split");
static_assert(GATHER_AHEAD || (!GATHER_SPLIT && !GATHER_PROMOTE), "records of whole K, one plane");
static_assert(!kWindow || (kBlocks == 4 && !GATHER_SPLIT && GATHER_SWIZZLED), "2 x 2 pixels");
static_assert(!kWindow || kHalves <= 2, "a warp's columns are on one line of the window");
static_assert(!kWgmma || (kN == 4 && kM == 4 && kWarpsAlong == 4 && kPlanes == 1 && !GATHER_AHEAD),
              "four warps share the weights of a unit, which come with the stages");

// What the next layer reads of a line: see unfold.cuh.
struct Unfolding {
  Divisor pitch;  // of a line here
  int width, taps, out_pitch, stride, padding, dilation;
  int plane;   // elements between planes
  int joined;  // are the columns of a block neighbours
};

struct Shape {
  Divisor blocks[3], row_blocks;                 // tiles = row blocks * blocks of columns
  int box_bits[4], step[4], size[4];             // by dimension of columns: see geometry.py
  int out_stride[4];                             // elements between neighbouring output columns
  int channel, plane;                            // elements between channels, planes of the output
  int stages, boxes, total_boxes;                // boxes of a stage, and of the layer
  int slots, ranks;                              // of the ring; blocks along K
  int slot_bytes, unit_bytes;                    // of a stage; of a unit's records in it
  int line;                                      // pixels of a line of the shared window
  int units, tiles;
  int scratch, scratch_step, barriers, factors;  // byte offsets in shared memory
  int relu;
  float residual_scale;
  Unfolding unfolding;

  __device__ __forceinline__ int blocks_along_k() const { return GATHER_SPLIT ? ranks : 1; }
  // The block of columns of a tile, or, where the blocks of a tile are counted as one, all of them.
  __device__ __forceinline__ int block(int tile, int along) const {
    return kWindow ? row_blocks.of(tile) : row_blocks.of(tile) * kBlocks + along;
  }
};

struct Pointers {
  const unsigned char* records;
  const int* starts;  // [units, stages + 1]: first record of each stage
  const int4* boxes;  // offsets by dimension (16 bits each), first channel
  const int* rows;    // output channel of each row of each unit, -1 where it is padding
  const float *scale, *bias, *limit;  // by row of the units; where ReLU6 ends, or null
  const u16* residual;
  u16 *out, *unfolded;
};

// Who a warp is, and what it works on in every tile.
struct Me {
  int group, along, part, lane, rank, unit;
  u32 ring, scratch;  // in shared memory: stages, this warp's results
  int channel;        // where the output channel of row `lane` begins, -1: none

  // Of this warp's unit, for two rows at a time: scales, biases.
  __device__ __forceinline__ u32 factors(const Shape& s) const {
    return ring + s.factors + threadIdx.x / 32 * kUnit * 8;
  }
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
