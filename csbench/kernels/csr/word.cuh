// What both csr kernels share: words of activations, sums of products, the epilogue.
//
// A word is 4 bytes: one fp32 number, or two fp16 or bf16 numbers of neighbouring images at the same
// place. So every precision has the same addresses, and a shifted load never splits a word.
//
// KIND  0 fp32, 1 fp16, 2 bf16; sums are fp32 in all of them
#include "instructions.cuh"

#if KIND == 0
using Word = float;
using Sum = float;
__device__ __forceinline__ Word no_word() { return 0.0f; }
__device__ __forceinline__ Sum unpacked(Word x) { return x; }
__device__ __forceinline__ Word packed(Sum s) { return s; }
__device__ __forceinline__ void add_product(Sum& s, Sum x, float w) { s = fmaf(x, w, s); }
__device__ __forceinline__ void add(Sum& s, Sum other) { s += other; }
#else
constexpr Numbers kNumbers = KIND == 1 ? Numbers::fp16 : Numbers::bf16;
struct Word { u32 bits; };
struct Sum { float a, b; };
__device__ __forceinline__ Word no_word() { return {0}; }
__device__ __forceinline__ Sum unpacked(Word x) {
  const float2 v = widened_pair<kNumbers>(x.bits);
  return {v.x, v.y};
}
__device__ __forceinline__ Word packed(Sum s) { return {narrowed_pair<kNumbers>(s.a, s.b)}; }
__device__ __forceinline__ void add_product(Sum& s, Sum x, float w) {
  s.a = fmaf(x.a, w, s.a);
  s.b = fmaf(x.b, w, s.b);
}
__device__ __forceinline__ void add(Sum& s, Sum other) {
  s.a += other.a;
  s.b += other.b;
}
#endif

// ---- the epilogue: 0 nothing, 1 ReLU, 2 ReLU6; NaN stays NaN
__device__ __forceinline__ float activated(float v, int activation) {
  if (activation != 0) v = v < 0.0f ? 0.0f : v;
  return activation == 2 && v > 6.0f ? 6.0f : v;
}
__device__ __forceinline__ Word finished(Sum s, float bias, Word residual, int activation) {
  const Sum r = unpacked(residual);
#if KIND == 0
  return activated(s + bias + r, activation);
#else
  return packed({activated(s.a + bias + r.a, activation), activated(s.b + bias + r.b, activation)});
#endif
}
