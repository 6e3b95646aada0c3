// wgmma with A from registers. Products happen when they are waited for: what changed until then shows.
#pragma once
#include "wgmma/common.cuh"

template <int> void lower_registers() {}
template <int> void raise_registers() {}
inline u32 held(u32 v) { return v; }
using u64 = unsigned long long;
inline void wgmma_fence() { __syncwarp(); }
inline void wgmma_commit() { __syncwarp(); }
inline u64 plain_operand(u32 address, u32 along_k, u32 along_rows) {
  return u64(along_rows) << 48 | u64(along_k) << 32 | address;
}

struct RowsProduct { float (*d)[4]; const u32* a; u64 b; };  // registers are read when it happens
inline void wgmma_rows(float (&d)[4][4], const u32 (&a)[4], u64 b) {
  Lane& lane = *machine->now;
  const auto [known, first] = lane.block->operands.try_emplace({lane.thread / 128, lane.products++}, b);
  if (!first && known->second != b) fail("four warps multiply by different weights");
  lane.pending.push_back([mine = RowsProduct{d, a, b}]() mutable {
    collective("wgmma", &mine, [](void** given) {
      const u64 b = static_cast<RowsProduct*>(given[0])->b;
      const auto weight = [&](int n, int k) {
        const u32 at = u32(b) + n / 8 * u32(b >> 48) + k / 8 * u32(b >> 32 & 0xffff) + n % 8 * 16;
        return widened<kPairs>(element(at, k % 8));
      };
      float x[16][16];
      for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < 4; ++i)
          for (int k = 0; k < 2; ++k)
            x[lane / 4 + i % 2 * 8][2 * (lane % 4) + k + i / 2 * 8] =
                widened<kPairs>(u16(static_cast<RowsProduct*>(given[lane])->a[i] >> 16 * k));
      for (int lane = 0; lane < 32; ++lane)
        for (int n = 0; n < 4; ++n)
          for (int i = 0; i < 4; ++i) {
            float& d = static_cast<RowsProduct*>(given[lane])->d[n][i];
            double v = d;
            for (int k = 0; k < 16; ++k)
              v += double(x[lane / 4 + i / 2 * 8][k]) * weight(8 * n + 2 * (lane % 4) + i % 2, k);
            d = float(v);
          }
    });
  });
}
template <int kPending> void wgmma_wait() {
  static_assert(kPending == 0, "no kernel leaves some on their way");
  for (auto& product : std::exchange(machine->now->pending, {})) product();
}
