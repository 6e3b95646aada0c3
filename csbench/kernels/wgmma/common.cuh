// Hopper's building blocks as one-line functions: barriers, bulk copies, matrix instructions.
// No header is included, so that NVRTC needs no include path.
#pragma once

using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;

struct alignas(64) TensorMap {
  char bytes[128];
};

__device__ __forceinline__ u32 shared_address(const void* p) {
  return static_cast<u32>(__cvta_generic_to_shared(p));
}

// ---- mbarriers: `phase` is the parity of the completion that is waited for
__device__ __forceinline__ void barrier_init(u32 bar, u32 count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count));
}
__device__ __forceinline__ void barrier_expect(u32 bar, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void barrier_arrive(u32 bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}
__device__ __forceinline__ void barrier_wait(u32 bar, u32 phase) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra finished;\n"
      "bra again;\n"
      "finished:\n}" ::"r"(bar), "r"(phase)
      : "memory");
}
__device__ __forceinline__ void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
// Ordinary stores to shared memory become visible to the copy engine.
__device__ __forceinline__ void fence_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void sync_threads(int id, int count) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(count) : "memory");
}

__device__ __forceinline__ u32 load_word(u32 from) {
  u32 word;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(word) : "r"(from) : "memory");
  return word;
}

__device__ __forceinline__ void store_pair(u32 to, u32 a, u32 b) {
  asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(to), "r"(a), "r"(b) : "memory");
}

// ---- programmatic dependent launch: the next kernel may be set up while this one runs
__device__ __forceinline__ void start_next_kernel() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}
__device__ __forceinline__ void wait_previous_kernel() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}

template <int kCount>
__device__ __forceinline__ void lower_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
__device__ __forceinline__ void raise_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}

// ---- bulk copies
__device__ __forceinline__ void load_bytes(u32 to, const void* from, u32 bytes, u32 bar) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(to), "l"(from), "r"(bytes), "r"(bar)
      : "memory");
}
__device__ __forceinline__ void load_tile(u32 to, const TensorMap* map, int c, int p, u32 bar) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%2, %3}], [%4];" ::"r"(to), "l"(map), "r"(c), "r"(p), "r"(bar)
      : "memory");
}
// A box of an image [N, H, W, C]; what lies outside the image arrives as zeros, and is not stored.
__device__ __forceinline__ void load_box(u32 to, const TensorMap* map, int c, int w, int h, int n,
                                         u32 bar) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(to), "l"(map), "r"(c), "r"(w), "r"(h), "r"(n),
      "r"(bar)
      : "memory");
}
__device__ __forceinline__ void store_box(const TensorMap* map, u32 from, int c, int w, int h,
                                          int n) {
  asm volatile(
      "cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%1, %2, %3, %4}], [%5];" ::"l"(
          map),
      "r"(c), "r"(w), "r"(h), "r"(n), "r"(from)
      : "memory");
}
// Consecutive output pixels from (w, h, n) on, seen through the kernel tap (s, r).
__device__ __forceinline__ void load_im2col(u32 to, const TensorMap* map, int c, int w, int h,
                                            int n, u16 s, u16 r, u32 bar) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%2, %3, %4, %5}], [%6], {%7, %8};" ::"r"(to), "l"(map), "r"(c), "r"(w), "r"(h),
      "r"(n), "r"(bar), "h"(s), "h"(r)
      : "memory");
}
__device__ __forceinline__ void store_tile(const TensorMap* map, u32 from, int c, int p) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map),
      "r"(c), "r"(p), "r"(from)
      : "memory");
}
__device__ __forceinline__ void commit_stores() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void wait_stores_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}
__device__ __forceinline__ void wait_stores() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

