// The copy engine and its barriers, as CUTLASS wraps them. CUTLASS's waits do not tell the compiler
// that memory has changed; these do.
#pragma once

#include <cute/arch/copy_sm90_desc.hpp>
#include <cute/arch/copy_sm90_tma.hpp>
#include <cutlass/arch/barrier.h>

using TensorMap = cute::TmaDescriptor;

__device__ __forceinline__ uint64_t nanoseconds() {
  uint64_t now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}

struct Barrier {
  uint64_t word;
};

__device__ __forceinline__ void barrier_init(Barrier& b, int count) {
  cutlass::arch::ClusterBarrier::init(&b.word, count);
}
__device__ __forceinline__ void fence_barrier_init() { cutlass::arch::fence_barrier_init(); }
__device__ __forceinline__ void barrier_arrive(Barrier& b) {
  asm volatile("" ::: "memory");
  cutlass::arch::ClusterBarrier::arrive(&b.word);
}
// Arrive, and let the barrier wait for so many bytes as well.
__device__ __forceinline__ void barrier_expect(Barrier& b, int bytes) {
  cutlass::arch::ClusterTransactionBarrier::arrive_and_expect_tx(&b.word, bytes);
}
// Seconds without the awaited copies or readers mean a mistake: an error is better than no end.
__device__ __forceinline__ void barrier_wait(Barrier& b, uint32_t phase) {
  constexpr uint64_t kPatience = 4'000'000'000;  // ns
  if (!cutlass::arch::ClusterBarrier::try_wait(&b.word, phase)) {
    const uint64_t start = nanoseconds();
    while (!cutlass::arch::ClusterBarrier::try_wait(&b.word, phase))
      if (nanoseconds() - start > kPatience) __trap();
  }
  asm volatile("" ::: "memory");
}

__device__ __forceinline__ void prefetch_map(const TensorMap& map) {
  cute::prefetch_tma_descriptor(&map);
}
__device__ __forceinline__ void load_bytes(void* to, const void* from, int bytes, Barrier& b) {
  cute::SM90_BULK_COPY_G2S::copy(from, &b.word, to, bytes);
}
// A box of lines of a matrix.
__device__ __forceinline__ void load_lines(void* to, const TensorMap& map, int column, int line,
                                           Barrier& b) {
  cute::SM90_TMA_LOAD_2D::copy(&map, &b.word,
                               static_cast<uint64_t>(cute::TMA::CacheHintSm90::EVICT_NORMAL), to,
                               column, line);
}
// Consecutive output pixels from (w, h, n) on, seen through the kernel tap (across, down).
__device__ __forceinline__ void load_window(void* to, const TensorMap& map, int channel, int w,
                                            int h, int n, int across, int down, Barrier& b) {
  cute::SM90_TMA_LOAD_IM2COL_4D::copy(&map, &b.word, to, channel, w, h, n,
                                      static_cast<uint16_t>(across), static_cast<uint16_t>(down));
}
