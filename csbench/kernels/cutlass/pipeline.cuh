// What the kernels on CUTLASS share: the ring of stages in shared memory, and the one thread that has
// the copy engine fill it. Words and macros as in block.cu.
#pragma once

#include <cute/tensor.hpp>

#include "block/output.cuh"
#include "cutlass/copies.cuh"

using namespace cute;

// A tile of PIXELS x ROWS numbers in shared memory.
template <int kPixelStride>
__device__ __forceinline__ auto tile_in_shared(float* at) {
  return make_tensor(make_smem_ptr(at),
                     Layout<Shape<Int<PIXELS>, Int<ROWS>>, Stride<Int<kPixelStride>, _1>>{});
}

template <class Sums, class More>
__device__ __forceinline__ void add(Sums& sums, const More& more) {
  CUTE_UNROLL
  for (int i = 0; i < size(sums); ++i) sums(i) += more(i);
}

#if PRECISION == 0
#include "cutlass/simt.cuh"
#else
#include "cutlass/tensor.cuh"
#endif

constexpr int kThreads = 32 * WARPS;
constexpr int kPixelBytes = PIXELS * DEPTH * int(sizeof(Element));
constexpr int kWeightBytes = ROWS * DEPTH * int(sizeof(Element));
constexpr int kStageBytes = (kPixelBytes + kWeightBytes + 1023) / 1024 * 1024;  // swizzles repeat
constexpr int kHeader = 2048, kMaxStages = 16;
constexpr int kBoxLines = PIXELS < 256 ? PIXELS : 256;  // the most that a box of a matrix has
static_assert(PIXELS % kBoxLines == 0, "whole boxes");
static_assert(DEPTH * sizeof(Element) <= 128, "a pixel's step is at most a row of a swizzle");

using Partial = PartialSums<PIXELS, ROWS, 1, kThreads, Products::kPad, Products::kEarly>;

struct Convolution {
  int positions, rows, slices, stages;
  int kept;  // blocks of every row; 0 where rows differ
  int out_channels, out_height, out_width, stride_h, stride_w, padding_h, padding_w, activation;
  int pointwise;  // every output pixel reads the one input pixel at its place
};

// The first kept block of a row, and how many there are. Where rows are alike, nobody waits for an
// offset to arrive.
struct Kept {
  int first, count;
  __device__ __forceinline__ Kept(const Convolution& conv, const int* row_offsets, int row)
      : first(conv.kept ? row * conv.kept : row_offsets[row]),
        count(conv.kept ? conv.kept : row_offsets[row + 1] - first) {}
};

struct Ring {
  int stages, slot = 0;
  uint32_t phase = 0;
  __device__ __forceinline__ void advance() {
    if (++slot == stages) slot = 0, phase ^= 1;
  }
};

// Shared memory: barriers and the bias, then the stages, which the partial sums use again.
struct Shared {
  unsigned char* base;
  __device__ __forceinline__ Barrier& full(int slot) const {
    return reinterpret_cast<Barrier*>(base)[slot];
  }
  __device__ __forceinline__ Barrier& empty(int slot) const { return full(kMaxStages + slot); }
  __device__ __forceinline__ float* bias() const {
    return reinterpret_cast<float*>(&full(2 * kMaxStages));
  }
  // By one thread, before the others use them.
  __device__ __forceinline__ void init_ring(int stages) const {
    for (int slot = 0; slot < stages; ++slot) {
      barrier_init(full(slot), 1);
      barrier_init(empty(slot), WARPS);
    }
  }
  __device__ __forceinline__ unsigned char* pixels(int slot) const {
    return base + kHeader + slot * kStageBytes;
  }
  __device__ __forceinline__ unsigned char* weights(int slot) const {
    return pixels(slot) + kPixelBytes;
  }
};

// Has the copy engine fetch one step after the other. One thread of a block is the producer.
struct Producer {
  const TensorMap& image;
  const Convolution& conv;
  const Shared& shared;
  const Element* values;  // of step 0 of the row
  const int* blocks;      // of the row
  const int* next;        // the kept block after this one
  int step, end, slice, first_pixel, w, h, n;
  Ring ring;
  int block = 0;  // of the next step: read early, so that its latency is hidden

  __device__ __forceinline__ Producer(const TensorMap& image_, const Element* values_,
                                      const int* blocks_, const Shared& shared_,
                                      const Convolution& conv_, int begin, int end_,
                                      int first_pixel_)
      : image(image_), conv(conv_), shared(shared_), values(values_), blocks(blocks_), end(end_),
        ring{conv_.stages} {
    aim(begin, first_pixel_);
  }

  // What comes next: a step of the row, of the tile that begins at a pixel.
  __device__ __forceinline__ void aim(int begin, int first_pixel_) {
    step = begin, slice = begin % conv.slices, next = blocks + begin / conv.slices;
    first_pixel = first_pixel_;
    const int line = first_pixel / conv.out_width;
    n = line / conv.out_height;
    w = (first_pixel - line * conv.out_width) * conv.stride_w - conv.padding_w;
    h = (line - n * conv.out_height) * conv.stride_h - conv.padding_h;
    if (step < end) block = *next++;
  }

  __device__ __forceinline__ void fetch_weights(int of, int slot) {
    barrier_expect(shared.full(slot), kPixelBytes + kWeightBytes);
    load_bytes(shared.weights(slot), values + size_t(of) * ROWS * DEPTH, kWeightBytes,
               shared.full(slot));
  }

  __device__ __forceinline__ void fetch_pixels() {
    const int channel = (block & 0xffff) + slice * DEPTH;
    unsigned char* to = shared.pixels(ring.slot);
    if (conv.pointwise)
#pragma unroll
      for (int line = 0; line < PIXELS; line += kBoxLines)
        load_lines(to + line * DEPTH * sizeof(Element), image, channel, first_pixel + line,
                   shared.full(ring.slot));
    else
      load_window(to, image, channel, w, h, n, block >> 16 & 0xff, block >> 24,
                  shared.full(ring.slot));
    ++step, ring.advance();
    if (++slice == conv.slices) {
      slice = 0;
      if (step < end) block = *next++;
    }
  }

  // Weights do not depend on the kernel before, so the first are on their way before it ends.
  __device__ __forceinline__ void fill_ring() {
    const int first = min(end - step, ring.stages);
    for (int i = 0; i < first; ++i) fetch_weights(step + i, i);
    await_predecessor();
    for (int i = 0; i < first; ++i) fetch_pixels();
  }

  __device__ __forceinline__ void refill() {
    if (step >= end) return;
    barrier_wait(shared.empty(ring.slot), ring.phase ^ 1);
    fetch_weights(step, ring.slot);
    fetch_pixels();
  }
};
