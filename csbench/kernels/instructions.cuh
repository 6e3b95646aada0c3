// Instructions of the GPU as one-line functions, for the kernels of block/, csr/, cutlass/ and gather/.
// Before Hopper there are no clusters, and kernels do not overlap: blocks are alone in theirs, and
// waiting for the kernel before is nothing.
#pragma once

using u16 = unsigned short;
using u32 = unsigned int;

// ---- shared memory
__device__ __forceinline__ unsigned char* dynamic_shared_memory() {
  extern __shared__ __align__(1024) unsigned char memory[];
  return memory;
}
__device__ __forceinline__ u32 address_in_shared(const void* p) {
  return static_cast<u32>(__cvta_generic_to_shared(p));
}
__device__ __forceinline__ int4 load_ints(u32 from) {
  int4 v;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(from)
               : "memory");
  return v;
}
__device__ __forceinline__ u32 load_short(u32 from) {
  u32 v;
  asm volatile("ld.shared.u16 %0, [%1];" : "=r"(v) : "r"(from) : "memory");
  return v;
}
__device__ __forceinline__ void store_ints(u32 to, int4 v) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z),
               "r"(v.w)
               : "memory");
}
__device__ __forceinline__ float4 load_floats(u32 from) {
  float4 v;
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(from)
               : "memory");
  return v;
}
__device__ __forceinline__ void store_floats(u32 to, float4 v) {
  asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to), "f"(v.x), "f"(v.y), "f"(v.z),
               "f"(v.w)
               : "memory");
}

// ---- copies from global to shared memory that run while a thread goes on
// 4 or 16 bytes; zeros where they do not exist: then `from` is not read, and may be anything.
template <int kBytes, bool kThroughL1 = kBytes == 4>
__device__ __forceinline__ void copy_async(u32 to, const void* from, bool exists = true) {
  static_assert(kBytes == 4 || kBytes == 16, "other sizes are not needed");
  const int size = exists ? kBytes : 0;
  if constexpr (kThroughL1)
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(from), "n"(kBytes),
                 "r"(size)
                 : "memory");
  else
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(size)
                 : "memory");
}
template <int kBytes>
__device__ __forceinline__ void copy_async(void* to, const void* from, bool exists = true) {
  copy_async<kBytes>(address_in_shared(to), from, exists);
}
// What was copied since the last call becomes one group.
__device__ __forceinline__ void close_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// All groups but the last kPending.
template <int kPending>
__device__ __forceinline__ void await_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}
__device__ __forceinline__ void prefetch_line(const void* p) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}
// A box of a tensor of five dimensions, by the copy engine: `map` describes it, `barrier` counts its
// bytes (wgmma/common.cuh).
__device__ __forceinline__ void load_box(u32 to, const void* map, int x0, int x1, int x2, int x3,
                                         int x4, u32 barrier) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%2, %3, %4, %5, %6}], [%7];" ::"r"(to), "l"(map), "r"(x0), "r"(x1), "r"(x2),
      "r"(x3), "r"(x4), "r"(barrier)
      : "memory");
}

// ---- some warps of a block meet; barrier 0 is that of __syncthreads()
__device__ __forceinline__ void sync_warps(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// ---- programmatic dependent launch: what no other kernel writes may be read before the predecessor
// has ended, and nothing may be written
__device__ __forceinline__ void let_successor_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
__device__ __forceinline__ void await_predecessor() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// ---- the blocks of a cluster
__device__ __forceinline__ int cluster_rank() {
  int rank = 0;
#if __CUDA_ARCH__ >= 900
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
  return rank;
}
__device__ __forceinline__ int cluster_size() {
  int size = 1;
#if __CUDA_ARCH__ >= 900
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
#endif
  return size;
}
// All threads of all blocks.
__device__ __forceinline__ void cluster_sync() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
#endif
}
// The same address in the shared memory of another block.
__device__ __forceinline__ float4 load_remote(u32 from, int rank) {
#if __CUDA_ARCH__ >= 900
  float4 v;
  u32 there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(from), "r"(rank));
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(there)
               : "memory");
  return v;
#else
  return load_floats(from);
#endif
}

// ---- numbers
// The smaller and the larger of two numbers; NaN if one of them is.
__device__ __forceinline__ float min_or_nan(float a, float b) {
  float r;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}
__device__ __forceinline__ float max_or_nan(float a, float b) {
  float r;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}

enum class Numbers { fp16, bf16, tf32 };

template <Numbers kNumbers>
__device__ __forceinline__ float widened(u16 v) {
  if constexpr (kNumbers == Numbers::bf16) return __uint_as_float(static_cast<u32>(v) << 16);
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v));
  return f;
}
template <Numbers kNumbers>
__device__ __forceinline__ u16 narrowed(float f) {
  u16 v;
  if constexpr (kNumbers == Numbers::bf16)
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(v) : "f"(f));
  else
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(v) : "f"(f));
  return v;
}
// Two numbers in a word, the first in its lower half.
template <Numbers kNumbers>
__device__ __forceinline__ float2 widened_pair(u32 v) {
  if constexpr (kNumbers == Numbers::bf16)
    return {__uint_as_float(v << 16), __uint_as_float(v & 0xffff0000u)};
  float2 r;
  asm("{\n.reg .b16 a, b;\nmov.b32 {a, b}, %2;\ncvt.f32.f16 %0, a;\ncvt.f32.f16 %1, b;\n}"
      : "=f"(r.x), "=f"(r.y)
      : "r"(v));
  return r;
}
template <Numbers kNumbers>
__device__ __forceinline__ u32 narrowed_pair(float low, float high) {
  u32 r;
  if constexpr (kNumbers == Numbers::bf16)
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}

// ---- matrices on tensor cores
// Four of 8 rows x 16 bytes; lane i gives the address of row i % 8 of matrix i / 8.
__device__ __forceinline__ void load_matrices(u32 (&r)[4], u32 from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(from));
}
// d += a * b: 16 rows x 8 columns, 32 bytes deep: k8 in tf32, k16 in fp16 and bf16.
template <Numbers kNumbers>
__device__ __forceinline__ void multiply_matrices(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#define MULTIPLY(SHAPE)                                                                    \
  asm volatile("mma.sync.aligned." SHAPE                                                   \
               " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"          \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                            \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
  if constexpr (kNumbers == Numbers::tf32)
    MULTIPLY("m16n8k8.row.col.f32.tf32.tf32.f32");
  else if constexpr (kNumbers == Numbers::fp16)
    MULTIPLY("m16n8k16.row.col.f32.f16.f16.f32");
  else
    MULTIPLY("m16n8k16.row.col.f32.bf16.bf16.f32");
#undef MULTIPLY
}
