// What wgmma/common.cuh offers to the gather kernels, in C++.
#pragma once
#include "device.h"

struct alignas(64) TensorMap {  // as FakeDriver of host.py writes it
  const unsigned char* base;
  long long stride[4];  // bytes, of the dimensions after the first
  int extent[5];
  u16 box[5];
  unsigned char step[5], swizzled;
};

inline u32 shared_address(const void* p) { return __cvta_generic_to_shared(p); }

inline Barrier& barrier(u32 bar) { return machine->now->block->barriers.at(bar); }
inline void barrier_init(u32 bar, u32 count) {
  machine->now->block->barriers[bar] = {int(count), int(count), 0, 0};
}
inline void barrier_expect(u32 bar, u32 bytes) {
  Barrier& b = barrier(bar);
  b.bytes += bytes;
  if (--b.pending < 0) fail("too many arrivals");
  settle(b);
}
inline void barrier_arrive(u32 bar) {
  if (--barrier(bar).pending < 0) fail("too many arrivals");
  settle(barrier(bar));
}
inline void barrier_wait(u32 bar, u32 phase) {
  wait_until([&] { return (barrier(bar).phase & 1) != int(phase); });
}
inline void fence_barrier_init() {}
inline void sync_threads(int id, int count) { meet(machine->now->block->named[id], count); }
inline void start_next_kernel() {}
inline void wait_previous_kernel() {}

// ---- 8x8 matrices of 16-bit numbers between registers and shared memory, transposed
struct Matrices { u32* r; u32 address; };
inline u16& element(u32 address, int column) {
  return reinterpret_cast<u16*>(shared(address, 16))[column];
}
inline void load_transposed(u32 (&r)[4], u32 from) {
  Matrices mine{r, from};
  collective("ldmatrix", &mine, [](void** given) {
    for (int lane = 0; lane < 32; ++lane)
      for (int i = 0; i < 4; ++i)
        for (int k = 0; k < 2; ++k) {
          const int row = 8 * i + 2 * (lane % 4) + k;
          const u32 v = element(static_cast<Matrices*>(given[row])->address, lane / 4);
          u32& to = static_cast<Matrices*>(given[lane])->r[i];
          to = k ? (to & 0xffff) | v << 16 : v;
        }
  });
}
inline void store_transposed(u32 to, const u32 (&r)[4]) {
  Matrices mine{const_cast<u32*>(r), to};
  collective("stmatrix", &mine, [](void** given) {
    for (int lane = 0; lane < 32; ++lane)
      for (int i = 0; i < 4; ++i)
        for (int k = 0; k < 2; ++k) {
          const int row = 8 * i + 2 * (lane % 4) + k;
          element(static_cast<Matrices*>(given[row])->address, lane / 4) =
              u16(static_cast<Matrices*>(given[lane])->r[i] >> 16 * k);
        }
  });
}

// ---- numbers
inline float half_to_float(u16 bits) {
  _Float16 h;
  memcpy(&h, &bits, 2);
  return float(h);
}
inline u16 float_to_half(float v) {
  const _Float16 h = _Float16(v);
  u16 bits;
  memcpy(&bits, &h, 2);
  return bits;
}
inline u16 float_to_bfloat(float v) {
  u32 bits;
  memcpy(&bits, &v, 4);
  return v != v ? u16(bits >> 16 | 0x40) : u16((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
#if CS_BF16
inline float half_value(u16 bits) { return __uint_as_float(u32(bits) << 16); }
inline u16 half_bits(float v) { return float_to_bfloat(v); }
#else
inline float half_value(u16 bits) { return half_to_float(bits); }
inline u16 half_bits(float v) { return float_to_half(v); }
#endif
inline u32 pack2(float low, float high) { return half_bits(low) | u32(half_bits(high)) << 16; }
inline void unpack2(u32 v, float& low, float& high) {
  low = half_value(u16(v)), high = half_value(u16(v >> 16));
}
inline float relu(float v) { return v < 0.f ? 0.f : v; }
