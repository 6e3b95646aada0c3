// What the kernels at both ends of a network share: copies counted by a barrier, and planes.

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;

constexpr int PLANES = SPLIT ? 2 : 1;

__device__ __forceinline__ u32 shared_address(const void* p) {
    return (u32)__cvta_generic_to_shared(p);
}
// By one thread: `bytes` from global to shared memory, counted by a new barrier.
__device__ __forceinline__ void fetch(u32 to, const void* from, u32 bytes, u32 barrier) {
    asm volatile("mbarrier.init.shared.b64 [%0], 1;\nfence.mbarrier_init.release.cluster;\n"
                 "fence.proxy.async.shared::cta;\n"
                 "mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1], %2, [%3];" ::"r"(to), "l"(from), "r"(bytes), "r"(barrier)
                 : "memory");
}
__device__ __forceinline__ void fetched(u32 barrier) {
    asm volatile("{\n.reg .pred p;\nagain:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], 0;\n"
                 "@!p bra again;\n}" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ float to_float(u32 half) {
    float v;
    asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"((u16)half));
    return v;
}
__device__ __forceinline__ u16 to_half(float v) {
    u16 half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(v));
    return half;
}
__device__ __forceinline__ float4 load4(const u16* from, long long plane) {
    const uint2 hi = *(const uint2*)from;
    const uint2 lo = SPLIT ? *(const uint2*)(from + plane) : make_uint2(0, 0);
    return make_float4(to_float(hi.x) + to_float(lo.x), to_float(hi.x >> 16) + to_float(lo.x >> 16),
                       to_float(hi.y) + to_float(lo.y), to_float(hi.y >> 16) + to_float(lo.y >> 16));
}
__device__ __forceinline__ void store4(u16* to, long long plane, const float (&v)[4]) {
    u32 hi[2] = {}, lo[2] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const u16 half = to_half(v[i]);
        hi[i / 2] |= (u32)half << 16 * (i & 1);
        lo[i / 2] |= (u32)to_half(v[i] - to_float(half)) << 16 * (i & 1);
    }
    *(uint2*)to = make_uint2(hi[0], hi[1]);
    if (SPLIT) *(uint2*)(to + plane) = make_uint2(lo[0], lo[1]);
}
