// What block/instructions.cuh offers, in C++. The machine is that of backends/vector/host.
#pragma once
#include "device.h"

#ifndef CUTE_HOST_DEVICE  // CuTe brings CUDA's own types
struct int2 { int x, y; };
#endif

// At a multiple of 1024, as on a device; host.py asks for as much more than the kernel does.
inline unsigned char* aligned(Block& block) {
  unsigned char* begin = block.memory.data();
  return begin + -reinterpret_cast<size_t>(begin) % 1024;
}
inline unsigned char* dynamic_shared_memory() { return aligned(*machine->now->block); }
inline u32 shared_address(const void* p) {
  return kSharedBase + u32(static_cast<const unsigned char*>(p) - machine->now->block->memory.data());
}

// ---- copies arrive when they are waited for, and not before
inline void copy_piece(u32 to, const void* from, bool exists) {
  unsigned char* place = shared(to, 16);
  if (exists && reinterpret_cast<size_t>(from) % 16) fail("a copy is not aligned");
  machine->now->copies.back().push_back([=] {
    if (exists)
      memcpy(place, from, 16);
    else
      memset(place, 0, 16);
  });
}
inline void close_stage() { machine->now->copies.emplace_back(); }
template <int Pending> void await_stage() {
  auto& groups = machine->now->copies;  // the last one is still open
  for (; groups.size() > Pending + 1; groups.erase(groups.begin()))
    for (auto& copy : groups.front()) copy();
}
inline void prefetch_line(const void*) {}
inline void sync_threads(int id, int count) { meet(machine->now->block->named[id], count); }
inline void let_successor_start() {}
inline void await_predecessor() {}

// ---- clusters
inline int cluster_size() { return int(machine->blocks.size()); }
inline int cluster_rank() { return machine->now->block->number % cluster_size(); }
inline void cluster_sync() { meet(machine->cluster, int(machine->lanes.size())); }
inline float4 load_from(const float* p, int rank) {
  const auto offset = reinterpret_cast<const unsigned char*>(p) - dynamic_shared_memory();
  float4 v;
  memcpy(&v, aligned(*machine->blocks.at(rank)) + offset, sizeof v);
  return v;
}

// ---- numbers
inline float widen_half(u16 v) {
#if PRECISION == 2
  _Float16 h;
  memcpy(&h, &v, 2);
  return float(h);
#else
  return __uint_as_float(u32(v) << 16);
#endif
}
inline u16 narrow_half(float f) {
#if PRECISION == 2
  const _Float16 h = _Float16(f);
  u16 v;
  memcpy(&v, &h, 2);
  return v;
#else
  u32 bits;
  memcpy(&bits, &f, 4);
  return f != f ? u16(bits >> 16) | 0x40 : u16((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
#endif
}
inline float min_or_nan(float a, float b) { return a != a || b != b ? NAN : a < b ? a : b; }
inline float max_or_nan(float a, float b) { return a != a || b != b ? NAN : a < b ? b : a; }

#if PRECISION > 0
// ---- matrices: rows of 16 bytes, one number or two to a register
constexpr int kPacked = PRECISION == 1 ? 1 : 2, kDeep = 8 * kPacked;

struct Matrices { u32* r; u32 address; };
inline void load_matrices(u32 (&r)[4], u32 from) {
  Matrices mine{r, from};
  collective("ldmatrix", &mine, [](void** given) {
    for (int lane = 0; lane < 32; ++lane)
      for (int i = 0; i < 4; ++i) {
        const u32 line = static_cast<Matrices*>(given[8 * i + lane / 4])->address;
        memcpy(static_cast<Matrices*>(given[lane])->r + i, shared(line, 16) + 4 * (lane % 4), 4);
      }
  });
}
inline float number(u32 word, int i) {
  return PRECISION == 1 ? __uint_as_float(word & ~0x1fffu) : widen_half(u16(word >> 16 * i));
}
struct Product { float* d; const u32* a; u32 b[2]; };
inline void matrix_product(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  Product mine{d, a, {b0, b1}};
  collective("mma", &mine, [](void** given) {
    float x[16][kDeep], w[kDeep][8];
    for (int lane = 0; lane < 32; ++lane) {
      const auto& one = *static_cast<Product*>(given[lane]);
      for (int k = 0; k < kPacked; ++k) {
        const int deep = kPacked * (lane % 4) + k;
        for (int i = 0; i < 4; ++i)
          x[lane / 4 + i % 2 * 8][deep + i / 2 * kDeep / 2] = number(one.a[i], k);
        for (int i = 0; i < 2; ++i) w[deep + i * kDeep / 2][lane / 4] = number(one.b[i], k);
      }
    }
    for (int lane = 0; lane < 32; ++lane)
      for (int i = 0; i < 4; ++i) {
        double v = static_cast<Product*>(given[lane])->d[i];
        for (int k = 0; k < kDeep; ++k)
          v += double(x[lane / 4 + i / 2 * 8][k]) * w[k][2 * (lane % 4) + i % 2];
        static_cast<Product*>(given[lane])->d[i] = float(v);
      }
  });
}
#endif
