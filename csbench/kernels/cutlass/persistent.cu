// As block.cu in fp32, by thread blocks that stay: a block owns one row and walks tiles, so that the
// copies of its next tile are under way while it multiplies and writes this one. For rows of few
// steps and more tiles than run at once. No clusters.
//
// The ring of stages goes on over tiles. A tile's sums leave by the copy engine, from a place in
// shared memory where the tile's residual has arrived before: read, added to, written back. Once the
// place is read out, the next tile's residual is asked for; it arrives while that tile is multiplied.

#include "cutlass/pipeline.cuh"

static_assert(PRECISION == 0, "products that write to a place in shared memory");
static_assert(ROWS % kPlaceRows == 0, "whole boxes");

constexpr int kPlaceBytes = PIXELS * ROWS * int(sizeof(Element));

// The producer of a block that walks tiles, all of one row.
struct Walk {
  Producer producer;
  int steps, stride;  // of a tile, and pixels from one tile to the next
  int left;           // steps not yet asked for

  __device__ __forceinline__ void fill_ring() {
    const int first = min(left, producer.ring.stages);
    for (int i = 0, of = 0; i < first; ++i, of = of + 1 == steps ? 0 : of + 1)
      producer.fetch_weights(of, i);
    await_predecessor();
    for (int i = 0; i < first; ++i) fetch_pixels();
  }

  __device__ __forceinline__ void refill() {
    if (left == 0) return;
    Ring& ring = producer.ring;
    barrier_wait(producer.shared.empty(ring.slot), ring.phase ^ 1);
    producer.fetch_weights(producer.step, ring.slot);
    fetch_pixels();
  }

  __device__ __forceinline__ void fetch_pixels() {
    producer.fetch_pixels();
    --left;
    if (producer.step == steps) producer.aim(0, producer.first_pixel + stride);
  }
};

// Where a tile's residual arrives and its results leave: boxes of lines x kPlaceRows channels. Only
// the producer calls.
struct Place {
  unsigned char* at;
  Barrier& ready;  // the residual is here; without one, the results before are gone
  const TensorMap &residual, &y;
  int first_channel;
  bool has_residual;

  template <class Act>
  __device__ __forceinline__ void each_box(const Act& act) const {
#pragma unroll
    for (int row = 0; row < ROWS; row += kPlaceRows)
#pragma unroll
      for (int line = 0; line < PIXELS; line += kBoxLines)
        act(at + (row * PIXELS + line * kPlaceRows) * sizeof(Element), first_channel + row, line);
  }

  __device__ __forceinline__ void prepare(int first_pixel) const {
    await_stores_read();
    if (!has_residual) return barrier_arrive(ready);
    barrier_expect(ready, kPlaceBytes);
    each_box([&](void* to, int channel, int line) {
      load_lines(to, residual, channel, first_pixel + line, ready);
    });
  }

  __device__ __forceinline__ void send(int first_pixel) const {
    each_box([&](const void* from, int channel, int line) {
      store_lines(y, channel, first_pixel + line, from);
    });
    commit_stores();
  }
};

// residual, y  tensor maps of [positions][out_channels]; the others as in block.cu
extern "C" __global__ void __launch_bounds__(kThreads, RESIDENT)
    block_convolution(const __grid_constant__ TensorMap image,
                      const __grid_constant__ TensorMap residual,
                      const __grid_constant__ TensorMap y, const Element* __restrict__ values,
                      const int* __restrict__ blocks, const int* __restrict__ row_offsets,
                      const float* __restrict__ bias, const int has_residual,
                      const Convolution conv) {
  const Shared shared{dynamic_shared_memory()};
  const int thread = threadIdx.x;
  const int row = blockIdx.x % conv.rows, start = blockIdx.x / conv.rows * PIXELS;
  const int stride = gridDim.x / conv.rows * PIXELS;
  Barrier& ready = *reinterpret_cast<Barrier*>(shared.bias() + ROWS);

  let_successor_start();
  if (thread == 0) {
    prefetch_map(image), prefetch_map(y);
    if (has_residual) prefetch_map(residual);
    shared.init_ring(conv.stages);
    barrier_init(ready, 1);
    fence_barrier_init();
  }
  for (int i = thread; i < ROWS; i += kThreads) shared.bias()[i] = bias[row * ROWS + i];
  __syncthreads();

  const Kept kept(conv, row_offsets, row);
  const int steps = __shfl_sync(~0u, kept.count * conv.slices, 0);
  const int tiles = (conv.positions - start + stride - 1) / stride;
  Walk walk{Producer(image, values + size_t(kept.first) * conv.slices * ROWS * DEPTH,
                     blocks + kept.first, shared, conv, 0, steps, start),
            steps, stride, tiles * steps};
  const Place place{shared.pixels(conv.stages), ready, residual, y, row * ROWS, has_residual != 0};
  const Output output{nullptr, nullptr, conv.positions, conv.out_channels, conv.activation};
  Products products(thread);
  if (thread == 0) {
    walk.fill_ring();
    place.prepare(start);
  }

  Ring ring{conv.stages};
  uint32_t phase = 0;  // of the place
  for (int first_pixel = start; first_pixel < conv.positions; first_pixel += stride, phase ^= 1) {
    const auto next_copies = [&](int step) {
      if (thread != 0) return;
      if (step > 0)
        walk.refill();
      else if (first_pixel != start)
        place.prepare(first_pixel);
    };
    products.start(shared.bias());
    if (steps == 0) next_copies(0);
    for (int step = 0; step < steps; ++step, ring.advance()) {
      barrier_wait(shared.full(ring.slot), ring.phase);
      products.multiply(shared.pixels(ring.slot), shared.weights(ring.slot),
                        [&] { next_copies(step); });
      __syncwarp();  // all lanes have read it
      if (thread % 32 == 0) barrier_arrive(shared.empty(ring.slot));
    }
    barrier_wait(ready, phase);
    products.leave(place.at, has_residual, output);
    fence_for_copy_engine();
    __syncthreads();  // all of the tile is written, and all stages are read
    if (thread == 0) {
      place.send(first_pixel);
      walk.refill();
    }
  }
  if (thread == 0) await_stores();
}
