// Instructions that only latency/conv.cu uses, as one-line functions.
#pragma once
#include "instructions.cuh"
#include "wgmma/prefetch.cuh"

// ---- shared memory: what a lane has of words that all lanes read in turn
template <int N> __device__ __forceinline__ void load_words(u32 (&r)[N], u32 address) {
    const u32 lane = threadIdx.x & 31;
    if constexpr (N == 2) {
        asm volatile("ld.shared.v2.b32 {%0,%1}, [%2];" : "=r"(r[0]), "=r"(r[1])
                     : "r"(address + lane * 8) : "memory");
    } else {
#pragma unroll
        for (int i = 0; i < N; i += 4) {
            const int4 v = load_ints(address + i * 128 + lane * 16);
            r[i] = v.x, r[i + 1] = v.y, r[i + 2] = v.z, r[i + 3] = v.w;
        }
    }
}

// ---- barriers that other blocks of the cluster arrive at
__device__ __forceinline__ u32 four_barriers() {
    __shared__ __align__(8) u64 barriers[4];
    return shared_address(barriers);
}
__device__ __forceinline__ void barrier_await(u32 barrier, u32 phase) {
    asm volatile("{\n.reg .pred p;\nagain:\n"
                 "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%0], %1;\n"
                 "@!p bra again;\n}" ::"r"(barrier), "r"(phase) : "memory");
}
// Every block of the cluster has begun, once all have arrived.
__device__ __forceinline__ void cluster_arrive() {
    asm volatile("barrier.cluster.arrive.release;" ::: "memory");
}
__device__ __forceinline__ void cluster_await() {
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}
// Four sums to another block of the cluster, counted by its barrier.
__device__ __forceinline__ void send(u32 address, u32 barrier, u32 rank, float4 v) {
    u32 there, counter;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(counter) : "r"(barrier), "r"(rank));
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], "
                 "{%1,%2,%3,%4}, [%5];" ::"r"(there), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w),
                 "r"(counter) : "memory");
}

// ---- products; not volatile, so that the compiler places them
// c += a * b over 16 channels.
__device__ __forceinline__ void multiply_dense(float (&c)[4], const u32* a, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// c += a * b over the 32 channels of a step; `a` holds 16 kept columns, `meta` where they stand.
__device__ __forceinline__ void multiply_sparse(float (&c)[4], const u32 (&a)[4],
                                                const u32 (&b)[4], u32 meta) {
    asm("mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, "
        "{%4,%5,%6,%7}, {%8,%9,%10,%11}, {%0,%1,%2,%3}, %12, 0x0;"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]),
          "r"(meta));
}
// All ones in each half where the two (integers written as halves) are equal.
__device__ __forceinline__ u32 equal_mask(u32 a, u32 b) {
    u32 r;
    asm("set.eq.u32.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
}
