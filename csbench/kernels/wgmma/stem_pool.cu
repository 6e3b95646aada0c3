// ResNet's beginning in one kernel: a first convolution with stride 2 and 2 to 4 input channels
// (dense, on wgmma), its activation, and max pooling 3x3 with stride 2 and padding 1; from torch's
// layout into the activation format of wgmma/conv.cu.
//
// No im2col is made, not even in shared memory. A staged line holds 4 channels a column, so that
// two columns are the 16 bytes of one row of a core matrix and the next output pixel, two columns
// on, is the next row: the lines themselves are wgmma's unswizzled K-major operand, read with
// overlap. Even and odd lines lie apart, which makes the lines of consecutive output rows
// neighbours too. A line of 32 such slots gives 29 columns; the rest is computed and dropped.
//
// A strip is 14 pooled columns of an image, and is walked down in chunks of 8 rows of the
// convolution (4 pooled rows). One warpgroup stages the image for two others; each of those has a
// strip of its own, so that one multiplies while the other pools. Pooling stays in registers: a
// thread holds two neighbouring columns of every row, takes the third from its neighbour, and
// carries the last row's maxima to the next chunk.
//
// Set by -D: CS_BF16 CS_PLANES CS_PLAIN, STEM_CHANNELS STEM_H STEM_W STEM_PAD
#include "wgmma/common.cuh"
#include "wgmma/finish.cuh"
#include "wgmma/plain.cuh"

constexpr int kPlanes = CS_PLANES;
#if CS_PLAIN == 0
using plain_t = float;
#else
using plain_t = u16;
#endif
constexpr int kSlots = 32;                         // of 16 bytes in a line
constexpr int kTapSlots = (STEM_W + 3) / 4 * 2;    // slots under the kernel, a multiple of 2
constexpr int kColumns = (kSlots - kTapSlots) / 2; // pooled columns of a strip
constexpr int kRows = 8;                           // of the convolution in one step
constexpr int kLines = 2 * (kRows - 1) + STEM_H;
constexpr int kEvenLines = (kLines + 1) / 2;
constexpr int kLineBytes = kSlots * 16;
constexpr int kImageBytes = kLines * kLineBytes + 128;  // of one plane; the overlap reads beyond
constexpr int kSteps = STEM_H * kTapSlots / 2;          // of 16 in K
constexpr int kWeightBytes = kSteps * 2048;             // of one plane
constexpr int kResultBytes = kRows / 2 * 16 * 128;      // of one plane: 4 rows x 16 columns pooled
constexpr int kItems = (kLines * kSlots * 2 + 127) / 128;      // columns a thread stages

struct StemShape {
  long long n, c, h, w;                               // strides of the image in elements
  int images, height, width, out_height, out_width;   // of the convolution
  int final_height, final_width;                      // after pooling
  int strips, chunks, blocks, relu;                   // strips a row; chunks (of 8 rows) of an item
  int items;                                          // images * strips * segments
};

struct Item {  // a strip of an image and a run of chunks; `from` may only warm the carried row up
  int image, strip, from, first, last;
};

__device__ __forceinline__ Item item_of(int index, const StemShape& s) {
  const int total = (s.out_height + kRows - 1) / kRows;
  const int segments = (total + s.chunks - 1) / s.chunks;
  Item item;
  item.first = index % segments * s.chunks;
  item.last = min(item.first + s.chunks, total);
  item.from = max(item.first - 1, 0);
  item.strip = index / segments % s.strips;
  item.image = index / segments / s.strips;
  return item;
}

// One chunk's lines as 16-bit numbers, 4 channels a column, zero outside the image.
__device__ __forceinline__ void stage(const void* x, float gain, u32 to, const Item& item,
                                      int chunk, const StemShape& s) {
  const int y0 = chunk * kRows * 2 - STEM_PAD;
  const int x0 = (item.strip * kColumns * 2 - 1) * 2 - STEM_PAD;
  const int thread = threadIdx.x % 128, column = thread % 64, xx = x0 + column;
  // Addresses grow line by line, and zeros stand where nothing is read: a product of 64 bits and a
  // predicate for each number left room for a third of the reads on their way.
  const plain_t* from[STEM_CHANNELS];
#pragma unroll
  for (int c = 0; c < STEM_CHANNELS; ++c)
    from[c] = static_cast<const plain_t*>(x) + item.image * s.n + c * s.c +
              (y0 + thread / 64) * s.h + xx * s.w;
  const bool across = xx >= 0 && xx < s.width;
  plain_t v[kItems][STEM_CHANNELS] = {};
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const int line = 2 * i + thread / 64, y = y0 + line;
    const bool inside = across && line < kLines && y >= 0 && y < s.height;
#pragma unroll
    for (int c = 0; c < STEM_CHANNELS; ++c) {
      if (inside) v[i][c] = *from[c];
      from[c] += 2 * s.h;
    }
  }
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const int line = 2 * i + thread / 64;
    if (line >= kLines) continue;
    float full[4] = {0.f, 0.f, 0.f, 0.f};
