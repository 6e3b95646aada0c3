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
constexpr int QUADS = PIXELS < 8 ? 8 / PIXELS : 1;  // of columns at once: 32 loads of a lane on their way
constexpr int SUMS = ROWS * PIXELS;

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

// Columns [column, end) of a list, as many as fit; behind the last one the page holds zeros.
__device__ __forceinline__ void copy_page(Page& page, const int* offsets, const float* weights, int column, int end, int lane) {
  const float* from = weights + static_cast<long long>(column) * ROWS;
  const int count = end - column;
#pragma unroll
  for (int i = 4 * lane; i < PAGE; i += 128) copy_async<16>(page.offsets + i, offsets + column + i, i < count);
#pragma unroll
  for (int i = 4 * lane; i < PAGE * ROWS; i += 128) copy_async<16>(page.weights + i, from + i, i < count * ROWS);
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
  for (int column = 0; column < count; column += 4 * QUADS) {
    Word words[QUADS][4][PIXELS];
#pragma unroll
    for (int q = 0; q < QUADS; q++) {
      const int4 quad = *reinterpret_cast<const int4*>(page.offsets + column + 4 * q);
      const int offset[4] = {quad.x, quad.y, quad.z, quad.w};
      const bool exists = column + 4 * q < count;
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int p = 0; p < PIXELS; p++) {
          const bool inside = exists && (!PADDED || taps[p] >> (offset[i] & 31) & 1);
          words[q][i][p] = inside ? x[p][offset[i] >> 5] : no_word();
        }
    }
#pragma unroll
    for (int q = 0; q < QUADS; q++) {
      float weight[4 * ROWS];
#pragma unroll
      for (int i = 0; i < ROWS; i++)
        *reinterpret_cast<float4*>(weight + 4 * i) =
            *reinterpret_cast<const float4*>(page.weights + (column + 4 * q) * ROWS + 4 * i);
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int p = 0; p < PIXELS; p++) {
          const Sum value = unpacked(words[q][i][p]);
#pragma unroll
          for (int r = 0; r < ROWS; r++) add_product(sum[r][p], value, weight[i * ROWS + r]);
        }
    }
  }
}

struct Place {  // of a sum in the output, and what is added to it; -1 for none
  int at;
  float bias;
  Word residual;
};

// Of sum number i = row of the group * PIXELS + pixel of the lane.
__device__ __forceinline__ Place place_of(
    int i, int group, int tile, int lane, const int* rows, const float* bias, const Word* residual, const Layer& l) {
  const Pixel pixel = pixel_at((tile * PIXELS + i % PIXELS) * 32 + lane, l);
  const int row = group < l.groups ? rows[group * ROWS + i / PIXELS] : -1;
  if (row < 0 || pixel.image < 0) return {-1, 0.0f, no_word()};
  const int at = (pixel.image * l.rows + row) * l.out_height * l.out_width + pixel.place;
  return {at, bias[row], residual ? residual[at] : no_word()};
}

__device__ __forceinline__ void store(Sum sum, const Place& place, Word* y, int activation) {
  if (place.at >= 0) y[place.at] = finished(sum, place.bias, place.residual, activation);
}

// lists: where each group's begins, in columns; rows [groups][ROWS]: output channels, -1 for none.
// Block: a warp for each of `splits` parts of each of its groups.
extern "C" __global__ void __launch_bounds__(512) csr_direct(
    const Word* x, const float* __restrict__ weights, const int* __restrict__ offsets,
    const int* __restrict__ lists, const int* __restrict__ rows, const float* __restrict__ bias,
    const Word* residual, Word* y,
    const __grid_constant__ Layer l) {
  unsigned char* shared = dynamic_shared_memory();
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
  copy_page(pages[0], offsets, weights, column, end, lane);
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
    copy_page(pages[page ^ 1], offsets, weights, column + PAGE, end, lane);
    close_copies();
    await_copies<1>();
    __syncwarp();
    multiply(pages[page], min(PAGE, end - column), from, taps, sum);
    __syncwarp();
  }
  let_successor_start();

  // What is added is read before anything is written, all of it at once.
  if (l.splits == 1) {
    Place places[SUMS];
#pragma unroll
    for (int i = 0; i < SUMS; i++) places[i] = place_of(i, group, tile, lane, rows, bias, residual, l);
#pragma unroll
    for (int i = 0; i < SUMS; i++) store(sum[i / PIXELS][i % PIXELS], places[i], y, l.activation);
    return;
  }
  constexpr int MOST = (SUMS + 1) / 2;  // sums of a lane: two parts at least share them
  Place places[MOST];
#pragma unroll
  for (int k = 0; k < MOST; k++) {
    const int i = split + k * l.splits;
    places[k] = place_of(min(i, SUMS - 1), i < SUMS ? group : l.groups, tile, lane, rows, bias, residual, l);
  }
  await_copies<0>();  // zeros behind a list's end may still be on their way to a page
  __syncthreads();  // the pages become sums: [warps][SUMS][32]
  Sum* sums = reinterpret_cast<Sum*>(shared);
#pragma unroll
  for (int i = 0; i < SUMS; i++) sums[(warp * SUMS + i) * 32 + lane] = sum[i / PIXELS][i % PIXELS];
  __syncthreads();
#pragma unroll
  for (int k = 0; k < MOST; k++) {
    const int i = split + k * l.splits;
    if (i >= SUMS) break;
    Sum total = {};
    for (int s = 0; s < l.splits; s++) add(total, sums[((warp - split + s) * SUMS + i) * 32 + lane]);
    store(total, places[k], y, l.activation);
  }
}
