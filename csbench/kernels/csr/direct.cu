// Convolution with weights kept anywhere, for few pixels: activations read where they stand.
//
// Columns and groups as in staged.cu. A warp multiplies one group, or one part of its list, for 32
// PIXELS pixels; there is no chunk to wait for, and words that nobody needs are not read. The parts
// of a list (`splits` of them) add up through shared memory in a fixed order. A warp's entries come
// through two pages of shared memory of its own, the first of them before the predecessor has ended.
//
// ROWS PIXELS  as in staged.cu
// PADDED  whether a tap may lie outside the image
// KIND  word.cuh
#include "csr/word.cuh"

constexpr int PAGE = 64;  // columns

struct Layer {  // mirrored in direct.py
  int images, channels, height, width, rows, out_height, out_width;
  int stride_y, stride_x, pad_y, pad_x, activation;
  int kernel_y, kernel_x, dilation_y, dilation_x;
  int groups, splits;
};

struct Page {
  int offsets[PAGE];  // words from a pixel's first tap, times 32, plus the tap
  float weights[PAGE * ROWS];
};

__device__ __forceinline__ void copy_page(Page& page, const int* offsets, const float* weights, int column, int count, int lane) {
  const int quads = count / 4;
  for (int i = lane; i < quads; i += 32) copy_async<16>(page.offsets + 4 * i, offsets + column + 4 * i);
  const float* from = weights + static_cast<long long>(column) * ROWS;
  for (int i = lane; i < quads * ROWS; i += 32) copy_async<16>(page.weights + 4 * i, from + 4 * i);
}

struct Pixel {
  int image, place;  // -1: beyond the last one; place in the output image
};

__device__ __forceinline__ Pixel pixel_at(int index, const Layer& l) {
  const int pixels = l.out_height * l.out_width, image = index / pixels;
  return image < l.images ? Pixel{image, index - image * pixels} : Pixel{-1, 0};
}

// Bit t: tap t lies inside the image.
__device__ __forceinline__ unsigned taps_inside(int row, int column, const Layer& l) {
  unsigned taps = 0;
  for (int r = 0, tap = 0; r < l.kernel_y; r++)
    for (int c = 0; c < l.kernel_x; c++, tap++) {
      const int h = row + r * l.dilation_y, w = column + c * l.dilation_x;
      if (h >= 0 && h < l.height && w >= 0 && w < l.width) taps |= 1u << tap;
    }
  return taps;
}

__device__ __forceinline__ void multiply(
    const Page& page, int count, const Word* const (&x)[PIXELS], const unsigned (&taps)[PIXELS], Sum (&sum)[ROWS][PIXELS]) {
  for (int column = 0; column < count; column += 4) {
    const int4 quad = *reinterpret_cast<const int4*>(page.offsets + column);
    const int offset[4] = {quad.x, quad.y, quad.z, quad.w};
    Word words[4][PIXELS];
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int p = 0; p < PIXELS; p++)
        words[i][p] = !PADDED || (taps[p] >> (offset[i] & 31) & 1) ? x[p][offset[i] >> 5] : no_word();
    float weight[4 * ROWS];
#pragma unroll
    for (int i = 0; i < ROWS; i++)
      *reinterpret_cast<float4*>(weight + 4 * i) = *reinterpret_cast<const float4*>(page.weights + column * ROWS + 4 * i);
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int p = 0; p < PIXELS; p++) {
        const Sum value = unpacked(words[i][p]);
#pragma unroll
        for (int r = 0; r < ROWS; r++) add_product(sum[r][p], value, weight[i * ROWS + r]);
      }
  }
}

__device__ __forceinline__ void store(
    Sum sum, int row, Pixel pixel, const float* bias, const Word* residual, Word* y, const Layer& l) {
  if (row < 0 || pixel.image < 0) return;
  const int at = (pixel.image * l.rows + row) * l.out_height * l.out_width + pixel.place;
  y[at] = finished(sum, bias[row], residual ? residual[at] : no_word(), l.activation);
}

// lists: where each group's begins, in columns; rows [groups][ROWS]: output channels, -1 for none.
// Block: a warp for each of `splits` parts of each of its groups.
extern "C" __global__ void __launch_bounds__(512) csr_direct(
    const Word* x, const float* __restrict__ weights, const int* __restrict__ offsets,
    const int* __restrict__ lists, const int* __restrict__ rows, const float* __restrict__ bias,
    const Word* residual, Word* y,
    const __grid_constant__ Layer l) {
  extern __shared__ int4 shared[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int teams = blockDim.x / 32 / l.splits, team = warp / l.splits, split = warp % l.splits;
  const int group_blocks = (l.groups + teams - 1) / teams;
  const int group = blockIdx.x % group_blocks * teams + team, tile = blockIdx.x / group_blocks;
  Page* pages = reinterpret_cast<Page*>(shared) + 2 * warp;

  int column = 0, end = 0;
  if (group < l.groups) {
    const int begin = lists[group], quads = (lists[group + 1] - begin) / 4;
    column = begin + quads * split / l.splits * 4;
    end = begin + quads * (split + 1) / l.splits * 4;
  }
  copy_page(pages[0], offsets, weights, column, min(PAGE, end - column), lane);
  close_copies();

  const Word* from[PIXELS];
  unsigned taps[PIXELS];
#pragma unroll
  for (int p = 0; p < PIXELS; p++) {
    const Pixel pixel = pixel_at((tile * PIXELS + p) * 32 + lane, l);
    const int row = pixel.place / l.out_width * l.stride_y - l.pad_y;
    const int place = pixel.place % l.out_width * l.stride_x - l.pad_x;
    const int image = max(pixel.image, 0);
    from[p] = x + (static_cast<long long>(image) * l.channels * l.height + row) * l.width + place;
    taps[p] = PADDED && pixel.image >= 0 ? taps_inside(row, place, l) : 0;
  }
  await_predecessor();

  Sum sum[ROWS][PIXELS] = {};
  for (int page = 0; column < end; page ^= 1, column += PAGE) {
    const int after = column + PAGE;
    copy_page(pages[page ^ 1], offsets, weights, after, min(PAGE, max(end - after, 0)), lane);
    close_copies();
    await_copies<1>();
    __syncwarp();
    multiply(pages[page], min(PAGE, end - column), from, taps, sum);
    __syncwarp();
  }
  let_successor_start();

  const int* team_rows = rows + group * ROWS;
  if (l.splits == 1) {
    if (group < l.groups)
#pragma unroll
      for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int p = 0; p < PIXELS; p++)
          store(sum[r][p], team_rows[r], pixel_at((tile * PIXELS + p) * 32 + lane, l), bias, residual, y, l);
    return;
  }
  __syncthreads();  // the pages become sums: [warps][ROWS][PIXELS][32]
  Sum* sums = reinterpret_cast<Sum*>(shared);
#pragma unroll
  for (int r = 0; r < ROWS; r++)
#pragma unroll
    for (int p = 0; p < PIXELS; p++) sums[((warp * ROWS + r) * PIXELS + p) * 32 + lane] = sum[r][p];
  __syncthreads();
  if (group >= l.groups) return;
  for (int i = split; i < ROWS * PIXELS; i += l.splits) {
    Sum total = {};
    for (int s = 0; s < l.splits; s++) add(total, sums[((warp - split + s) * ROWS * PIXELS + i) * 32 + lane]);
    store(total, team_rows[i / PIXELS], pixel_at((tile * PIXELS + i % PIXELS) * 32 + lane, l), bias, residual, y, l);
  }
}