#pragma unroll
    for (int c = 0; c < STEM_CHANNELS; ++c) full[c] = gain * read_plain(&v[i][c], 0);
    const u32 a = pack2(full[0], full[1]), b = pack2(full[2], full[3]);
    const u32 at = to + ((line % 2 ? kEvenLines : 0) + line / 2) * kLineBytes + column * 8;
    store_pair(at, a, b);
    if (kPlanes == 2) {
      float h0, h1, h2, h3;
      unpack2(a, h0, h1);
      unpack2(b, h2, h3);
      store_pair(at + kImageBytes, pack2(full[0] - h0, full[1] - h1),
                 pack2(full[2] - h2, full[3] - h3));
    }
  }
}

// 64 channels x 8 rows of 32 pixels for one warpgroup.
__device__ __forceinline__ void multiply(float (&acc)[128], u32 image, u32 weights) {
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
    const int r = 2 * k / kTapSlots, slot = 2 * k % kTapSlots;
    const int line = (r % 2 ? kEvenLines : 0) + r / 2;
#pragma unroll
    for (int product = 0; product < 2 * kPlanes - 1; ++product) {
      const int w_plane = product == 1, x_plane = product == 2;
      const u64 a = plain_operand(weights + w_plane * kWeightBytes + k * 2048, 1024, 128);
      const u64 b =
          plain_operand(image + x_plane * kImageBytes + line * kLineBytes + slot * 16, 16, 128);
      wgmma_dense(acc, a, b, k || product);
    }
  }
  wgmma_commit();
  wgmma_wait<0>();
}

__device__ __forceinline__ float max_or_nan(float a, float b) {
  float r;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}

constexpr float kLowest = -3.402823466e38f;

// Maxima over three columns of row `y` of the chunk: column 4 * j + lane % 4 of channel `half`.
__device__ __forceinline__ void row_max(const float (&acc)[128], int y, int half, const Rows& rows,
                                        u32 valid, int act, float (&best)[4]) {
  const int t = threadIdx.x % 4;
  float a[5], b[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    a[j] = acc[4 * (4 * y + j) + 2 * half] * rows.scale[half] + rows.bias[half];
    b[j] = acc[4 * (4 * y + j) + 2 * half + 1] * rows.scale[half] + rows.bias[half];
    if (act) a[j] = relu(a[j]), b[j] = relu(b[j]);
    if (!(valid >> (2 * j) & 1)) a[j] = kLowest;
    if (!(valid >> (2 * j + 1) & 1)) b[j] = kLowest;
  }
  a[4] = kLowest;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    // The column to the right is the next thread's first, for the last thread the first one's next.
    const float next = __shfl_sync(0xffffffffu, t == 0 ? a[j + 1] : a[j], (t + 1) % 4, 4);
    best[j] = max_or_nan(max_or_nan(a[j], b[j]), next);
  }
}

// 8 rows of the convolution to 4 pooled rows in `result`; `carry` is the row above, then the last.
__device__ __forceinline__ void pool(const float (&acc)[128], u32 result, const Rows& rows,
                                     const Item& item, int chunk, float (&carry)[2][4],
                                     const StemShape& s) {
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const int x = item.strip * kColumns * 2 - 1 + lane % 4 * 2;
  u32 valid = 0;  // two bits a block of 8 columns
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int column = x + i / 2 * 8 + i % 2;
    valid |= u32(column >= 0 && column < s.out_width) << i;
  }
  const int matrix = lane / 8, column = matrix / 2 * 8 + lane % 2 * 4 + lane % 8 / 2;
  const u32 at = result + column * 128 + (((warp * 2 + matrix % 2) ^ (column & 7)) << 4);
#pragma unroll
  for (int k = 0; k < kRows / 2; ++k) {
    const int row = chunk * kRows + 2 * k;
    u32 high[4], low[4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float first[4], second[4];
      row_max(acc, 2 * k, half, rows, row < s.out_height ? valid : 0, s.relu, first);
      row_max(acc, 2 * k + 1, half, rows, row + 1 < s.out_height ? valid : 0, s.relu, second);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        first[j] = max_or_nan(max_or_nan(carry[half][j], first[j]), second[j]);
        carry[half][j] = second[j];
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float c, d;
        high[2 * i + half] = pack2(first[2 * i], first[2 * i + 1]);
        unpack2(high[2 * i + half], c, d);
        low[2 * i + half] = pack2(first[2 * i] - c, first[2 * i + 1] - d);
      }
    }
    store_transposed(at + k * 2048, high);
    if (kPlanes == 2) store_transposed(at + kResultBytes + k * 2048, low);
  }
}

