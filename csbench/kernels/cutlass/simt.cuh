// Products on CUDA cores in fp32. A lane holds 16 rows x kLanePixels pixels; two lanes of a warp
// stand along the rows and 16 along the pixels, so that a weight reaches a warp as a broadcast of
// two addresses.
#pragma once

constexpr int kRowLanes = ROWS < 32 ? 1 : 2, kPixelLanes = 32 / kRowLanes;
constexpr int kRowWarps = ROWS < 32 ? 1 : ROWS / 32, kPixelWarps = WARPS / kRowWarps;
constexpr int kAcross = kPixelLanes * kPixelWarps;  // pixels between two of a lane
constexpr int kLanePixels = PIXELS / kAcross;
constexpr int kChunks = DEPTH / 4;  // 16-byte pieces of a pixel's step
constexpr int kPlaceRows = 32;      // of a swizzled line of a tile's place in shared memory
static_assert(WARPS % kRowWarps == 0 && PIXELS % (2 * kAcross) == 0, "warps cover the tile");

using Mma = TiledMMA<
    MMA_Atom<UniversalFMA<float>>,
    Layout<Shape<Shape<Int<kPixelLanes>, Int<kPixelWarps>>,
                 Shape<Int<kRowLanes>, Int<kRowWarps>>, _1>,
           Stride<Stride<_1, _32>, Stride<Int<kPixelLanes>, Int<32 * kPixelWarps>>, _0>>,
    Tile<Int<kAcross>, Layout<Shape<Int<kRowLanes * kRowWarps>, _4>, Stride<_4, _1>>, _1>>;

struct Products {
  static constexpr bool kAsynchronous = false;  // multiply() returns when it is done
  static constexpr bool kEarly = false;         // no registers are left for the residual
  static constexpr int kPad = 4;                // a warp stores 16 bytes of 16 pixels at a time

  using Sums = decltype(partition_fragment_C(Mma{}, Shape<Int<PIXELS>, Int<ROWS>>{}));
  using Slice = decltype(Mma{}.get_slice(0));

  Slice slice;
  Sums sums;
  int pixel, phase;  // this lane's first pixel, and how the copy engine swizzled its pieces

  __device__ __forceinline__ explicit Products(int thread)
      : slice(Mma{}.get_slice(thread)),
        pixel(thread % kPixelLanes + thread / 32 % kPixelWarps * kPixelLanes),
        phase(pixel * kChunks / 8 % kChunks) {
    clear(sums);
  }

  // pixels: [PIXELS][DEPTH], swizzled; weights: [DEPTH][ROWS]. Loads stand before their use: the
  // weights of the next channel before the products of this one, a pixel's next four channels right
  // after its last product. `between` is called when the step is half done.
  template <class Between>
  __device__ __forceinline__ void multiply(const void* pixels, const void* weights,
                                           const Between& between) {
    const auto* mine = static_cast<const uint128_t*>(pixels) + pixel * kChunks;
    Tensor w = slice.partition_B(
        make_tensor(make_smem_ptr(static_cast<const float*>(weights)),
                    Layout<Shape<Int<ROWS>, Int<DEPTH>>, Stride<_1, Int<ROWS>>>{}));
    Tensor a = make_tensor<float>(Layout<Shape<Int<kLanePixels>, _4>, Stride<_4, _1>>{});
    Tensor pieces = recast<uint128_t>(a);
    Tensor b = make_tensor<float>(Shape<Int<size<1>(w)>, _2>{});
    const auto fetch = [&](int j, int chunk) {
      pieces(j, 0) = mine[j * kAcross * kChunks + (chunk ^ phase)];
    };
    CUTE_UNROLL
    for (int j = 0; j < kLanePixels; ++j) fetch(j, 0);
    copy(w(0, _, 0), b(_, 0));
    CUTE_UNROLL
    for (int k = 0; k < DEPTH; ++k) {
      if (k == DEPTH / 2) between();
      if (k + 1 < DEPTH) copy(w(0, _, k + 1), b(_, (k + 1) % 2));
      CUTE_UNROLL
      for (int j = 0; j < kLanePixels; ++j) {
        gemm(MMA_Atom<UniversalFMA<float>>{}, make_tensor(&a(j, k % 4), Shape<_1>{}), b(_, k % 2),
             sums(_, j, _));
        if (k % 4 == 3 && k + 1 < DEPTH) fetch(j, (k + 1) / 4);
      }
    }
  }

