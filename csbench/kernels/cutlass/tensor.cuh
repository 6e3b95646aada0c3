// Products on tensor cores by wgmma: tf32, fp16 or bf16 operands from shared memory, fp32 sums. A
// warpgroup (four warps) holds 64 pixels x ROWS, or several times that.
#pragma once

#if PRECISION == 1
using Input = cutlass::tfloat32_t;
#elif PRECISION == 2
using Input = cutlass::half_t;
#else
using Input = cutlass::bfloat16_t;
#endif

constexpr int kRowBytes = DEPTH * int(sizeof(Input));  // of a step: what the copy engine swizzles
static_assert(kRowBytes == 32 || kRowBytes == 64 || kRowBytes == 128, "a swizzle's row");
using Swizzled = cute::conditional_t<
    kRowBytes == 128, GMMA::Layout_K_SW128_Atom<Input>,
    cute::conditional_t<kRowBytes == 64, GMMA::Layout_K_SW64_Atom<Input>,
                        GMMA::Layout_K_SW32_Atom<Input>>>;

using Mma = decltype(make_tiled_mma(
    GMMA::ss_op_selector<Input, Input, float, Shape<_64, Int<ROWS>, Int<DEPTH>>>(),
    Layout<Shape<Int<WARPS / 4>, _1, _1>>{}));
static_assert(WARPS % 4 == 0 && PIXELS % (16 * WARPS) == 0, "warpgroups cover the tile");

struct Products {
  static constexpr bool kAsynchronous = true;  // multiply() leaves the step's products running
  static constexpr bool kEarly = true;         // the residual waits in registers
  static constexpr int kPad = 8;               // a warp stores 8 bytes of 8 pixels x 4 columns

  using Sums = decltype(partition_fragment_C(Mma{}, Shape<Int<PIXELS>, Int<ROWS>>{}));
  using Slice = decltype(Mma{}.get_slice(0));

  Slice slice;
  Sums sums;

  __device__ __forceinline__ explicit Products(int thread) : slice(Mma{}.get_slice(thread)) {
    clear(sums);
  }

  // One operand of a step: [kLines][DEPTH], swizzled.
  template <int kLines>
  static __device__ __forceinline__ auto operand(const void* at) {
    return make_tensor(make_smem_ptr(static_cast<const Input*>(at)),
                       tile_to_shape(Swizzled{}, Shape<Int<kLines>, Int<DEPTH>>{}));
  }

  // `between` is called when all products of earlier steps are done.
  template <class Between>
  __device__ __forceinline__ void multiply(const void* pixels, const void* weights,
                                           const Between& between) {
    Tensor a = slice.make_fragment_A(slice.partition_A(operand<PIXELS>(pixels)));
    Tensor b = slice.make_fragment_B(slice.partition_B(operand<ROWS>(weights)));
    warpgroup_fence_operand(sums);
    warpgroup_arrive();
    gemm(Mma{}, a, b, sums);
    warpgroup_commit_batch();
    warpgroup_wait<1>();
    warpgroup_fence_operand(sums);
    between();
  }

  __device__ __forceinline__ void finish(float* bias) {
    warpgroup_wait<0>();
    warpgroup_fence_operand(sums);
    add(sums, slice.partition_C(tile_in_shared<0>(bias)));
  }

  __device__ __forceinline__ void store(float* partial) const {
    copy(sums, slice.partition_C(tile_in_shared<ROWS + kPad>(partial)));
  }
};
