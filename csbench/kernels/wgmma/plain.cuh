// Numbers of a plain tensor, one as torch has it. CS_PLAIN: 0 float, 1 fp16, 2 bf16.
#pragma once
#include "wgmma/common.cuh"

__device__ __forceinline__ float read_plain(const void* x, long long i) {
#if CS_PLAIN == 0
  return static_cast<const float*>(x)[i];
#elif CS_PLAIN == 1
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(static_cast<const u16*>(x)[i]));
  return f;
#else
  return __uint_as_float(u32(static_cast<const u16*>(x)[i]) << 16);
#endif
}

__device__ __forceinline__ void write_plain(void* x, long long i, float v) {
#if CS_PLAIN == 0
  static_cast<float*>(x)[i] = v;
#else
  u16 r;
#if CS_PLAIN == 1
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(v));
#else
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r) : "f"(v));
#endif
  static_cast<u16*>(x)[i] = r;
#endif
}
