// Block-sparse convolution on CUTLASS (Hopper): y = activation(kept blocks * x + bias [+ residual]).
//
//   row    ROWS output channels that keep the same blocks of ROWS x DEPTH*slices weights, each at
//          one kernel tap
//   tile   PIXELS output positions, flat over (image, height, width)
//   step   DEPTH channels of one kept block: weights [ROWS x DEPTH], activations [PIXELS x DEPTH]
//
// The copy engine fills a ring of stages: its im2col mode gathers the pixels of a tap (padding,
// stride and dilation included) from channels-last activations, so nothing is arranged in memory.
// WARPS warps multiply, by the products of simt.cuh or tensor.cuh. The thread blocks of a cluster
// split a row's steps and add up at the end.
//
// RESIDENT thread blocks share a multiprocessor.
// PRECISION 0: fp32 on CUDA cores. 1, 2, 3: tf32, fp16, bf16 on tensor cores, fp32 sums.

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
  const Element* values;  // of step 0 of the row
  const int* next;        // the kept block after this one
  const Shared& shared;
  int slices, slice, step, end, pointwise, first_pixel, w, h, n;
  Ring ring;
  int block = 0;  // of the next step: read early, so that its latency is hidden

  __device__ __forceinline__ Producer(const TensorMap& image_, const Element* values_,
                                      const int* blocks, const Shared& shared_,
                                      const Convolution& conv, int begin, int end_,
                                      int first_pixel_)
      : image(image_), values(values_), next(blocks + begin / conv.slices), shared(shared_),
        slices(conv.slices), slice(begin % conv.slices), step(begin), end(end_),
        pointwise(conv.pointwise), first_pixel(first_pixel_), ring{conv.stages} {
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
    if (pointwise)
#pragma unroll
      for (int line = 0; line < PIXELS; line += kBoxLines)
        load_lines(to + line * DEPTH * sizeof(Element), image, channel, first_pixel + line,
                   shared.full(ring.slot));
    else
      load_window(to, image, channel, w, h, n, block >> 16 & 0xff, block >> 24,
                  shared.full(ring.slot));
    ++step, ring.advance();
    if (++slice == slices) {
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

// values       [blocks][slices] steps of weights as the products read them
// blocks       per kept block its first channel | its tap's offset across << 16 | and down << 24
// row_offsets  [rows + 1] into blocks
// bias         [rows][ROWS]
extern "C" __global__ void __launch_bounds__(kThreads, RESIDENT)
    block_convolution(const __grid_constant__ TensorMap image,
                      const Element* __restrict__ values, const int* __restrict__ blocks,
                      const int* __restrict__ row_offsets, const float* __restrict__ bias,
                      const Element* residual, Element* y, const Convolution conv) {
  const Shared shared{dynamic_shared_memory()};
  const int thread = threadIdx.x, rank = cluster_rank(), peers = cluster_size();
  const int place = blockIdx.x / peers;
  const int row = place % conv.rows, first_pixel = place / conv.rows * PIXELS;

  let_successor_start();
  if (thread == 0) {
    prefetch_map(image);
    for (int slot = 0; slot < conv.stages; ++slot) {
      barrier_init(shared.full(slot), 1);
      barrier_init(shared.empty(slot), WARPS);
    }
    fence_barrier_init();
  }
  for (int i = thread; i < ROWS; i += kThreads)
    shared.bias()[i] = rank == 0 ? bias[row * ROWS + i] : 0.0f;  // only one peer adds it
  __syncthreads();

  // Where rows are alike, no block waits for an offset to arrive.
  const int first = conv.kept ? row * conv.kept : row_offsets[row];
  const uint32_t all = (conv.kept ? conv.kept : row_offsets[row + 1] - first) * conv.slices;
  const int begin = __shfl_sync(~0u, all * rank / peers, 0);
  const int end = __shfl_sync(~0u, all * (rank + 1) / peers, 0);
  Producer producer(image, values + size_t(first) * conv.slices * ROWS * DEPTH, blocks + first,
                    shared, conv, begin, end, first_pixel);
  const Output output{residual, y, conv.positions, conv.out_channels, conv.activation};
  Partial partial(output, shared.base + kHeader, thread, first_pixel, row * ROWS);
  Products products(thread);
  if (thread == 0) producer.fill_ring();
  await_predecessor();
  if (Products::kEarly)
    partial.fetch_early();
  else
    output.prefetch<PIXELS, ROWS, kThreads>(first_pixel, row * ROWS, thread);

  const auto release = [&](int slot) {
    __syncwarp();  // all lanes have read it
    if (thread % 32 == 0) barrier_arrive(shared.empty(slot));
  };
  Ring ring{conv.stages};
  for (int step = begin, previous = 0; step < end; ++step, ring.advance()) {
    barrier_wait(shared.full(ring.slot), ring.phase);
    products.multiply(shared.pixels(ring.slot), shared.weights(ring.slot), [&] {
      if (step == begin) return;
      if (Products::kAsynchronous) release(previous);
      if (thread == 0) producer.refill();
    });
    if (!Products::kAsynchronous) release(ring.slot);
    previous = ring.slot;
  }
  products.finish(shared.bias());

#if PRECISION == 0
  if (peers == 1) {
    products.write(output, first_pixel, row * ROWS);
    return;
  }
#endif
  __syncthreads();  // all stages are read, and become the place of the sums
  products.store(partial.part(0));
  partial.write();
}
