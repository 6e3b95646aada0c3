// The copy engine and its barriers, as CUTLASS wraps them. CUTLASS's waits do not tell the compiler
// that memory has changed; these do.
#pragma once

#include <cute/arch/copy_sm90_desc.hpp>
#include <cute/arch/copy_sm90_tma.hpp>
#include <cutlass/arch/barrier.h>

using TensorMap = cute::TmaDescriptor;

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
// As CUTLASS's wait, but when the awaited copies or readers have not come after 43 s something is
// wrong, and an error is better than no end. (By the clock: a try ends after 10 ms, under
// compute-sanitizer at once.) In one piece, so that ptxas sees no divergence between products.
__device__ __forceinline__ void barrier_wait(Barrier& b, uint32_t phase) {
  asm volatile(
      "{\n.reg .pred done, over;\n.reg .u32 begun, now;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1, %2;\n@done bra DONE;\n"
      "mov.u32 begun, %%globaltimer_hi;\n"  // of 4.3 s
      "AGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1, %2;\n@done bra DONE;\n"
      "mov.u32 now, %%globaltimer_hi;\nsub.u32 now, now, begun;\n"
      "setp.gt.u32 over, now, 10;\n@over trap;\nbra AGAIN;\n"
      "DONE:\n}" ::"r"(cute::cast_smem_ptr_to_uint(&b.word)),
      "r"(phase), "r"(10'000'000)
      : "memory");
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

// What threads wrote to shared memory is there for the copy engine; each calls this, then all meet.
__device__ __forceinline__ void fence_for_copy_engine() {
  asm volatile("" ::: "memory");
  cute::tma_store_fence();
}
// A box of lines of a matrix leaves shared memory; what lies outside of the matrix is not written.
__device__ __forceinline__ void store_lines(const TensorMap& map, int column, int line,
                                            const void* from) {
  cute::SM90_TMA_STORE_2D::copy(&map, from, column, line);
}
// By the thread that stores: these belong together; they have left shared memory; they are done.
__device__ __forceinline__ void commit_stores() { cute::tma_store_arrive(); }
__device__ __forceinline__ void await_stores_read() { cute::tma_store_wait<0>(); }
__device__ __forceinline__ void await_stores() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}
