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

#include "cutlass/pipeline.cuh"

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
    shared.init_ring(conv.stages);
    fence_barrier_init();
  }
  for (int i = thread; i < ROWS; i += kThreads)
    shared.bias()[i] = rank == 0 ? bias[row * ROWS + i] : 0.0f;  // only one peer adds it
  __syncthreads();

  const Kept kept(conv, row_offsets, row);
  const uint32_t all = kept.count * conv.slices;
  const int begin = __shfl_sync(~0u, all * rank / peers, 0);
  const int end = __shfl_sync(~0u, all * (rank + 1) / peers, 0);
  Producer producer(image, values + size_t(kept.first) * conv.slices * ROWS * DEPTH,
                    blocks + kept.first, shared, conv, begin, end, first_pixel);
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
