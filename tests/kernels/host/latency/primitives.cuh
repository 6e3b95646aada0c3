// What latency/primitives.cuh offers, in C++.
#pragma once
#define CS_BF16 0
#include "instructions.cuh"
#include "wgmma/prefetch.cuh"

template <int N> void load_words(u32 (&r)[N], u32 address) {
  const u32 from = address + machine->now->thread % 32 * (N == 2 ? 8 : 16);
  for (int i = 0; i < N; ++i)
    r[i] = read_shared<u32>(*machine->now->block, from + i / 4 * 512 + i % 4 * 4);
}
inline u32 __byte_perm(u32 a, u32 b, u32 which) {
  const std::uint64_t bytes = std::uint64_t(b) << 32 | a;
  u32 r = 0;
  for (int i = 0; i < 4; ++i) r |= u32(bytes >> 8 * (which >> 4 * i & 7) & 255) << 8 * i;
  return r;
}

// ---- barriers are known by their addresses, and need no room of their own
inline u32 four_barriers() { return kSharedBase + (machine->now->block->memory.bytes & ~7u) - 32; }
inline void barrier_await(u32 bar, u32 phase) { barrier_wait(bar, phase); }
inline void cluster_arrive() { ++machine->cluster.arrived, ++machine->progress; }
inline void cluster_await() {
  wait_until([] { return machine->cluster.arrived == int(machine->lanes.size()); });
}
// They arrive later, and are counted there.
inline void send(u32 address, u32 bar, u32 rank, float4 v) {
  if (machine->cluster.arrived != int(machine->lanes.size())) fail("a block may not have begun");
  Block* there = machine->blocks.at(rank).get();
  by_engine([=] {
    memcpy(shared(*there, address, 16), &v, 16);
    Mbarrier& b = there->barriers.at(bar);
    b.bytes -= 16;
    settle(b);
  });
}

// ---- products
inline void multiply_dense(float (&c)[4], const u32* a, u32 b0, u32 b1) {
  multiply_matrices<Numbers::fp16>(c, reinterpret_cast<const u32(&)[4]>(*a), b0, b1);
}
struct SparseProduct { float* d; const u32 *a, *b; u32 meta; };
inline void multiply_sparse(float (&c)[4], const u32 (&a)[4], const u32 (&b)[4], u32 meta) {
  SparseProduct mine{c, a, b, meta};
  collective("mma.sp", &mine, [](void** given) {
    const auto of = [&](int lane) -> SparseProduct& { return *static_cast<SparseProduct*>(given[lane]); };
    const auto number = [](u32 word, int i) { return widened<Numbers::fp16>(u16(word >> 16 * i)); };
    float x[16][32] = {}, w[32][8];
    for (int lane = 0; lane < 32; ++lane)
      for (int i = 0; i < 4; ++i)
        for (int k = 0; k < 2; ++k) {
          // Of a row's lanes the first two say where the kept ones stand, of 16 columns each.
          const u32 word = of(lane / 4 * 4 + i / 2).meta;
          const u32 four = word >> (16 * (i % 2) + 4 * (lane % 4)) & 15;
          const int first = four & 3, second = four >> 2;
          if (first >= second) fail("metadata is not in order");
          x[lane / 4 + i % 2 * 8][16 * (i / 2) + 4 * (lane % 4) + (k ? second : first)] =
              number(of(lane).a[i], k);
          w[8 * i + 2 * (lane % 4) + k][lane / 4] = number(of(lane).b[i], k);
        }
    for (int lane = 0; lane < 32; ++lane)
      for (int i = 0; i < 4; ++i) {
        double v = of(lane).d[i];
        for (int k = 0; k < 32; ++k)
          v += double(x[lane / 4 + i / 2 * 8][k]) * w[k][2 * (lane % 4) + i % 2];
        of(lane).d[i] = float(v);
      }
  });
}
inline u32 equal_mask(u32 a, u32 b) {
  u32 r = 0;
  for (int i = 0; i < 2; ++i)
    if (widened<Numbers::fp16>(u16(a >> 16 * i)) == widened<Numbers::fp16>(u16(b >> 16 * i)))
      r |= 0xffffu << 16 * i;
  return r;
}