// ---- 8x8 matrices of 16-bit values, transposed between registers and shared memory
__device__ __forceinline__ void load_transposed(u32 (&r)[4], u32 from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(from)
               : "memory");
}
__device__ __forceinline__ void store_transposed(u32 to, const u32 (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to),
               "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}

// ---- two 16-bit numbers in a word, the first in the low half
#if CS_BF16
__device__ __forceinline__ u32 pack2(float low, float high) {
  u32 r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
__device__ __forceinline__ void unpack2(u32 v, float& low, float& high) {
  low = __uint_as_float(v << 16);
  high = __uint_as_float(v & 0xffff0000u);
}
#else
__device__ __forceinline__ u32 pack2(float low, float high) {
  u32 r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
__device__ __forceinline__ void unpack2(u32 v, float& low, float& high) {
  asm("{\n.reg .b16 a, b;\nmov.b32 {a, b}, %2;\ncvt.f32.f16 %0, a;\ncvt.f32.f16 %1, b;\n}"
      : "=f"(low), "=f"(high)
      : "r"(v));
}
#endif
// max(v, 0) that lets NaN through: an overflow must stay visible.
__device__ __forceinline__ float relu(float v) {
  float r;
  asm("max.NaN.f32 %0, %1, 0f00000000;" : "=f"(r) : "f"(v));
  return r;
}

// ---- wgmma
__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Descriptor of a K-major operand in rows of 128 bytes (swizzle 1) or 64 bytes (swizzle 2).
__device__ __forceinline__ u64 operand(u32 address, u32 row_bytes) {
  const u64 swizzle = row_bytes == 128 ? 1 : 2;
  return (swizzle << 62) | (u64(row_bytes * 8 >> 4) << 32) | (u64(1) << 16) |
         ((address & 0x3ffffu) >> 4);
}

// Descriptor of an unswizzled K-major operand: core matrices of 8 rows x 16 bytes, `along_k` and
// `along_rows` bytes apart. Core matrices may overlap.
__device__ __forceinline__ u64 plain_operand(u32 address, u32 along_k, u32 along_rows) {
  return (u64(along_rows >> 4) << 32) | (u64(along_k >> 4) << 16) | ((address & 0x3ffffu) >> 4);
}

#define CS_D8(i)                                                                              \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define CS_D16(i) CS_D8(i), CS_D8(i + 8)
#define CS_D32(i) CS_D8(i), CS_D8(i + 8), CS_D8(i + 16), CS_D8(i + 24)
#define CS_L0                                                                                    \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24," \
  "%25,%26,%27,%28,%29,%30,%31"
#define CS_L1                                                                                   \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53," \
  "%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define CS_L1H ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define CS_L2                                                                                   \
  ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85," \
  "%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define CS_L3                                                                                  \
  ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113," \
  "%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#if CS_BF16
#define CS_TYPES "f32.bf16.bf16 "
#else
#define CS_TYPES "f32.f16.f16 "
#endif

// A is 64 x K from shared memory (64 x K/2 when sparse), B is N x K from shared memory, both K-major.
#define CS_WGMMA(N, LIST, A, B, S, E, SEL, ...)                                                  \
  template <int kSelect>                                                                         \
  __device__ __forceinline__ void wgmma_sparse(float (&d)[N / 2], u64 a, u64 b, u32 meta, int s) { \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " S ", 0;\n"                                  \
                 "wgmma.mma_async.sp.sync.aligned.m64n" #N "k32." CS_TYPES "{" LIST "}, " A ", " B \
                 ", " E ", " SEL ", p, 1, 1, 0, 0;\n}"                                           \
                 : __VA_ARGS__                                                                   \
                 : "l"(a), "l"(b), "r"(s), "r"(meta), "n"(kSelect));                             \
  }                                                                                              \
  __device__ __forceinline__ void wgmma_dense(float (&d)[N / 2], u64 a, u64 b, int s) {          \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " S ", 0;\n"                                  \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16." CS_TYPES "{" LIST "}, " A ", " B  \
                 ", p, 1, 1, 0, 0;\n}"                                                           \
                 : __VA_ARGS__                                                                   \
                 : "l"(a), "l"(b), "r"(s));                                                      \
  }

CS_WGMMA(64, CS_L0, "%32", "%33", "%34", "%35", "%36", CS_D32(0))
CS_WGMMA(96, CS_L0 CS_L1H, "%48", "%49", "%50", "%51", "%52", CS_D32(0), CS_D16(32))
CS_WGMMA(128, CS_L0 CS_L1, "%64", "%65", "%66", "%67", "%68", CS_D32(0), CS_D32(32))
CS_WGMMA(192, CS_L0 CS_L1 CS_L2, "%96", "%97", "%98", "%99", "%100", CS_D32(0), CS_D32(32),
         CS_D32(64))
CS_WGMMA(256, CS_L0 CS_L1 CS_L2 CS_L3, "%128", "%129", "%130", "%131", "%132", CS_D32(0),
         CS_D32(32), CS_D32(64), CS_D32(96))