// The pooled rows of a chunk from shared to device memory, 16 bytes at a time.
__device__ __forceinline__ void write(u32 result, u32* y, const Item& item, int chunk, int block,
                                      const StemShape& s) {
  for (int i = threadIdx.x % 128; i < kPlanes * 4 * kColumns * 8; i += 128) {
    const int piece = i % 8, plane = i / 8 % kPlanes, column = i / 8 / kPlanes % kColumns;
    const int k = i / 8 / kPlanes / kColumns;
    const int px = item.strip * kColumns + column, py = chunk * 4 + k;
    if (px >= s.final_width || py >= s.final_height) continue;
    const size_t pixel = (size_t(item.image) * s.final_height + py) * s.final_width + px;
    const u32 from = result + plane * kResultBytes + k * 2048 + column * 128 +
                     ((piece ^ (column & 7)) << 4);
    uint4 v;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(from)
                 : "memory");
    reinterpret_cast<uint4*>(y)[((pixel * s.blocks + block) * kPlanes + plane) * 8 + piece] = v;
  }
}

// One warpgroup's place in an endless double buffer of staged chunks.
struct Turn {
  int buffer = 0;
  u32 phase = 0;
  __device__ void advance() {
    buffer ^= 1;
    phase ^= !buffer;
  }
};

extern "C" __global__ void __launch_bounds__(384, 1)
    stem_pool(const void* x, u32* y, const unsigned char* weights, const float* scale,
              const float* bias, const float* gain, const StemShape s) {
  extern __shared__ unsigned char memory[];
  // Images first: compute-sanitizer takes an operand that is read with overlap for twice its size.
  const u32 images = (shared_address(memory) + 1023) & ~1023u;  // two a multiplying warpgroup
  const u32 held = images + 4 * kPlanes * kImageBytes;          // weights
  const u32 results = held + kPlanes * kWeightBytes;            // one a multiplying warpgroup
  const u32 full = results + 2 * kPlanes * kResultBytes, empty = full + 32, ready = empty + 32;
  const int block = blockIdx.y;
  if (threadIdx.x == 0) {
    for (int i = 0; i < 4; ++i) barrier_init(full + 8 * i, 128), barrier_init(empty + 8 * i, 4);
    barrier_init(ready, 1);
    fence_barrier_init();
  }
  __syncthreads();
  start_next_kernel();
  wait_previous_kernel();

  const int group = threadIdx.x / 128;
  if (group == 2) {
    lower_registers<88>();
    if (threadIdx.x == 256) {
      barrier_expect(ready, kPlanes * kWeightBytes);
      load_bytes(held, weights + size_t(block) * kPlanes * kWeightBytes, kPlanes * kWeightBytes,
                 ready);
    }
    const float g = *gain;
    int index[2] = {int(blockIdx.x) * 2, int(blockIdx.x) * 2 + 1}, chunk[2] = {-1, -1};
    Item item[2];
    Turn turn[2];
    while (index[0] < s.items || index[1] < s.items) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (index[i] >= s.items) continue;
        if (chunk[i] < 0) item[i] = item_of(index[i], s), chunk[i] = item[i].from;
        const int slot = 2 * i + turn[i].buffer;
        barrier_wait(empty + 8 * slot, turn[i].phase ^ 1);
        stage(x, g, images + slot * kPlanes * kImageBytes, item[i], chunk[i], s);
        fence_async();
        barrier_arrive(full + 8 * slot);
        turn[i].advance();
        if (++chunk[i] == item[i].last) index[i] += 2 * gridDim.x, chunk[i] = -1;
      }
    }
  } else {
    raise_registers<208>();
    const int lane = threadIdx.x % 32, row = block * 64 + threadIdx.x / 32 % 4 * 16 + lane / 4;
    const Rows rows = {{scale[row], scale[row + 8]}, {bias[row], bias[row + 8]}};
    const u32 result = results + group * kPlanes * kResultBytes;
    Turn turn;
    barrier_wait(ready, 0);
    for (int index = blockIdx.x * 2 + group; index < s.items; index += 2 * gridDim.x) {
      const Item item = item_of(index, s);
      float carry[2][4];
#pragma unroll
      for (int i = 0; i < 8; ++i) carry[i / 4][i % 4] = kLowest;
      for (int chunk = item.from; chunk < item.last; ++chunk) {
        const int slot = 2 * group + turn.buffer;
        float acc[128];
        barrier_wait(full + 8 * slot, turn.phase);
        multiply(acc, images + slot * kPlanes * kImageBytes, held);
        if (lane == 0) barrier_arrive(empty + 8 * slot);
        turn.advance();
        sync_threads(1 + group, 128);  // the last chunk's result has been read
        pool(acc, result, rows, item, chunk, carry, s);
        sync_threads(1 + group, 128);
        if (chunk >= item.first) write(result, y, item, chunk, block, s);
      }
    }
  }
}