  __device__ __forceinline__ void finish(float* bias) {
    add(sums, slice.partition_C(tile_in_shared<0>(bias)));
  }

  // Straight from registers: two lanes write 32 neighbouring bytes, so no sector is half written.
  // The residuals of the next pixels are on their way while this one's is added.
  __device__ __forceinline__ void write(const Output& output, int first_pixel,
                                        int first_channel) const {
    constexpr int kPieces = decltype(size<2>(sums))::value / kPiece;
    constexpr int kAhead = kLanePixels < 4 ? kLanePixels : 4;
    Tensor at = slice.partition_C(make_identity_tensor(Shape<Int<PIXELS>, Int<ROWS>>{}));
    Piece more[kAhead][kPieces];
    const auto fetch = [&](int j) {
      CUTE_UNROLL
      for (int i = 0; i < kPieces; ++i)
        more[j % kAhead][i] = output.extra(first_pixel + get<0>(at(0, j, 4 * i)),
                                           first_channel + get<1>(at(0, j, 4 * i)));
    };
    CUTE_UNROLL
    for (int j = 0; j < kAhead; ++j) fetch(j);
    CUTE_UNROLL
    for (int j = 0; j < kLanePixels; ++j) {
      CUTE_UNROLL
      for (int i = 0; i < kPieces; ++i)
        output.write(first_pixel + get<0>(at(0, j, 4 * i)), first_channel + get<1>(at(0, j, 4 * i)),
                     {sums(0, j, 4 * i), sums(0, j, 4 * i + 1), sums(0, j, 4 * i + 2),
                      sums(0, j, 4 * i + 3)},
                     more[j % kAhead][i]);
      if (j + kAhead < kLanePixels) fetch(j + kAhead);
    }
  }

  __device__ __forceinline__ void start(float* bias) {
    copy(slice.partition_C(tile_in_shared<0>(bias)), sums);
  }

  // To a place that the copy engine reads, [ROWS / 32][PIXELS][32] and swizzled, over the residuals
  // there. Those of a pixel are read together, before its results hide them from the compiler.
  __device__ __forceinline__ void leave(unsigned char* place, bool has_residual,
                                        const Output& output) const {
    constexpr int kPieces = decltype(size<2>(sums))::value / kPiece;
    Tensor at = slice.partition_C(make_identity_tensor(Shape<Int<PIXELS>, Int<ROWS>>{}));
    CUTE_UNROLL
    for (int j = 0; j < kLanePixels; ++j) {
      PieceSums* to[kPieces];
      PieceSums piece[kPieces];
      CUTE_UNROLL
      for (int i = 0; i < kPieces; ++i) {
        const int line = get<0>(at(0, j, 4 * i)), row = get<1>(at(0, j, 4 * i));
        const int box = row / kPlaceRows, chunk = row % kPlaceRows / 4 ^ pixel % 8;
        to[i] = reinterpret_cast<PieceSums*>(place) + (box * PIXELS + line) * kPlaceRows / 4 + chunk;
        piece[i] = has_residual ? *to[i] : PieceSums{};
      }
      CUTE_UNROLL
      for (int i = 0; i < kPieces; ++i) {
        CUTE_UNROLL
        for (int e = 0; e < 4; ++e)
          piece[i].v[e] = output.activated(sums(0, j, 4 * i + e) + piece[i].v[e]);
        *to[i] = piece[i];
      }
    }
  }

  __device__ __forceinline__ void store(float* partial) const {
    copy(sums, slice.partition_C(tile_in_shared<ROWS + kPad>(partial)));
  }
};
