// Convolution with weights kept anywhere, for many pixels: activations staged in shared memory.
//
// A column is an input channel at a tap. ROWS output channels form a group, which holds the columns
// that any of them keeps: an offset into the staged activations and ROWS weights (some of them zero).
// Shared memory returns 32 words a clock for 128 multiply-adds, so a word that is loaded once for up
// to four rows costs no more with the zeros than without them.
//
// The output is laid out flat with the padding between its lines and images (space.py), so that
// every tap of 32 neighbouring positions is 32 neighbouring words. A block has a tile of 32 PIXELS
// positions and SLOTS groups; a warp multiplies GROUPS of them for the whole tile. Input channels go
// by in chunks, two of them in shared memory: one is multiplied while the next is copied.
//
// ROWS GROUPS PIXELS WARPS  as above; PIXELS is positions of a lane
// COPY  words that are copied at once: 4 where lines have no padding and images a multiple of 4
// KIND  word.cuh
#include "csr/word.cuh"

constexpr int THREADS = 32 * WARPS, TILE = 32 * PIXELS, SLOTS = WARPS * GROUPS;
constexpr int STARTS = SLOTS + 4;      // of the lists of one run, rounded up to 16 bytes
constexpr int BLOCKS = WARPS < 16 ? 16 / WARPS : 1;  // on a multiprocessor

struct Layer {  // mirrored in staged.py
  int images, channels, height, width, rows, out_height, out_width;
  int stride_y, stride_x, pad_y, pad_x, activation;
  int lines, pitch;            // of an image in the flat space, and positions of a line
  int phases, phases_x;        // staged copies of a channel, one for each remainder by the strides
  int phase_y[4], phase_x[4];
  int span, chunk;             // positions of a phase that are staged; channels of a chunk
  int row_blocks, longest;     // columns of the longest run
};

struct Stage {  // one chunk in shared memory
  Word* x;          // [chunk][phases][span]
  float* weights;   // [columns][ROWS]
  int* offsets;     // [columns], in bytes from x
  int* starts;      // [STARTS], in pairs of columns
};

__device__ __forceinline__ Stage stage_at(char* at, const Layer& l) {
  Stage s;
  s.x = reinterpret_cast<Word*>(at);
  s.weights = reinterpret_cast<float*>(s.x + l.chunk * l.phases * l.span);
  s.offsets = reinterpret_cast<int*>(s.weights + l.longest * ROWS);
  s.starts = s.offsets + l.longest;
  return s;
}

// Where a staged position of channel 0 comes from, in words; -1 in the padding.
__device__ __forceinline__ int source_of(int position, int first, const Layer& l) {
  const int phase = position / l.span, flat = first + position % l.span;
  const int image = flat / (l.lines * l.pitch), rest = flat % (l.lines * l.pitch);
  const int row = rest / l.pitch * l.stride_y + l.phase_y[phase / l.phases_x] - l.pad_y;
  const int column = rest % l.pitch * l.stride_x + l.phase_x[phase % l.phases_x] - l.pad_x;
  const bool inside = image < l.images && row >= 0 && row < l.height && column >= 0 && column < l.width;
  return inside ? (image * l.channels * l.height + row) * l.width + column : -1;
}

// Channels [first, first + count) of the tile.
__device__ __forceinline__ void copy_activations(
    const Stage& s, const Word* x, const int* sources, int pieces, int first, int count, const Layer& l) {
  const int channel_words = l.height * l.width;
  const Word* from = x + static_cast<long long>(first) * channel_words;
  int channel = 0, piece = threadIdx.x;
  while (true) {
    for (; piece >= pieces; piece -= pieces) ++channel;
    if (channel >= count) break;
    const int source = sources[piece];
    copy_async<4 * COPY>(s.x + (channel * pieces + piece) * COPY,
                         from + channel * channel_words + max(source, 0), source >= 0);
    piece += THREADS;
  }
}

