// wgmma with A from registers, where its rows may come from anywhere.
#pragma once
#include "wgmma/common.cuh"

// The same number, which the compiler keeps in a register instead of computing it again.
__device__ __forceinline__ u32 held(u32 v) {
  asm volatile("" : "+r"(v));
  return v;
}

// d += a * b: 64 columns x 32 output channels, 16 deep. Each warp holds 16 rows of A and of D as
// mma.m16n8k16 does; B is K-major in shared memory (plain_operand), the same for all four warps.
// d and a belong to the tensor core until wgmma_wait().
__device__ __forceinline__ void wgmma_rows(float (&d)[4][4], const u32 (&a)[4], u64 b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n32k16." CS_TYPES
               "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, {%16,%17,%18,%19}, %20, "
               "1, 1, 1, 0;"
               : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]),
                 "+f"(d[1][1]), "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]),
                 "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]),
                 "+f"(d[3][3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
