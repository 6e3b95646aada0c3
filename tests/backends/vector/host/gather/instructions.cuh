// What gather/instructions.cuh offers, in C++.
#pragma once
#include "wgmma/common.cuh"

#ifdef GATHER_SWIZZLED
// The copy engine: a box of five dimensions, zero outside the tensor. It arrives some time later.
inline void load_box(u32 to, const TensorMap* map, const int (&corner)[5], u32 bar) {
  if (corner[0] % 8) fail("the copy engine starts at multiples of 16 bytes");
  if (to % 128) fail("the copy engine writes to multiples of 128 bytes");
  Block* block = machine->now->block;
  const int c[5] = {corner[0], corner[1], corner[2], corner[3], corner[4]};
  machine->engine.push_back([=] {
    int count[5], total = 1;
    for (int d = 0; d < 5; ++d) total *= count[d] = (map->box[d] - 1) / map->step[d] + 1;
    for (int i = 0; i < total; ++i) {
      long long from = 0;
      bool inside = true;
      for (int d = 0, rest = i; d < 5; rest /= count[d++]) {
        const int x = c[d] + rest % count[d] * map->step[d];
        inside &= x >= 0 && x < map->extent[d];
        from += x * (d ? map->stride[d - 1] : 2);
      }
      u32 at = to + 2 * i;
      if (map->swizzled) at ^= (at >> 7 & 7) << 4;
      u16 v = 0;
      if (inside) memcpy(&v, map->base + from, 2);
      memcpy(shared(*block, at, 2), &v, 2);
    }
    Barrier& b = block->barriers.at(bar);
    b.bytes -= 2 * total;
    settle(b);
  });
}
inline void load_columns(u32 to, const TensorMap* map, int x0, int x1, int x2, int x3, int channel,
                         u32 bar) {
#if GATHER_SWIZZLED
  load_box(to, map, {x0, x1, x2, x3, channel}, bar);
#else
  load_box(to, map, {x0, channel, x1, x2, x3}, bar);
#endif
}
#endif

// ---- cp.async: what was asked for arrives when it is waited for
inline void copy_async(u32 to, const void* from) {
  unsigned char* place = shared(to, 16);
  machine->now->copies.back().push_back([=] { memcpy(place, from, 16); });
}
inline void commit_async_copies() { machine->now->copies.emplace_back(); }
inline void wait_async_copies_but_one() {
  auto& groups = machine->now->copies;  // the last one is still open
  while (groups.size() > 2) {
    for (auto& copy : groups.front()) copy();
    groups.erase(groups.begin());
  }
}

template <class T> T read_shared(Block& block, u32 from) {
  T v;
  memcpy(&v, shared(block, from, sizeof v), sizeof v);
  return v;
}
inline uint4 load_four(u32 from) { return read_shared<uint4>(*machine->now->block, from); }
inline int4 load_ints(u32 from) { return read_shared<int4>(*machine->now->block, from); }
inline void store_ints(u32 to, int4 v) { memcpy(shared(to, 16), &v, 16); }
inline float4 load_floats(u32 from) { return read_shared<float4>(*machine->now->block, from); }
inline float4 load_remote(u32 from, u32 rank) {
  return read_shared<float4>(*machine->blocks.at(rank), from);
}
inline void store_four(u32 to, float4 v) { memcpy(shared(to, 16), &v, 16); }
inline float4 add(float4 a, float4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }

inline void cluster_arrive() {
  Meeting& m = machine->cluster;
  machine->now->cluster_token = m.generation;
  if (++m.arrived == int(machine->lanes.size())) m.arrived = 0, ++m.generation;
}
inline void cluster_wait() {
  wait_until([] { return machine->cluster.generation != machine->now->cluster_token; });
}

struct Product { float* sum; const u32* a; u32 b[2]; };
inline void multiply_tile(float (&sum)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  Product mine{sum, a, {b0, b1}};
  collective("mma", &mine, [](void** given) {
    float x[16][16], w[16][8];
    for (int lane = 0; lane < 32; ++lane) {
      const auto& one = *static_cast<Product*>(given[lane]);
      const int g = lane / 4, t = lane % 4;
      for (int i = 0; i < 4; ++i)
        unpack2(one.a[i], x[g + i % 2 * 8][2 * t + i / 2 * 8], x[g + i % 2 * 8][2 * t + 1 + i / 2 * 8]);
      for (int i = 0; i < 2; ++i) unpack2(one.b[i], w[2 * t + i * 8][g], w[2 * t + 1 + i * 8][g]);
    }
    for (int lane = 0; lane < 32; ++lane)
      for (int i = 0; i < 4; ++i) {
        double v = static_cast<Product*>(given[lane])->sum[i];
        for (int k = 0; k < 16; ++k)
          v += double(x[lane / 4 + i / 2 * 8][k]) * w[k][2 * (lane % 4) + i % 2];
        static_cast<Product*>(given[lane])->sum[i] = float(v);
      }
  });
}

inline float min_or_nan(float a, float b) { return a != a || b != b ? NAN : a < b ? a : b; }
inline float max_or_nan(float a, float b) { return a != a || b != b ? NAN : a < b ? b : a; }
