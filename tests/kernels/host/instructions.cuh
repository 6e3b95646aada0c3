// What kernels/instructions.cuh offers, in C++.
#pragma once
#include "engine.h"

// ---- shared memory
inline unsigned char* dynamic_shared_memory() { return machine->now->block->memory.at.get(); }
inline u32 address_in_shared(const void* p) { return address_of(p); }
template <class T> T read_shared(Block& block, u32 from) {
  T v;
  memcpy(&v, shared(block, from, sizeof v), sizeof v);
  return v;
}
inline int4 load_ints(u32 from) { return read_shared<int4>(*machine->now->block, from); }
inline u32 load_short(u32 from) { return read_shared<u16>(*machine->now->block, from); }
inline void store_ints(u32 to, int4 v) { memcpy(shared(to, 16), &v, 16); }
inline float4 load_floats(u32 from) { return read_shared<float4>(*machine->now->block, from); }
inline void store_floats(u32 to, float4 v) { memcpy(shared(to, 16), &v, 16); }

// ---- copies arrive when they are waited for, if not before
template <int kBytes, bool kThroughL1 = kBytes == 4>
void copy_async(u32 to, const void* from, bool exists = true) {
  unsigned char* place = shared(to, kBytes);
  if (reinterpret_cast<size_t>(from) % kBytes) fail("a copy is not aligned");
  machine->now->copies.back().push_back([=] {
    if (exists) memcpy(place, from, kBytes);
    else memset(place, 0, kBytes);
  });
  let_some_arrive(*machine->now);
}
template <int kBytes> void copy_async(void* to, const void* from, bool exists = true) {
  copy_async<kBytes>(address_of(to), from, exists);
}
inline void close_copies() { machine->now->copies.emplace_back(); }
template <int kPending> void await_copies() {
  auto& groups = machine->now->copies;  // the last one is still open
  for (; groups.size() > kPending + 1; groups.erase(groups.begin()))
    for (auto& copy : groups.front()) copy();
}
inline void prefetch_line(const void*) {}
inline void load_box(u32 to, const void* map, int x0, int x1, int x2, int x3, int x4, u32 bar) {
  copy_box(to, static_cast<const TensorMap*>(map), {x0, x1, x2, x3, x4}, bar);
}

inline void sync_warps(int barrier, int threads) {
  if (barrier < 0 || barrier > 15 || threads % 32) fail("there is no such barrier");
  meet(machine->now->block->named[barrier], threads);
}

// ---- the kernel before
inline void let_successor_start() {}
inline void await_predecessor() {
  if (machine->predecessor) ++machine->progress, yield();  // all lanes go on until they wait, too
  if (machine->predecessor) std::exchange(machine->predecessor, nullptr)();
}

// ---- clusters
inline int cluster_size() { return int(machine->blocks.size()); }
inline int cluster_rank() { return machine->now->block->number % cluster_size(); }
inline void cluster_sync() { meet(machine->cluster, int(machine->lanes.size())); }
inline float4 load_remote(u32 from, int rank) {
  return read_shared<float4>(*machine->blocks.at(rank), from);
}

// ---- numbers
inline float min_or_nan(float a, float b) { return a != a || b != b ? NAN : a < b ? a : b; }
inline float max_or_nan(float a, float b) { return a != a || b != b ? NAN : a < b ? b : a; }

enum class Numbers { fp16, bf16, tf32 };
// By a table: a conversion is a call on most CPUs.
inline float number_of_half(u16 v) {
  static float known[1 << 16];
  if (known[1] == 0)
    for (u32 i = 0; i < 1 << 16; ++i) {
      _Float16 h;
      memcpy(&h, &i, 2);
      known[i] = float(h);
    }
  return known[v];
}
template <Numbers kNumbers> float widened(u16 v) {
  if (kNumbers == Numbers::bf16) return __uint_as_float(u32(v) << 16);
  return number_of_half(v);
}
template <Numbers kNumbers> u16 narrowed(float f) {
  if (kNumbers == Numbers::bf16) {
    u32 bits;
    memcpy(&bits, &f, 4);
    return f != f ? u16(bits >> 16 | 0x40) : u16((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
  const _Float16 h = _Float16(f);
  u16 v;
  memcpy(&v, &h, 2);
  return v;
}
template <Numbers kNumbers> float2 widened_pair(u32 v) {
  return {widened<kNumbers>(u16(v)), widened<kNumbers>(u16(v >> 16))};
}
template <Numbers kNumbers> u32 narrowed_pair(float low, float high) {
  return narrowed<kNumbers>(low) | u32(narrowed<kNumbers>(high)) << 16;
}

// ---- matrices: rows of 16 bytes
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

struct Product { float* d; const u32* a; u32 b[2]; };
template <Numbers kNumbers>
void multiply_matrices(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  Product mine{d, a, {b0, b1}};
  collective("mma", &mine, [](void** given) {
    constexpr int kPacked = kNumbers == Numbers::tf32 ? 1 : 2, kDeep = 8 * kPacked;
    const auto number = [](u32 word, int i) {
      return kNumbers == Numbers::tf32 ? __uint_as_float(word & ~0x1fffu)
                                       : widened<kNumbers>(u16(word >> 16 * i));
    };
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