// A run: the lists of all groups of the block in one chunk.
__device__ __forceinline__ void copy_run(
    const Stage& s, const float* weights, const int* offsets, const int* starts, int begin, int end) {
  const float4* w = reinterpret_cast<const float4*>(weights + static_cast<long long>(begin) * ROWS);
  const int4* o = reinterpret_cast<const int4*>(offsets + begin);
  const int4* t = reinterpret_cast<const int4*>(starts);
  const int quads = (end - begin) / 4;
  for (int i = threadIdx.x; i < quads * ROWS; i += THREADS) copy_async<16>(reinterpret_cast<float4*>(s.weights) + i, w + i);
  for (int i = threadIdx.x; i < quads; i += THREADS) copy_async<16>(reinterpret_cast<int4*>(s.offsets) + i, o + i);
  for (int i = threadIdx.x; i < STARTS / 4; i += THREADS) copy_async<16>(reinterpret_cast<int4*>(s.starts) + i, t + i);
}

struct Pair {  // of columns
  int2 offset;
  float weight[2 * ROWS];
};

__device__ __forceinline__ Pair pair_at(const Stage& s, int pair) {
  Pair p;
  p.offset = reinterpret_cast<const int2*>(s.offsets)[pair];
  if constexpr (ROWS == 1) {
    const float2 w = reinterpret_cast<const float2*>(s.weights)[pair];
    p.weight[0] = w.x;
    p.weight[1] = w.y;
  } else {
#pragma unroll
    for (int i = 0; i < ROWS / 2; i++) {
      const float4 w = reinterpret_cast<const float4*>(s.weights)[pair * (ROWS / 2) + i];
      p.weight[4 * i] = w.x;
      p.weight[4 * i + 1] = w.y;
      p.weight[4 * i + 2] = w.z;
      p.weight[4 * i + 3] = w.w;
    }
  }
  return p;
}

// One list times the lane's positions; the next pair is on its way while one is multiplied.
__device__ __forceinline__ void multiply(const Stage& s, int begin, int end, int lane, Sum (&sum)[ROWS][PIXELS]) {
  const char* x = reinterpret_cast<const char*>(s.x + lane);
  Pair next = pair_at(s, begin);
  for (int pair = begin; pair < end; pair++) {
    const Pair now = next;
    next = pair_at(s, pair + 1);  // past the last one it is not used
    Word first[PIXELS], second[PIXELS];
#pragma unroll
    for (int p = 0; p < PIXELS; p++) first[p] = reinterpret_cast<const Word*>(x + now.offset.x)[32 * p];
#pragma unroll
    for (int p = 0; p < PIXELS; p++) second[p] = reinterpret_cast<const Word*>(x + now.offset.y)[32 * p];
#pragma unroll
    for (int p = 0; p < PIXELS; p++) {
      const Sum a = unpacked(first[p]);
#pragma unroll
      for (int r = 0; r < ROWS; r++) add_product(sum[r][p], a, now.weight[r]);
    }
#pragma unroll
    for (int p = 0; p < PIXELS; p++) {
      const Sum b = unpacked(second[p]);
#pragma unroll
      for (int r = 0; r < ROWS; r++) add_product(sum[r][p], b, now.weight[ROWS + r]);
    }
  }
}

