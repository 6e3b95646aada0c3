// What is asked for before it is needed: how the copy engine sees a tensor, and bytes into L2.
#pragma once
#include "wgmma/common.cuh"

__device__ __forceinline__ void prefetch_map(const TensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
// A multiple of 16 bytes from an address that is one.
__device__ __forceinline__ void prefetch_bytes(const void* from, u32 bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
}