// Bias, residual, activation; positions in the padding are not stored.
__device__ __forceinline__ void store(
    Sum (&sum)[GROUPS][ROWS][PIXELS], const int* slots, int tile, int lane, const float* bias,
    const Word* residual, Word* y, const Layer& l) {
  const int pixels = l.out_height * l.out_width;
  int where[PIXELS];
#pragma unroll
  for (int p = 0; p < PIXELS; p++) {
    const int flat = tile * TILE + 32 * p + lane;
    const int image = flat / (l.lines * l.pitch), rest = flat % (l.lines * l.pitch);
    const int row = rest / l.pitch, column = rest % l.pitch;
    const bool inside = image < l.images && row < l.out_height && column < l.out_width;
    where[p] = inside ? image * l.rows * pixels + row * l.out_width + column : -1;
  }
  // What is added to the next rows is on its way while one row is stored.
  constexpr int ALL = GROUPS * ROWS, ENOUGH = PIXELS < 24 ? 24 / PIXELS : 1;
  constexpr int AHEAD = ALL < ENOUGH ? ALL : ENOUGH;
  Word added[AHEAD][PIXELS];
#pragma unroll
  for (int i = 0; i < ALL + AHEAD; i++) {
    const int done = i - AHEAD;
    if (done >= 0 && slots[done] >= 0) {
      const int row = slots[done];
#pragma unroll
      for (int p = 0; p < PIXELS; p++)
        if (where[p] >= 0)
          y[where[p] + row * pixels] =
              finished(sum[done / ROWS][done % ROWS][p], bias[row], added[i % AHEAD][p], l.activation);
    }
    if (i < ALL) {
#pragma unroll
      for (int p = 0; p < PIXELS; p++)
        added[i % AHEAD][p] =
            residual && where[p] >= 0 && slots[i] >= 0 ? residual[where[p] + slots[i] * pixels] : no_word();
    }
  }
}

// runs: where each run begins, in columns; starts [runs][STARTS]; slots: output channels, -1 for none.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) csr_staged(
    const Word* x, const float* __restrict__ weights, const int* __restrict__ offsets,
    const int* __restrict__ starts, const int* __restrict__ runs, const int* __restrict__ slots,
    const float* __restrict__ bias, const Word* residual, Word* y,
    const __grid_constant__ Layer l) {
  unsigned char* shared = dynamic_shared_memory();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int row_block = blockIdx.x % l.row_blocks, tile = blockIdx.x / l.row_blocks;
  const int chunks = (l.channels + l.chunk - 1) / l.chunk, first_run = row_block * chunks;
  const int pieces = l.phases * l.span / COPY;
  int* sources = reinterpret_cast<int*>(shared);
  char* stages = reinterpret_cast<char*>(sources + (pieces + 3) / 4 * 4);
  const int stage_bytes = 4 * (l.chunk * l.phases * l.span + l.longest * (ROWS + 1) + STARTS);

  copy_run(stage_at(stages, l), weights, offsets, starts + first_run * STARTS, runs[first_run], runs[first_run + 1]);
  for (int i = threadIdx.x; i < pieces; i += THREADS) sources[i] = source_of(i * COPY, tile * TILE, l);
  int begin = runs[first_run + 1], end = chunks > 1 ? runs[first_run + 2] : begin;
  __syncthreads();
  await_predecessor();
  copy_activations(stage_at(stages, l), x, sources, pieces, 0, min(l.chunk, l.channels), l);
  close_copies();

  Sum sum[GROUPS][ROWS][PIXELS] = {};
  for (int chunk = 0; chunk < chunks; chunk++) {
    await_copies<0>();
    __syncthreads();
    if (chunk + 1 < chunks) {
      const Stage next = stage_at(stages + (chunk + 1) % 2 * stage_bytes, l);
      const int channel = (chunk + 1) * l.chunk;
      copy_run(next, weights, offsets, starts + (first_run + chunk + 1) * STARTS, begin, end);
      copy_activations(next, x, sources, pieces, channel, min(l.chunk, l.channels - channel), l);
      close_copies();
      begin = end;  // of the run after it, so that nobody waits for it then
      if (chunk + 2 < chunks) end = runs[first_run + chunk + 3];
    }
    const Stage now = stage_at(stages + chunk % 2 * stage_bytes, l);
    const int* lists = now.starts + warp * GROUPS;
#pragma unroll
    for (int g = 0; g < GROUPS; g++) multiply(now, lists[g], lists[g + 1], lane, sum[g]);
  }
  let_successor_start();
  store(sum, slots + (row_block * SLOTS + warp * GROUPS) * ROWS, tile, lane, bias, residual, y, l);
}
